"""`mingus check SOURCE`: names what is missing, and leaves the server as it was."""

import dataclasses
import threading
from pathlib import Path

import pytest

from mingus_engine.checks import Check
from mingus_engine.errors import SourceDenied
from mingus_engine.settings import Predicate, SourceSettings
from mingus_engine.sources.postgres import check as checking
from mingus_engine.sources.postgres.check import check_source
from tests.mingus_engine.sources.postgres.collecting import TRANSPORTS, collect, connection, leftovers, source
from tests.support.fixtures import MakeCluster
from tests.support.postgres import BACKUP_FUNCTIONS, PgCluster
from tests.support.processes import wait_until


def check(settings: SourceSettings) -> dict[str, Check]:
    return {found.name: found for found in check_source(settings, threading.Event())}


def failed(settings: SourceSettings) -> set[str]:
    return {name for name, found in check(settings).items() if not found.ok}


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_good_source_passes_and_stays_as_it_was(pg: PgCluster, transport: str) -> None:
    found = check(source(pg, transport, predicates=(Predicate("p", "select true"),)))
    assert [c for c in found.values() if not c.ok] == []
    assert found["WAL round trip"].data["seen"] is True
    assert ("data directory" in found) == (transport != "replication")
    assert found["invariant p"].ok
    wait_until(lambda: not leftovers(pg), "nothing is left")


def test_missing_rights_are_named_as_the_statements_that_give_them(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cluster.create_role("bk")
    settings = source(cluster, "local", connection=connection(cluster, "bk", tcp=True))
    found = check(settings)
    assert 'ALTER ROLE "bk" REPLICATION' in found["right to replicate"].detail
    assert "GRANT EXECUTE ON FUNCTION pg_backup_start" in found["right to back up"].detail
    assert not found["replication connection"].ok

    cluster.execute("alter role bk replication")
    assert failed(settings) == {"right to back up", "data directory"}
    cluster.execute(*(f"grant execute on function {f} to bk" for f in BACKUP_FUNCTIONS[:2]))
    cluster.execute("grant pg_read_all_settings to bk")
    assert failed(settings) == set()


def test_the_rights_of_a_plain_role_are_granted_statement_by_statement(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cluster.create_role("bk")
    settings = source(cluster, "sql", connection=connection(cluster, "bk", tcp=True))
    missing = check(settings)["right to back up"].detail
    assert "in database postgres" in missing
    statements = missing.removeprefix("missing: ").rpartition(" (in database")[0].split("; ")
    assert len(statements) == len(BACKUP_FUNCTIONS)
    assert failed(settings) == {"right to back up", "data directory"}

    cluster.execute(*statements)
    found = check(settings)
    assert [c for c in found.values() if not c.ok] == []
    assert found["WAL round trip"].data["seen"] is True
    assert "GRANT pg_read_all_settings" in found["right to read settings"].detail
    assert 'ALTER ROLE "bk" REPLICATION' in found["right to replicate"].detail
    with cluster.temporary_database() as other:
        elsewhere = source(cluster, "sql", connection=dataclasses.replace(settings.connection, dbname=other))
        assert failed(elsewhere) == {"right to back up", "data directory"}, "rights belong to a database"
    wait_until(lambda: not leftovers(cluster), "nothing is left")


def test_the_role_of_the_documentation_can_back_up_over_sql(make_cluster: MakeCluster) -> None:
    text = Path("docs/OPERATIONS.md").read_text()
    statements = text.partition("## A role for transport `sql`")[2].partition("```sql\n")[2].partition("```")[0]
    cluster = make_cluster(18)
    cluster.psql(statements)
    cluster.passwords["mingus"] = "change me"
    settings = source(cluster, "sql", connection=connection(cluster, "mingus", tcp=True))
    assert failed(settings) == set()
    assert collect(settings).contents[b"PG_VERSION"] == b"18\n"


def test_what_the_server_lacks_is_named(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15, conf={"max_wal_senders": "1", "max_replication_slots": "0"}, checksums=False)
    found = check(source(cluster, "replication"))
    assert {n for n, c in found.items() if not c.ok} == {"max_wal_senders", "max_replication_slots", "temporary slot"}
    assert found["data checksums"].data == {"enabled": False}
    minimal = make_cluster(15, conf={"wal_level": "minimal", "max_wal_senders": "0"})
    assert {"wal_level", "max_wal_senders"} <= failed(source(minimal, "local"))


def test_another_directory_is_named(pg15: PgCluster, pg16: PgCluster) -> None:
    found = check(source(pg15, "local", data_directory=str(pg16.data_directory)))
    assert {n for n, c in found.items() if not c.ok} == {"data directory"}
    assert str(pg16.data_directory) in found["data directory"].detail


def test_a_standby_is_checked_without_writing(make_cluster: MakeCluster) -> None:
    primary = make_cluster(15)
    with PgCluster.standby_of(primary, primary.data_directory.parent / "standby") as standby:
        standby.start()
        found = check(source(standby, "local"))
    assert [c for c in found.values() if not c.ok] == []
    assert "standby" in found["connection"].detail


def test_wal_that_does_not_come_back_is_noticed(pg15: PgCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "ROUND_TRIP_TIMEOUT_S", 0.3)
    monkeypatch.setattr(checking, "_EMIT", "SELECT left(%s, 0) || 'FF/0'")
    found = check(source(pg15, "replication"))
    assert not found["WAL round trip"].ok
    assert "nothing came back" in found["WAL round trip"].detail


def test_little_space_on_the_server_is_said(pg15: PgCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "SPACE_MIN_BYTES", 1 << 60)
    assert failed(source(pg15, "local")) == {"space on the server"}


def test_a_predicate_that_does_not_hold_is_found_before_the_first_backup(pg15: PgCluster) -> None:
    assert failed(source(pg15, "local", predicates=(Predicate("p", "select false"),))) == {"invariant p"}


def test_without_a_session_nothing_can_be_checked(pg15: PgCluster) -> None:
    with pytest.raises(SourceDenied):
        check(source(pg15, "local", connection=connection(pg15, password="wrong", tcp=True)))
