"""A database, or tables, out of a snapshot or a moment into a running server; and what stops it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from mingus_engine.errors import (
    MingusError,
    SettingsError,
    TargetError,
    TargetNotEmpty,
    VerificationFailed,
)
from mingus_engine.jobs.postgres import destination, extract_request
from mingus_engine.jobs.postgres.extract import ExtractReport, extract
from mingus_engine.postgres.programs import Programs
from mingus_engine.postgres.transfer import Side, transfer
from mingus_engine.settings import DestinationSettings
from tests.integration import ledger
from tests.support.archiving import drain, keep_wal
from tests.support.installation import SOURCE, Installation
from tests.support.pg_versions import PgVersion
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until

ROOT = Path(__file__).resolve().parents[2]
BEFORE_THE_UPDATE = 4000
FURNITURE = """
create role app login; create role auditor;
create schema audit authorization app;
create table audit."Log, 1" (at date, who text) partition by range (at);
create table audit.log_2026 partition of audit."Log, 1" for values from ('2026-01-01') to ('2027-01-01');
insert into audit."Log, 1" select '2026-01-01'::date + g, 'x' from generate_series(0, 99) g;
create table note (id serial primary key, account int references account, body text);
insert into note (account, body) select g, 'n' from generate_series(1, 50) g;
grant select on note to auditor;
create materialized view totals as select debit, sum(amount) from posting group by debit;
create unlogged table session as select g from generate_series(1, 10) g;
create table picture as select lo_from_bytea(0, '\\x00ff') as id;
"""


@pytest.fixture(scope="module")
def origin(pg_versions: dict[int, PgVersion], module_directory: Path) -> Iterator[Installation]:
    """A ledger with a snapshot, archived to behind an UPDATE without WHERE; destinations are added by the tests."""
    with ExitStack() as stack:
        cluster = stack.enter_context(PgCluster.create(pg_versions[15], module_directory / "one", wal_segment_mib=1))
        cluster.start()
        cluster.execute("create database books")
        ledger.furnish(cluster, postings=BEFORE_THE_UPDATE, dbname="books")
        cluster.psql(FURNITURE, dbname="books")
        keep_wal(cluster)
        made = stack.enter_context(
            Installation.make(
                module_directory / "i",
                cluster,
                predicates=[{**item, "database": "books"} for item in ledger.PREDICATES],
                measurements=[{**item, "database": "books"} for item in ledger.MEASUREMENTS],
            )
        )
        made.back_up()
        cluster.execute("select transfer(1, 2, 5)", dbname="books")
        cluster.value("select pg_create_restore_point('before')")
        cluster.execute("update posting set amount = 0", dbname="books")
        drain(made)
        yield made


@pytest.fixture
def take(origin: Installation, make_cluster: Any) -> Iterator[Any]:  # make_cluster: its clusters outlive the clean-up
    """``take(cluster, what, …)``: extract into a cluster, by default its database postgres. Made databases go."""
    made: list[tuple[PgCluster, str]] = []

    def run(cluster: PgCluster, what: str, *, dbname: str = "postgres", **options: Any) -> ExtractReport:
        connection = replace(origin.connection_to(cluster), dbname=dbname)
        bins = str(cluster.version.bin_directory)
        settings = origin.settings.with_destination(DestinationSettings("there", connection, bin_directory=bins))
        context = origin.context(**options.pop("context", {}))
        report = extract(settings, SOURCE, what=what, into="there", context=context, **options)
        if report.created:
            made.append((cluster, report.into_database))
        return report

    yield run
    for cluster, name in made:
        cluster.execute(f'drop database "{name}" with (force)')
    scratch = Path(origin.settings.state_path / "scratch")
    assert not scratch.exists() or list(scratch.iterdir()) == []


def databases(cluster: PgCluster) -> set[str]:
    return {name for (name,) in cluster.rows("select datname from pg_database")}


def test_a_whole_database_becomes_a_new_one_beside_the_original(origin: Installation, take: Any) -> None:
    cluster = origin.cluster
    report = take(cluster, "books", new_name="mingus_recovery")
    assert report.created is True
    assert (report.into_database, report.tables_counted) == ("mingus_recovery", 7)
    assert ledger.turnover(cluster, dbname="mingus_recovery").startswith(f"{BEFORE_THE_UPDATE}/")
    checks = {check["name"]: check["ok"] for check in report.checks}
    assert checks == {"rows": True, "invariant debits equal credits": True, "invariant turnover": True}
    assert report.left_out == ["rows of public.session: an unlogged table is empty in a backup"]
    new = {"dbname": "mingus_recovery"}
    assert cluster.value("select lo_get(id) from picture", **new) == b"\x00\xff"
    assert cluster.value("select nspowner::regrole::text from pg_namespace where nspname = 'audit'", **new) == "app"
    assert cluster.value("select has_table_privilege('auditor', 'note', 'select')", **new) is True
    assert cluster.value("select nextval('note_id_seq')", **new) == 51
    comment = cluster.value(
        "select shobj_description(oid, 'pg_database') from pg_database where datname = 'mingus_recovery'"
    )
    assert comment == f"extracted by MINGUS from ledger, snapshot {report.snapshot}, its end"


def test_a_moment_before_a_wrong_update_comes_back_in_one_table_beside(origin: Installation, take: Any) -> None:
    cluster = origin.cluster
    report = take(cluster, "books:posting", dbname="books", new_name="posting_1430", to="name:before")
    found = cluster.rows("select count(*), sum(amount) > 0 from posting", dbname="posting_1430")
    assert found == [(BEFORE_THE_UPDATE + 1, True)]
    assert report.counted == {"public.posting": BEFORE_THE_UPDATE + 1}
    assert report.target == "name:before"
    assert cluster.value("select sum(amount) from posting", dbname="books") == 0


def test_tables_bring_their_partitions_sequences_and_schema_and_say_what_they_leave_out(
    origin: Installation, take: Any
) -> None:
    report = take(origin.cluster, 'books:note,audit."Log, 1"', new_name="parts")
    assert report.counted == {"audit.log_2026": 100, "public.note": 50}
    (left_out,) = report.left_out
    assert "foreign key note_account_fkey of public.note: public.account is not at the destination" in left_out
    assert origin.cluster.value("select nextval('note_id_seq')", dbname="parts") == 51


def test_a_newer_server_gets_it_and_the_roles_it_lacks_are_named_before(
    origin: Installation, take: Any, pg18: PgCluster
) -> None:
    before = databases(pg18)
    with pytest.raises(TargetError, match="lacks roles app, auditor") as refused:
        take(pg18, "books")
    assert "--no-owner" in refused.value.hint
    assert databases(pg18) == before
    report = take(pg18, "books", no_owner=True)
    assert report.into_database == "books"
    assert ledger.turnover(pg18, dbname="books").startswith(f"{BEFORE_THE_UPDATE}/")
    assert pg18.value("select to_regclass('audit.log_2026')::text", dbname="books") == "audit.log_2026"
    pg18.execute("update posting set amount = 0", "create table mine as select 1", dbname="books")
    assert take(pg18, "books", no_owner=True, overwrite=True).created is False
    assert ledger.turnover(pg18, dbname="books").startswith(f"{BEFORE_THE_UPDATE}/")
    assert pg18.value("select sum(amount) > 0 from posting", dbname="books") is True
    assert pg18.value("select count(*) from mine", dbname="books") == 1


def test_an_older_server_is_refused(pg18: PgCluster, origin: Installation, install: Any) -> None:
    newer = install(pg18, transport="replication")
    newer.back_up()
    connection = origin.connection_to(origin.cluster)
    settings = newer.settings.with_destination(DestinationSettings("there", connection))
    with pytest.raises(TargetError, match=r"the snapshot is of PostgreSQL 18, .* is 15"):
        extract(settings, SOURCE, what="postgres", into="there", new_name="x", context=newer.context())


def test_what_exists_is_refused_before_anything_is_read(origin: Installation, take: Any) -> None:
    cluster = origin.cluster
    origin.messages.clear()
    with pytest.raises(TargetNotEmpty, match=r"database 'books' .* exists"):
        take(cluster, "books")
    with pytest.raises(TargetNotEmpty, match=r"database 'books' .* exists"):
        take(cluster, "books", new_name="books", overwrite=True)
    with pytest.raises(TargetNotEmpty, match=r"has public\.posting, audit\.Log, 1"):
        take(cluster, 'books:posting,audit."Log, 1"', dbname="books")
    with pytest.raises(TargetError, match='database "nowhere" does not exist'):
        take(cluster, "books:posting", dbname="nowhere")
    assert origin.messages == []


def test_a_table_is_replaced_only_when_told_to_and_all_or_nothing(origin: Installation, take: Any) -> None:
    cluster = origin.cluster
    with cluster.temporary_database() as name:
        cluster.execute(
            "create table account (id int primary key)", "create table posting as select 1 as id", dbname=name
        )
        cluster.execute("create view holds as select id from posting", dbname=name)
        with pytest.raises(TargetError, match="other objects depend on it"):
            take(cluster, "books:posting", dbname=name, overwrite=True)
        assert cluster.rows("select * from posting", dbname=name) == [(1,)]
        cluster.execute("drop view holds", dbname=name)
        take(cluster, "books:posting", dbname=name, overwrite=True, no_owner=True)
        assert cluster.value("select count(*) from posting", dbname=name) == BEFORE_THE_UPDATE


def test_a_failure_in_the_middle_leaves_no_new_database(origin: Installation, take: Any) -> None:
    before = databases(origin.cluster)

    def stop(progress: Any) -> None:
        if progress.phase == "extract" and progress.done_bytes > 100_000:
            raise MingusError("enough")

    with pytest.raises(MingusError, match="enough"):
        take(origin.cluster, "books", new_name="half", context={"on_progress": stop})
    assert databases(origin.cluster) == before


def test_a_server_that_dies_in_the_middle_is_named_and_the_next_try_replaces_what_it_kept(
    origin: Installation, take: Any, make_cluster: Any
) -> None:
    other = make_cluster(15)
    origin.messages.clear()

    def crash(progress: Any) -> None:
        if progress.phase == "extract" and progress.done_bytes > 100_000 and other.is_running:
            other.stop("immediate")

    with pytest.raises(TargetError, match="pg_restore failed"):
        take(other, "books", no_owner=True, context={"on_progress": crash})
    assert any("could not be dropped, it is not complete" in message for message in origin.messages)
    other.start()
    take(other, "books", no_owner=True)
    assert ledger.turnover(other, dbname="books").startswith(f"{BEFORE_THE_UPDATE}/")


def test_the_destinations_password_is_in_no_argument_report_or_message(
    origin: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = origin.cluster
    secret = str(cluster.password)
    monkeypatch.setenv("PW_OF_DESTINATION", secret)
    plain = replace(
        origin.connection_to(cluster), host="127.0.0.1", password_env="PW_OF_DESTINATION", sslmode="disable"
    )
    settings = origin.settings.with_destination(DestinationSettings("there", plain))
    origin.messages.clear()
    seen: set[str] = set()

    def look(progress: Any) -> None:
        if progress.phase == "extract" and progress.done_bytes:
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                with contextlib.suppress(OSError):
                    seen.add(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))

    report = extract(
        settings, SOURCE, what="books", into="there", new_name="secretly", context=origin.context(on_progress=look)
    )
    cluster.execute("drop database secretly")
    assert any("pg_restore" in line for line in seen)
    assert all(secret not in text for text in (*seen, *origin.messages, str(report.as_dict())))
    monkeypatch.setenv("PW_OF_DESTINATION", "wrong-0815")
    with pytest.raises(TargetError, match="password authentication failed") as refused:
        extract(settings, SOURCE, what="books", into="there", new_name="secretly", context=origin.context())
    assert "wrong-0815" not in str(refused.value)


def test_what_arrived_with_other_numbers_is_not_called_a_success(
    origin: Installation, take: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = databases(origin.cluster)

    def meddle(*arguments: Any, **options: Any) -> int:
        sent = transfer(*arguments, **options)
        origin.cluster.execute("delete from posting where id <= 3", dbname="half")
        return sent

    monkeypatch.setattr("mingus_engine.jobs.postgres.extract.transfer", meddle)
    with pytest.raises(VerificationFailed, match=r"rows: public\.posting: 3997 instead of 4000; invariant"):
        take(origin.cluster, "books", new_name="half")
    assert databases(origin.cluster) == before


def test_names_that_are_not_there_are_named(origin: Installation, take: Any) -> None:
    with pytest.raises(TargetError, match=r"has no public\.postings"):
        take(origin.cluster, "books:postings", new_name="x")
    with pytest.raises(TargetError, match="has no database 'book'; it has: books, postgres"):
        take(origin.cluster, "book", new_name="x")
    assert "x" not in databases(origin.cluster)


def test_a_killed_extraction_leaves_an_empty_database_that_the_next_one_replaces(
    origin: Installation, take: Any
) -> None:
    cluster = origin.cluster
    uri = f"postgresql://postgres@/postgres?host={cluster.socket_directory}&port={cluster.port}"
    command = ["restore", SOURCE, "--extract", "books", "--into", uri, "--as", "killed"]
    with (
        cluster.connect() as lock,
        subprocess.Popen(
            [sys.executable, "-m", "mingus_engine", "--config", str(origin.root / "mingus.yaml"), *command],
            env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process,
    ):
        wait_until(lambda: "killed" in databases(cluster), "the new database is there", timeout_s=60)
        # Every database notes its owners in this one table: pg_restore waits, in the middle of its transaction.
        lock.execute("begin; lock table pg_catalog.pg_shdepend in access exclusive mode")
        waits = "select count(*) > 0 from pg_stat_activity where datname = 'killed' and wait_event_type = 'Lock'"
        wait_until(lambda: cluster.value(waits), "pg_restore waits", timeout_s=60)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        lock.execute("rollback")
    left = "select count(*) = 0 from pg_stat_activity where datname = 'killed'"
    wait_until(lambda: cluster.value(left), "pg_restore has gone with the engine")
    assert cluster.value("select count(*) from pg_class where relname = 'posting'", dbname="killed") == 0
    take(cluster, "books", new_name="killed")
    assert ledger.turnover(cluster, dbname="killed").startswith(f"{BEFORE_THE_UPDATE}/")


def test_a_database_that_another_extraction_is_filling_is_left_alone(origin: Installation, take: Any) -> None:
    cluster = origin.cluster
    connection = origin.connection_to(cluster)
    other = destination.Destination(DestinationSettings("other", connection))
    (row,) = cluster.rows(
        "select to_jsonb(d) || '{\"encoding_name\": \"UTF8\"}' from pg_database d where datname = 'books'"
    )
    other.create("busy", row[0])
    with pytest.raises(TargetError, match="another extraction is filling database 'busy'"):
        take(cluster, "books", new_name="busy")
    other.drop("busy")
    other.close()


class TestTransfer:
    """The two programs, played by scripts."""

    def run(self, workspace: Path, dump: str, restore: str) -> int:
        for name, script in (("pg_dump", dump), ("pg_restore", restore)):
            (workspace / name).write_text(f"#!/bin/sh\n{script}\n")
            (workspace / name).chmod(0o755)
        side = Side(Programs(15, workspace), (), None, {"HERE": str(workspace)})
        return transfer(side, side, checkpoint=lambda: None, progress=lambda _: None)

    def test_all_bytes_arrive(self, workspace: Path) -> None:
        sent = self.run(workspace, "head -c 5000000 /dev/zero", 'cat > "$HERE/got"')
        assert sent == (workspace / "got").stat().st_size == 5_000_000

    def test_the_end_is_kept_back_from_a_dump_that_fails(self, workspace: Path) -> None:
        with pytest.raises(VerificationFailed, match="pg_dump of the restored server failed: page is damaged"):
            self.run(
                workspace,
                "head -c 5000000 /dev/zero; echo page is damaged >&2; exit 1",
                'cat > "$HERE/got"; echo committed > "$HERE/end"',
            )
        assert not (workspace / "end").exists()

    @pytest.mark.parametrize("size", [10, 5_000_000])
    def test_a_restore_that_ends_early_is_a_failure_whatever_it_says(self, workspace: Path, size: int) -> None:
        with pytest.raises(TargetError, match="relation exists"):
            self.run(workspace, f"head -c {size} /dev/zero", "echo relation exists >&2; exit 1")

    def test_a_restore_that_refuses_while_the_dump_hangs_ends_both(self, workspace: Path) -> None:
        with pytest.raises(TargetError, match="no such role"):
            self.run(workspace, "sleep 100", "echo no such role >&2; exit 3")


class TestRequest:
    """What is to be extracted, and where to, as a person writes it."""

    @pytest.mark.parametrize(
        ("text", "database", "tables"),
        [
            ("books", "books", []),
            ("books:posting", "books", ["public.posting"]),
            ('"a:b":s.t,"S.1"."T,""2"""', "a:b", ["s.t", 'S.1.T,"2"']),
        ],
    )
    def test_names_are_exact(self, text: str, database: str, tables: list[str]) -> None:
        wanted = extract_request.parse_what(text)
        assert (wanted.database, [str(table) for table in wanted.tables]) == (database, tables)

    @pytest.mark.parametrize("text", ["", ":t", "d:", "d:a.b.c", "d:t,", 'd:"t', "d:.t", "d:t..u"])
    def test_anything_else_is_refused(self, text: str) -> None:
        with pytest.raises(SettingsError, match="is not of the form"):
            extract_request.parse_what(text)

    def test_a_pattern_of_pg_dump_means_the_name_itself(self) -> None:
        (table,) = extract_request.parse_what('d:s."a*""b"').tables
        assert table.pattern == '"s"."a*""b"'

    @pytest.mark.parametrize(
        ("uri", "message"),
        [
            ("postgresql://bob:hunter2@db/x", "holds a password"),
            ("postgresql://bob@db/x?password=hunter2", "holds a password"),
            ("postgresql://bob@db/x?passfile=/etc/shadow", "sets passfile"),
            ("postgresql://bob:hunter2@[::1/x", "not a libpq URI"),
            ("postgresql://db/x", "names no user"),
        ],
    )
    def test_an_address_with_a_secret_or_a_surprise_is_refused_without_quoting_it(
        self, origin: Installation, uri: str, message: str
    ) -> None:
        with pytest.raises(SettingsError, match=message) as refused:
            extract_request.destination(origin.settings, uri)
        assert "hunter2" not in str(refused.value)

    def test_a_source_is_a_destination_too_and_a_misspelt_one_is_named(self, origin: Installation) -> None:
        assert extract_request.destination(origin.settings, SOURCE).connection.port == origin.cluster.port
        with pytest.raises(SettingsError, match="did you mean 'ledger'"):
            extract_request.destination(origin.settings, "ledgr")

    def test_a_name_of_a_database_is_an_identifier_and_not_sql(self, origin: Installation) -> None:
        evil = 'x"; drop database books; --'
        assert sql.Identifier(evil).as_string(None).count('""') == 1
        with pytest.raises(SettingsError):
            extract_request.require_database_name("a\nb")
        with pytest.raises(SettingsError):
            extract_request.require_database_name("ä" * 32)
