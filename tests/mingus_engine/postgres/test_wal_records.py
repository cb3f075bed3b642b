"""The scanner of write-ahead log, against what servers write and what pg_waldump reads."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mingus_engine import lsn as lsns
from mingus_engine.postgres.wal_records import Event, EventKind, WalScanner, scan
from tests.support.pg_versions import MAJORS, PgVersion
from tests.support.postgres import PgCluster

MIB = 1 << 20
CHUNK = 256 * 1024
MakeCluster = Callable[..., PgCluster]


@dataclass
class Written:
    """Log that a server wrote, and what a client saw: (LSN before, LSN behind, transaction)."""

    version: int
    start: int
    log: bytes
    end: int
    commits: list[tuple[int, int, int]]
    aborts: list[int]
    prepared: list[tuple[int, int]]
    dump: str = ""


def _lsn(cluster: PgCluster) -> int:
    return lsns.parse(cluster.value("select pg_current_wal_insert_lsn()"))


def write(cluster: PgCluster) -> Written:
    major = cluster.version.major
    cluster.execute("create table t (g int, x text)", "checkpoint")
    cluster.value("select pg_switch_wal()")
    cluster.value("select pg_create_physical_replication_slot('keep', true)")
    start = lsns.segment_start(_lsn(cluster), MIB)
    commits, aborts, prepared = [], [], []
    with cluster.connect() as one:

        def lsn() -> int:
            return lsns.parse(one.execute("select pg_current_wal_insert_lsn()").fetchone()[0])

        for number in range(60):
            before = lsn()
            one.execute("begin")
            one.execute("insert into t select g, repeat(md5(g::text), 100) from generate_series(1, %s) g", [number])
            if number % 7 == 0:
                one.execute("savepoint a; insert into t values (0); savepoint b; insert into t values (1)")
            if number % 10 == 3:
                one.execute(f"create table u{number} (x int primary key)")
            (xid,) = one.execute("select pg_current_xact_id()::text::bigint").fetchone()
            if number % 5 == 4:
                one.execute(f"prepare transaction 'p{number}'")
                one.execute(f"{'commit' if number % 2 else 'rollback'} prepared 'p{number}'")
                prepared.append((xid, number % 2))
            elif number % 6 == 5:
                one.execute("rollback")
                aborts.append(xid)
            else:
                one.execute("commit")
                commits.append((before, lsn(), xid))
            if number % 20 == 10:
                one.execute(f"select pg_create_restore_point('point {number}')")
                one.execute("select pg_switch_wal()")
        # Invalidations and dropped relations of one transaction make a record of several pages.
        before = lsn()
        one.execute("begin")
        one.execute("do $$ begin for i in 1..150 loop execute format('create table m%s (x int)', i); end loop; end $$")
        one.execute("do $$ begin for i in 1..150 loop execute format('drop table m%s', i); end loop; end $$")
        (xid,) = one.execute("select pg_current_xact_id()::text::bigint").fetchone()
        one.execute("commit")
        commits.append((before, lsn(), xid))
        end = lsn()
    cluster.execute("checkpoint")
    log = bytearray()
    wal = cluster.data_directory / "pg_wal"
    for at in range(start, end, MIB):
        log += (wal / lsns.segment_name(1, at, MIB)).read_bytes()
    dump = ""
    if cluster.version.has("pg_waldump"):
        dump = cluster.tool("pg_waldump", "-p", wal, "-s", lsns.text(start), "-e", lsns.text(end), check=False).stdout
    return Written(major, start, bytes(log), end, commits, aborts, prepared, dump)


@pytest.fixture(scope="module")
def all_written(pg_versions: dict[int, PgVersion], session_directory: Path) -> Callable[[int], Written]:
    made: dict[int, Written] = {}

    def get(major: int) -> Written:
        if major not in made:
            conf = {"max_prepared_transactions": "5", "autovacuum": "off"}
            place = session_directory / f"scanned{major}"
            with PgCluster.create(pg_versions[major], place, wal_segment_mib=1, conf=conf) as cluster:
                made[major] = write(cluster.start())
        return made[major]

    return get


@pytest.fixture(params=MAJORS, ids=lambda major: f"pg{major}")
def written(request: pytest.FixtureRequest, all_written: Callable[[int], Written]) -> Written:
    return all_written(request.param)


def scanned(written: Written, log: bytes | None = None, start: int | None = None) -> tuple[WalScanner, list[Event]]:
    log = written.log[: written.end - written.start] if log is None else log
    scanner = WalScanner(written.start if start is None else start, MIB)
    return scanner, list(scan(scanner, (log[at : at + CHUNK] for at in range(0, len(log), CHUNK))))


def test_every_end_of_a_transaction_is_found_where_the_client_saw_it(written: Written) -> None:
    scanner, events = scanned(written)
    assert scanner.ended == ""
    assert scanner.version == written.version
    assert scanner.end == written.end
    found = {event.xid: event for event in events if event.kind is EventKind.COMMIT}
    for before, behind, xid in written.commits:
        assert before <= found[xid].lsn < found[xid].end <= behind
    aborted = {event.xid for event in events if event.kind is EventKind.ABORT}
    assert set(written.aborts) <= aborted
    for xid, committed in written.prepared:
        assert (xid in found) == bool(committed)
        assert (xid in aborted) == (not committed)
    names = [event.name for event in events if event.kind is EventKind.RESTORE_POINT]
    assert names == ["point 10", "point 30", "point 50"]
    now = (datetime.now(UTC) - datetime(2000, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert all(now - 600_000_000 < event.time_us < now for event in events)
    assert [event.lsn for event in events] == sorted(event.lsn for event in events)


def test_pg_waldump_sees_the_same_records(all_written: Callable[[int], Written]) -> None:
    written = all_written(15)
    scanner, events = scanned(written)
    lines = re.findall(
        r"^rmgr: (\w+) .*? tx: +(\d+), lsn: ([0-9A-F/]+), prev ([0-9A-F/]+), desc: (\w+)(.*)$",
        written.dump,
        re.MULTILINE,
    )
    ends = [
        (lsns.parse(lsn), lsns.parse(previous))
        for manager, _, lsn, previous, what, _ in lines
        if (manager == "Transaction" and what in {"COMMIT", "ABORT", "COMMIT_PREPARED", "ABORT_PREPARED"})
        or (manager == "XLOG" and what == "RESTORE_POINT")
    ]
    assert len(ends) > 50
    assert [(event.lsn, event.previous) for event in events] == ends
    assert scanner.last == lsns.parse(lines[-1][2])


def test_a_scan_may_begin_with_any_page(written: Written) -> None:
    _, whole = scanned(written)
    for offset in [*range(0, 40 * 8192, 8192), MIB, 2 * MIB + 8192, len(written.log) // 8192 * 8192 // 2]:
        offset -= offset % 8192
        start = written.start + offset
        scanner, events = scanned(written, written.log[offset : written.end - written.start], start)
        assert scanner.ended == ""
        assert scanner.end == written.end
        assert events == [event for event in whole if event in events]
        # What begins on the first page behind a record's rest is found, too.
        assert {event.lsn for event in whole if event.lsn >= start + 2 * MIB} <= {event.lsn for event in events}


def test_bytes_behind_the_end_are_not_taken_for_log(written: Written) -> None:
    scanner, events = scanned(written, written.log)
    exact, expected = scanned(written)
    assert events[: len(expected)] == expected
    assert scanner.end >= exact.end
    assert scanner.ended or scanner.end <= written.start + len(written.log)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1000, 300_000), min_size=1, max_size=30))
def test_how_the_log_is_cut_changes_nothing(all_written: Callable[[int], Written], cuts: list[int]) -> None:
    written = all_written(15)
    exact, expected = scanned(written)
    log = memoryview(written.log)[: written.end - written.start]
    scanner, events, at = WalScanner(written.start, MIB), [], 0
    while at < len(log):
        for size in cuts:
            events += scanner.feed(log[at : at + size])
            at += size
    events += scanner.finish()
    assert events == expected
    assert (scanner.last, scanner.end) == (exact.last, exact.end)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_hostile_bytes_end_the_scan_and_do_nothing_else(
    all_written: Callable[[int], Written], data: st.DataObject
) -> None:
    written = all_written(18)
    log = bytearray(written.log[: 64 * 1024])
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(log) - 16))
        log[at : at + 16] = data.draw(st.binary(min_size=16, max_size=16) | st.just(b"\xff" * 16))
    scanner, events = scanned(written, bytes(log))
    assert scanner.end <= written.start + len(log)
    assert all(written.start <= event.lsn < event.end <= scanner.end for event in events)


@given(st.binary(max_size=40_000))
def test_garbage_is_no_log(garbage: bytes) -> None:
    scanner = WalScanner(0, MIB)
    assert list(scan(scanner, [garbage])) == []
    assert scanner.last is None
