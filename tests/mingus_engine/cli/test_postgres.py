"""From init to a restored server with the command line alone, on a real cluster."""

import json
import re
import signal
from pathlib import Path

import pytest

from mingus_engine.errors import TargetNotEmpty
from tests.mingus_engine.cli.support import Cli
from tests.support import directories
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until


@pytest.fixture
def ledger(workspace: Path, pg15: PgCluster) -> Cli:
    """Two repositories and the cluster in the settings, reached with a password."""
    cli = Cli(workspace)
    cli.environment |= {"POSTGRES_PASSWORD": pg15.password or ""}
    cli.secrets.append(pg15.password or "")
    cli.write_settings(f"""
state_directory: state
repositories:
  - {{name: primary, path: one}}
  - {{name: offsite, path: two}}
sources:
  - id: ledger
    connection: {{host: 127.0.0.1, port: {pg15.port}, sslmode: disable}}
    repository: primary
    ship_to: [offsite]
    predicates: [{{name: has roles, sql: "SELECT count(*) > 0 FROM pg_roles"}}]
    measurements: [{{name: databases, sql: "SELECT count(*) FROM pg_database"}}]
""")
    for name in ("primary", "offsite"):
        assert cli("init", name).code == 0
    return cli


def test_a_backup_is_taken_shipped_proven_and_restored(ledger: Cli, pg15: PgCluster) -> None:
    check = ledger("check", "ledger")
    assert check.code == 0, check.text + check.err
    assert re.search(r"source ledger +WAL round trip +ok", check.text)

    backup = ledger("backup", "ledger", "--json").document
    assert backup["bytes_read"] > backup["bytes_stored"] > 0

    ship = ledger("ship", "ledger", "--json").document
    assert [(hop["origin"], hop["destination"]) for hop in ship["hops"]] == [("primary", "offsite")]
    assert re.search(r"primary +offsite +0 +1 +0", ledger("ship", "ledger").text)

    verify = ledger("verify", "ledger", timeout_s=250)
    assert verify.code == 0, verify.text + verify.err
    assert re.search(r"^result +proven$", verify.text, re.MULTILINE)
    assert re.search(r"^repository +offsite$", verify.text, re.MULTILINE)
    assert re.search(r"^RTO +\d", verify.text, re.MULTILINE)
    assert re.search(r"invariant has roles +ok +must be true", verify.text)
    assert re.search(r"invariant databases +ok +(exactly|within tolerance)", verify.text)
    (snapshot,) = ledger("list", "--json").document["snapshots"]
    assert [(c["repository"], (c["proof"] or {}).get("level")) for c in snapshot["copies"]] == [
        ("primary", None), ("offsite", "L4"),
    ]  # fmt: skip

    label = ledger("cat", backup["snapshot"], "backup_label").text
    assert f"START WAL LOCATION: {backup['start_lsn']}" in label
    assert ledger("cat", "latest", "PG_VERSION").text == "15\n"

    _restored_and_started(ledger, pg15)


def _restored_and_started(ledger: Cli, pg15: PgCluster) -> None:
    place = ledger.directory / "restored"
    directories.make_directory(place)
    target = place / "data"
    plan = ledger("restore", "ledger", str(target), "--dry-run")
    assert (plan.code, target.exists()) == (0, False)
    assert "Nothing was written." in plan.text
    restored = ledger("restore", "ledger", str(target), "--repository", "offsite")
    assert restored.code == 0, restored.err
    assert f"pg_ctl -D {target} start" in restored.text
    again = ledger("restore", "ledger", str(target))
    assert again.code == TargetNotEmpty.exit_code
    assert "choose an empty directory" in again.err
    with PgCluster.of_directory(pg15.version, target, password=pg15.password) as cluster:
        assert cluster.start().value("SELECT count(*) > 0 FROM pg_roles") is True


def test_an_incremental_backup_says_what_it_was_built_on_or_why_it_is_a_full(ledger: Cli) -> None:
    first = ledger("backup", "ledger", "--incremental")
    assert (first.code, "full because: there is no snapshot to build on" in first.err) == (0, True)
    second = ledger("backup", "ledger", "--incremental")
    assert second.code == 0, second.err
    assert re.search(r"^kind +postgres incremental$", second.text, re.MULTILINE)
    assert re.search(r"^built on +[0-9A-Z]{26}, by compared blocks, 1 since the full$", second.text, re.MULTILINE)
    third = ledger("backup", "ledger", "--incremental", "--json").document
    assert (third["kind"], third["depth"], third["reasons"]) == ("postgres incremental", 2, [])
    assert third["bytes_reused"] > third["bytes_read"] * 0.9
    assert ledger("backup", "ledger", "--full", "--json").document["kind"] == "postgres full"
    assert ledger("backup", "ledger", "--full", "--incremental").code == 2


def test_a_damaged_backup_is_refused_with_its_table(ledger: Cli) -> None:
    assert ledger("backup", "ledger").code == 0
    pack = max((ledger.directory / "one" / "packs").rglob("*.*"), key=lambda p: p.stat().st_size)
    raw = bytearray(pack.read_bytes())
    raw[len(raw) // 2] ^= 1
    pack.write_bytes(raw)
    human = ledger("verify", "ledger", "--repository", "primary", "--level", "L1")
    assert human.code == 9
    assert re.search(r"^result +NOT GOOD$", human.text, re.MULTILINE)
    assert re.search(r"L1 stored SHA-256 +FAILED +1 bad: packs/ledger/", human.text)
    machine = ledger("verify", "ledger", "--repository", "primary", "--level", "L1", "--json")
    document = json.loads(machine.out)
    assert (machine.code, document["ok"], document["error"]["exit_code"]) == (9, False, 9)
    assert "FAILED in primary" in ledger("list").text


def test_a_source_that_cannot_be_reached_or_refuses_the_password_is_told_apart(ledger: Cli) -> None:
    wrong = ledger("backup", "ledger", POSTGRES_PASSWORD="not the password")
    assert wrong.code == 7
    assert "not the password" not in wrong.err
    settings = ledger.directory / "mingus.yaml"
    settings.write_text(re.sub(r"port: \d+", "port: 1", settings.read_text()))
    down = ledger("backup", "ledger", "--json")
    assert (down.code, down.document["error"]["transient"]) == (7, True)
    check = ledger("check", "ledger")
    assert check.code == 7
    assert re.search(r"source ledger +usable +FAILED", check.text)


def test_an_interrupted_backup_leaves_nothing_on_the_server_and_the_next_one_uses_it(
    ledger: Cli, pg15: PgCluster
) -> None:
    settings = ledger.directory / "mingus.yaml"
    limited = settings.read_text().replace("path: one}", "path: one, bandwidth_bytes_per_s: 400000}")
    settings.write_text(limited)
    with ledger.start("backup", "ledger") as process:
        wait_until(lambda: any((ledger.directory / "one" / "runs").rglob("*.start")), "the run began")
        wait_until(lambda: pg15.value("SELECT count(*) FROM pg_stat_replication") > 0, "the backup runs")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert not any((ledger.directory / "one" / "snapshots").rglob("*.*"))
    wait_until(lambda: pg15.value("SELECT count(*) FROM pg_replication_slots") == 0, "the slot is gone")
    settings.write_text(limited.replace(", bandwidth_bytes_per_s: 400000", ""))
    assert ledger("backup", "ledger").code == 0
    spool = ledger.directory / "state" / "spool"
    assert not spool.exists() or not any(spool.iterdir())
