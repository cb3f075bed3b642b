"""The WAL receiver: the server's own bytes, without gaps, and every way it can end."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.errors import BackupBroken, Cancelled, MingusError
from mingus_engine.sources.postgres.wal import WalReceiver
from tests.mingus_engine.sources.postgres.collecting import connection, leftovers
from tests.support.fixtures import MakeCluster
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until


@contextmanager
def receiving(cluster: PgCluster, cancel: threading.Event | None = None) -> Iterator[WalReceiver]:
    with WalReceiver(connection(cluster), cancel or threading.Event()) as receiver:
        receiver.create_temporary_slot("t")
        yield receiver


def write_wal(cluster: PgCluster, rows: int = 20000) -> None:
    cluster.execute(
        "create table if not exists w (a int, b text)",
        f"insert into w select g, repeat(md5(g::text), 10) from generate_series(1, {rows}) g",
    )


def nudge(cluster: PgCluster) -> None:
    """A little WAL: a server whose WAL ends at the beginning of a segment has nothing to send."""
    cluster.execute("select pg_logical_emit_message(true, 'test', 'x')")


def drain(receiver: WalReceiver, cluster: PgCluster, segment_bytes: int) -> tuple[int, bytes]:
    """Everything from the start of the current segment to the present."""
    identity = receiver.identify()
    start = lsns.segment_start(identity.flush, segment_bytes)
    write_wal(cluster)
    receiver.stop_at(lsns.parse(cluster.flush_lsn()))
    data = b""
    for piece in receiver.stream(start, identity.timeline):
        assert piece.start == start + len(data)
        data += piece.data
    return start, data


@pytest.mark.parametrize(("major", "segment_mib"), [(15, 16), (16, 1), (18, 64)])
def test_pieces_are_the_bytes_of_the_servers_own_segments(
    make_cluster: MakeCluster, major: int, segment_mib: int
) -> None:
    cluster = make_cluster(major, wal_segment_mib=segment_mib)
    size = segment_mib << 20
    with receiving(cluster) as receiver:
        start, data = drain(receiver, cluster, size)
    assert start % size == 0
    assert len(data) > 6_000_000
    for offset in range(0, len(data), size):
        part = data[offset : offset + size]
        file = cluster.data_directory / "pg_wal" / lsns.segment_name(1, start + offset, size)
        assert file.read_bytes()[: len(part)] == part


def test_the_slot_goes_with_the_connection(pg: PgCluster) -> None:
    with receiving(pg):
        assert [row for row in leftovers(pg) if row[0] == "slot"] == [("slot", "t")]
    wait_until(lambda: not leftovers(pg), "nothing is left")


def test_confirmed_wal_is_reported_as_flushed_and_nothing_else(pg15: PgCluster) -> None:
    with receiving(pg15) as receiver:
        identity = receiver.identify()
        start = lsns.segment_start(identity.flush, 16 << 20)
        pieces = receiver.stream(start, identity.timeline)
        nudge(pg15)
        next(pieces)
        query = "select coalesce(flush_lsn::text, '') from pg_stat_replication"
        assert pg15.value(query) == ""
        receiver.confirm(start + 8)
        receiver._report(flushed=receiver._confirmed)
        wait_until(lambda: pg15.value(query) == lsns.text(start + 8), "the server knows")
        pieces.close()


def test_wal_that_is_confirmed_by_nobody_does_not_stop_a_shutdown(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    with receiving(cluster) as receiver:
        identity = receiver.identify()
        start = lsns.segment_start(identity.flush, 16 << 20)
        receiver.confirm(start)  # the last segment boundary: the case that hangs if it is reported
        caught: list[BaseException] = []

        def run() -> None:
            try:
                for _ in receiver.stream(start, identity.timeline):
                    pass
            except MingusError as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        nudge(cluster)
        wait_until(lambda: receiver.position > start, "streaming")
        began = time.monotonic()
        cluster.stop("fast", timeout_s=30)
        assert time.monotonic() - began < 20
        thread.join(20)
        assert isinstance(caught[0], BackupBroken)


def test_wal_that_was_removed_is_an_error(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15, wal_segment_mib=1, conf={"max_wal_size": "2MB", "min_wal_size": "2MB"})
    write_wal(cluster)
    cluster.execute("checkpoint", "select pg_switch_wal()", "checkpoint")
    with receiving(cluster) as receiver, pytest.raises(BackupBroken, match="already been removed"):
        list(receiver.stream(1 << 20, 1))


def test_a_killed_sender_is_an_error(pg: PgCluster) -> None:
    with receiving(pg) as receiver:
        identity = receiver.identify()
        pieces = receiver.stream(lsns.segment_start(identity.flush, 16 << 20), identity.timeline)
        nudge(pg)
        next(pieces)
        pg.execute("select pg_terminate_backend(pid) from pg_stat_replication")
        with pytest.raises(BackupBroken):
            list(pieces)


def test_cancelling_ends_an_idle_stream(pg15: PgCluster) -> None:
    cancel = threading.Event()
    with receiving(pg15, cancel) as receiver:
        identity = receiver.identify()
        threading.Timer(0.2, cancel.set).start()
        with pytest.raises(Cancelled):
            list(receiver.stream(lsns.segment_start(identity.flush, 16 << 20), identity.timeline))


def test_closing_from_another_thread_ends_an_idle_stream(pg15: PgCluster) -> None:
    caught: list[BaseException] = []
    with receiving(pg15) as receiver:
        identity = receiver.identify()
        start = lsns.segment_start(identity.flush, 16 << 20)

        def run() -> None:
            try:
                list(receiver.stream(start, identity.timeline))
            except MingusError as error:
                caught.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        nudge(pg15)
        wait_until(lambda: receiver.position > start, "streaming")
        receiver.close()
        receiver.close()
        thread.join(10)
    assert not thread.is_alive()
    assert isinstance(caught[0], Cancelled)


def test_a_stream_can_be_started_again_where_it_ended(pg16: PgCluster) -> None:
    with receiving(pg16) as receiver:
        first, data = drain(receiver, pg16, 16 << 20)
        again = lsns.segment_start(first + len(data), 16 << 20)
        receiver.stop_at(first + len(data))
        repeated = b"".join(bytes(piece.data) for piece in receiver.stream(again, 1))
    assert repeated[: first + len(data) - again] == data[again - first :]


@pytest.mark.parametrize("major", [15, 18])
def test_a_promotion_ends_the_timeline_where_the_history_says(make_cluster: MakeCluster, major: int) -> None:
    primary = make_cluster(major)
    standby = PgCluster.standby_of(primary, primary.data_directory.parent / "standby")
    with standby:
        standby.start()
        with receiving(standby) as receiver:
            identity = receiver.identify()
            start = lsns.segment_start(identity.flush, 16 << 20)
            caught: list[object] = []
            thread = threading.Thread(target=lambda: caught.extend(receiver.stream(start, 1)))
            thread.start()
            nudge(primary)
            wait_until(lambda: receiver.position > start, "streaming")
            standby.promote()
            thread.join(30)
            assert not thread.is_alive()
            assert receiver.switch is not None
            assert (receiver.switch.timeline, receiver.switch.lsn) == (2, receiver.position)
            history = receiver.history(2)
            assert history.filename == "00000002.history"
            assert lsns.text(receiver.switch.lsn).encode() in history.content
            with pytest.raises(MingusError):
                receiver.history(9)


def test_what_a_client_was_told_before_a_pieces_clock_lies_before_its_flush_position(pg15: PgCluster) -> None:
    with receiving(pg15) as receiver:
        identity = receiver.identify()
        pieces = receiver.stream(lsns.segment_start(identity.flush, 16 << 20), 1, tick_s=1.0)
        known = []
        with pg15.connect() as client:
            while len(known) < 3:
                client.execute("select pg_logical_emit_message(true, 'test', 'x')")
                ((clock, flush),) = client.execute(
                    "select (extract(epoch from clock_timestamp() - '2000-01-01 00:00:00+00') * 1e6)::bigint,"
                    " pg_current_wal_flush_lsn()::text"
                ).fetchall()
                piece = next(p for p in pieces if p.start + len(p.data) >= lsns.parse(flush))
                # The clock of a piece was read before the client's message was flushed, or the piece knows of it.
                assert piece.server_clock_us <= clock or piece.flush >= lsns.parse(flush)
                if piece.server_clock_us:
                    known.append(piece)
        pieces.close()
    seconds = known[-1].server_clock_us / 1e6 + 946_684_800
    assert abs(seconds - time.time()) < 600
