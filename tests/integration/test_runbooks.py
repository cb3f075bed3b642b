"""The runbooks as they stand in docs/runbooks: their commands are taken out and run, their outputs compared.

A test gives values to the variables of a runbook's first block, as the person who follows it does; nothing else is
changed. A ``text`` block is what must be seen of the ``sh`` block above it, ``…`` standing for anything in a line.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
import yaml

from mingus_engine.jobs.back_up import back_up
from mingus_engine.settings import load
from tests.integration import ledger
from tests.support.directories import make_directory, remove
from tests.support.file_sets import SOURCE as FILES_SOURCE
from tests.support.file_sets import FileSet, described
from tests.support.fixtures import MakeRedis
from tests.support.installation import FIRST, SECOND, SOURCE, Installation
from tests.support.pg_versions import PgVersion
from tests.support.postgres import PgCluster
from tests.support.processes import free_port, is_running, unprivileged_user, wait_until
from tests.support.redis_snapshots import KEY_VARIABLE, RedisRepository
from tests.support.redis_snapshots import SOURCE as REDIS_SOURCE
from tests.support.repositories import TEST_KEY

ROOT = Path(__file__).resolve().parents[2]
RUNBOOKS = ROOT / "docs" / "runbooks"
# Indented in a list item or not.
_BLOCK = re.compile(r"^(?P<indent> *)```(?P<kind>\w+)\n(?P<text>.*?)^ *```$", re.MULTILINE | re.DOTALL)
_VARIABLE = re.compile(r"(\w+)=('[^']*'|\S*)")
POSTINGS = 500


@dataclass
class Step:
    """One ``sh`` block, and what must be seen."""

    script: str
    seen: list[str] = field(default_factory=list)


def steps_of(path: Path) -> list[Step]:
    """The blocks of a runbook, without their indentation."""
    steps: list[Step] = []
    for block in _BLOCK.finditer(path.read_text()):
        text = re.sub(rf"^{block['indent']}", "", block["text"], flags=re.MULTILINE)
        if block["kind"] == "sh":
            steps.append(Step(text))
        elif block["kind"] == "text":
            steps[-1].seen += text.splitlines()
    return steps


def with_values(script: str, values: Mapping[str, str]) -> str:
    """The first block, with other values; every one of *values* must be asked for there, and every one is given."""
    asked = {name for name, _ in _VARIABLE.findall(script)}
    assert asked == set(values), f"asked for and not given, or the other way round: {asked ^ set(values)}"
    return _VARIABLE.sub(lambda found: f"{found[1]}='{values[found[1]]}'", script)


@dataclass
class Shell:
    """The person at the terminal: a shell that knows where ``mingus`` is."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def follow(self, name: str, values: Mapping[str, str]) -> Iterator[Step]:
        """Run a runbook's blocks one after the other; gives each one that has been run.

        Raises AssertionError with the output of a block that failed or showed something else.
        """
        first, *others = steps_of(RUNBOOKS / name)
        preamble = with_values(first.script, values)
        for step in others:
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", f"{preamble}\n{step.script}"],
                env={**os.environ, **self.environment, "PATH": f"{ROOT}:{os.environ['PATH']}", "COLUMNS": "200"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=120,
                cwd=self.root,
                check=False,
            )
            shown = f"{name}:\n{step.script}\n{done.stdout}"
            assert done.returncode == 0, shown
            for line in step.seen:
                pattern = r"[^\n]*".join(re.escape(part) for part in line.split("…"))
                # Columns are as wide as what is in them.
                pattern = re.sub(r"(\\ )+", r"\\s+", pattern)
                assert re.search(pattern, done.stdout), f"not seen: {line!r}\n{shown}"
            yield step

    def run_all(self, name: str, values: Mapping[str, str]) -> None:
        """Follow a runbook to its end."""
        for _ in self.follow(name, values):
            pass


@dataclass
class Desk(Shell):
    """With an installation at hand."""

    installation: Installation = field(kw_only=True)


@pytest.fixture
def desk(pg_versions: dict[int, PgVersion], workspace: Path) -> Iterator[Desk]:
    """A ledger that was backed up, shipped and archived; more was booked and archived since."""
    with ExitStack() as stack:
        cluster = stack.enter_context(PgCluster.create(pg_versions[15], workspace / "old", wal_segment_mib=1)).start()
        cluster.execute("create database books")
        ledger.furnish(cluster, postings=POSTINGS, dbname="books")
        # As in the shipped settings, where the variables say another place.
        there = {
            "host": f"${{POSTGRES_HOST:-{cluster.socket_directory}}}",
            "port": f"${{POSTGRES_PORT:-{cluster.port}}}",
        }
        made = stack.enter_context(Installation.make(workspace / "i", cluster, connection=there))
        desk = Desk(workspace, dict(made.environment), installation=made)
        # Restored servers belong to the account that runs servers.
        make_directory(workspace / "new", owner=unprivileged_user())
        mingus(desk, "wal", "archive", SOURCE)
        mingus(desk, "backup", SOURCE)
        mingus(desk, "ship", SOURCE)
        cluster.execute("select transfer(1, 2, 5)", dbname="books")
        mingus(desk, "wal", "archive", SOURCE)
        yield desk
        pid = workspace / "new" / "data" / "postmaster.pid"
        if pid.exists():
            pg_ctl = [*common(desk)["AS"].split(), str(cluster.version.tool("pg_ctl"))]
            subprocess.run([*pg_ctl, "-D", str(pid.parent), "-m", "immediate", "stop"], check=True, capture_output=True)
        remove(workspace / "new")


def place_of(cluster: PgCluster) -> dict[str, str]:
    return {"POSTGRES_HOST": str(cluster.socket_directory), "POSTGRES_PORT": str(cluster.port)}


def mingus(desk: Desk, *arguments: str) -> str:
    done = subprocess.run(
        [str(ROOT / "mingus"), "--config", str(desk.installation.root / "mingus.yaml"), *arguments],
        env={**os.environ, **desk.environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def common(desk: Desk) -> dict[str, str]:
    """Values that most runbooks ask for, for a new server."""
    user = unprivileged_user()
    return {
        "MINGUS_CONFIG": str(desk.installation.root / "mingus.yaml"),
        "SOURCE": SOURCE,
        "NEW": str(desk.root / "new" / "data"),
        "BIN": str(desk.installation.cluster.version.bin_directory),
        "AS": f"runuser -u {user.name} --" if user else "",
        "PGHOST": str(desk.root / "new"),
        "PGPORT": str(free_port()),
        "PGUSER": "postgres",
        "PGDATABASE": "books",
        "CHECK": "SELECT count(*) FROM posting",
    }


def counted(values: Mapping[str, str], query: str = "SELECT count(*) FROM posting", dbname: str = "books") -> str:
    command = [f"{values['BIN']}/psql", "-XAtq", "-d", dbname, "-c", query]
    return subprocess.run(
        command, env={**os.environ, **{k: v for k, v in values.items() if k.startswith("PG")}, "PGDATABASE": dbname},
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout.strip()  # fmt: skip


def test_every_runbook_is_linked_and_followed_by_a_test() -> None:
    linked = set(re.findall(r"\]\(([\w-]+\.md)\)", (RUNBOOKS / "README.md").read_text()))
    there = {path.name for path in RUNBOOKS.glob("*.md")} - {"README.md"}
    assert linked == there
    followed = Path(__file__).read_text()
    for name in there:
        assert f'"{name}"' in followed


def test_a_lost_database_comes_back_with_its_last_archived_posting(desk: Desk) -> None:
    desk.installation.cluster.stop("immediate")
    values = common(desk)
    desk.run_all("lost-database.md", values)
    assert counted(values) == str(POSTINGS + 1)


def test_a_wrong_update_is_put_right_from_a_table_beside(desk: Desk) -> None:
    cluster = desk.installation.cluster
    right = ledger.turnover(cluster, dbname="books")
    moment = cluster.value(
        "select to_char(clock_timestamp() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.US') || '+00:00'"
    )
    cluster.execute("update posting set amount = 0", dbname="books")
    values = {
        **{key: value for key, value in common(desk).items() if key in {"MINGUS_CONFIG", "SOURCE", "BIN", "PGUSER"}},
        "MOMENT": f"time:{moment}",
        "DATABASE": "books",
        "TABLE": "posting",
        "WHAT": "books:public.posting",
        "INTO": SOURCE,
        "BESIDE": "posting_1430",
        "PGHOST": str(cluster.socket_directory),
        "PGPORT": str(cluster.port),
    }
    for step in desk.follow("wrong-update.md", values):
        if "FROM STDIN" in step.script:
            text = (RUNBOOKS / "wrong-update.md").read_text()
            (repair,) = (block["text"] for block in _BLOCK.finditer(text) if block["kind"] == "sql")
            assert cluster.value("select sum(amount) from posting", dbname="books") == 0
            cluster.psql(repair, dbname="books")
    assert ledger.turnover(cluster, dbname="books") == right
    assert cluster.rows("select datname from pg_database where datname = 'posting_1430'") == []


def test_a_lost_region_comes_back_from_the_other_repository_and_the_escrow_sheet(desk: Desk) -> None:
    made = desk.installation
    made.cluster.stop("immediate")
    remove(made.path(FIRST))
    remove(made.settings.state_path)
    for name in made.environment:
        os.environ.pop(name, None)
        desk.environment.pop(name, None)
    desk.environment["MINGUS_ESCROW_KEY"] = made.escrow[SECOND]
    user = unprivileged_user()
    home = make_directory(desk.root / "home", mode=0o711)
    # What a new repository is sealed to, besides its escrow slot.
    desk.environment["BACKUP_ENCRYPTION_KEY"] = "ab" * 32
    values = {**common(desk), "MINGUS_HOME": str(home), "MINGUS_CONFIG": str(home / "rescue.yaml")}
    values["OFFSITE"] = str(made.path(SECOND))
    desk.run_all("lost-region.md", values)
    assert counted(values) == str(POSTINGS + 1)
    settings = yaml.safe_load((home / "rescue.yaml").read_text())
    assert [repository["name"] for repository in settings["repositories"]] == ["offsite", "primary"]
    assert user is None or (desk.root / "new" / "data").stat().st_uid == user.uid


def test_after_a_failover_archiving_goes_on_and_the_first_backup_is_full(desk: Desk) -> None:
    cluster = desk.installation.cluster
    with PgCluster.standby_of(cluster, desk.root / "standby") as standby:
        standby.start()
        wait_until(
            lambda: standby.value("select pg_last_wal_replay_lsn() >= %s::pg_lsn", cluster.flush_lsn()), "caught up"
        )
        standby.promote()
        cluster.stop("immediate")
        standby.execute("select transfer(1, 2, 5)", "checkpoint", dbname="books")
        values = {key: common(desk)[key] for key in ("MINGUS_CONFIG", "SOURCE", "BIN", "PGUSER")}
        values |= {"PGHOST": str(standby.socket_directory), "PGPORT": str(standby.port), "PGDATABASE": "books"}
        values |= {"OLD_HOST": str(cluster.socket_directory), "OLD_PORT": str(cluster.port)}
        desk.run_all("failover.md", values)
        desk.environment |= place_of(standby)
        windows = json.loads(mingus(desk, "windows", SOURCE, "--json"))
        mine = [w for w in windows["sources"][0]["repositories"][0]["windows"] if w["timeline"] == 2]
        newest = json.loads(mingus(desk, "list", SOURCE, "--json"))["snapshots"][-1]
    assert newest["snapshot"] in mine[-1]["snapshots"]
    assert {copy["repository"] for copy in newest["copies"]} == {FIRST, SECOND}


def test_a_lost_redis_comes_back_and_is_backed_up_again(
    make_redis: MakeRedis, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = make_redis(appendonly="yes")
    old.fill(300)
    repository = RedisRepository.make(workspace / "i", monkeypatch)
    # As in the shipped settings, where the variables say another place.
    there = {"host": "${REDIS_HOST:-127.0.0.1}", "port": f"${{REDIS_PORT:-{old.port}}}", "user": ""}
    config = workspace / "mingus.yaml"
    config.write_text(yaml.safe_dump(repository.document(connection=there)))
    back_up(load(config), REDIS_SOURCE, context=repository.context())
    old.kill()
    user = unprivileged_user()
    make_directory(workspace / "new", owner=user)
    pid_file = workspace / "new" / "pid"
    values = {
        "MINGUS_CONFIG": str(config),
        "SOURCE": REDIS_SOURCE,
        "NEW": str(workspace / "new" / "data"),
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(free_port()),
        "OPTIONS": f"--pidfile {pid_file}",
    }
    shell = Shell(workspace, {KEY_VARIABLE: TEST_KEY})
    try:
        shell.run_all("lost-redis.md", values)
        with redis.Redis(port=int(values["REDIS_PORT"])) as client:
            assert client.dbsize() == 300
            assert client.config_get("appendonly") == {"appendonly": "yes"}
    finally:
        if pid_file.exists():
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: not is_running(pid), "the restored server is gone")


def test_lost_files_come_back_to_where_they_were_and_are_backed_up_again(workspace: Path) -> None:
    made = FileSet.make(workspace / "set")
    contracts = make_directory(made.tree / "contracts")
    for number in range(30):
        (contracts / f"offer-{number}.odt").write_text(f"We offer {number}.\n" * 20)
    (made.tree / "kept").write_text("as it was")
    made.back_up()
    before = described(contracts)
    remove(contracts)
    (made.tree / "kept").write_text("changed since")
    values = {
        "MINGUS_CONFIG": str(made.root / "mingus.yaml"),
        "SOURCE": FILES_SOURCE,
        "LOST": "tree/contracts",
        "NAME": "offer*.odt",
        "BESIDE": str(workspace / "beside"),
    }
    Shell(workspace, {made.variable: os.environ[made.variable]}).run_all("lost-files.md", values)
    assert described(contracts) == before == described(workspace / "beside" / "tree" / "contracts")
    assert (made.tree / "kept").read_text() == "changed since"
    made.close()
