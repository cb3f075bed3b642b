"""Where the recording of a command stream goes on."""

from __future__ import annotations

from mingus_engine.jobs.redis.stream_position import Gap, position
from mingus_engine.jobs.redis.stream_store import system_id
from mingus_engine.repository import log_index, names
from mingus_engine.repository.log_index import LogIndex, StoredLog
from mingus_engine.repository.names import LogName
from mingus_engine.sources.redis.choosing import LAG_MAX_BYTES
from mingus_engine.sources.redis.stream import Replication

OLD, NOW, OTHER = "0a" * 20, "1b" * 20, "2c" * 20


def stored(*logs: tuple[str, int, int]) -> LogIndex:
    return log_index.index(
        StoredLog(LogName("s", names.wal_lineage(system_id(replid), 1, start), start, end, "00" * 32), 1)
        for replid, start, end in logs
    )


def server(offset: int, backlog_start: int, *, replid2: str = "", shared_to: int = 0) -> Replication:
    return Replication(NOW, offset, True, replid2, shared_to, backlog_start, 1 << 20)


def test_it_goes_on_where_what_is_stored_ends() -> None:
    here = position(stored((NOW, 0, 50), (NOW, 50, 80)), server(100, 10), {})
    assert (here.replid, here.offset, here.begins, here.gap) == (NOW, 80, False, None)


def test_behind_a_promotion_it_goes_on_in_the_old_history() -> None:
    here = position(stored((OLD, 0, 80)), server(100, 10, replid2=OLD, shared_to=80), {})
    assert (here.replid, here.offset, here.gap) == (OLD, 80, None)


def test_what_the_old_primary_had_alone_is_not_gone_on_with() -> None:
    index = stored((OLD, 0, 90))
    here = position(index, server(100, 10, replid2=OLD, shared_to=80), {}, OLD)
    assert here.begins
    assert here.gap == Gap(OLD, 90, NOW, 10, "the server's share of that history ends at 80")


def test_a_backlog_that_is_too_short_is_a_gap() -> None:
    here = position(stored((NOW, 0, 50)), server(1000, 800), {}, NOW)
    assert (here.offset, here.begins) == (800, True)
    assert here.gap is not None
    assert here.gap.as_dict()["bytes"] == 750
    assert "750 bytes are gone" in here.gap.why


def test_a_newer_snapshot_makes_the_gap_smaller() -> None:
    here = position(stored((NOW, 0, 50)), server(1000, 800), {NOW: [20, 700, 900]}, NOW)
    assert (here.offset, here.begins) == (900, False)
    assert here.gap is not None
    assert (here.gap.start, here.gap.end) == (50, 900)


def test_nothing_stored_goes_on_at_the_newest_snapshot_and_is_no_gap() -> None:
    here = position(stored(), server(1000, 800), {NOW: [900], OTHER: [950]})
    assert (here.offset, here.begins, here.gap) == (900, False, None)
    here = position(stored(), server(1000, 950), {NOW: [900]})
    assert (here.offset, here.begins, here.gap) == (950, True, None)


def test_a_server_with_another_history_is_begun_anew() -> None:
    here = position(stored((OTHER, 0, 5000)), server(100, 10), {}, OTHER)
    assert (here.replid, here.offset, here.begins) == (NOW, 10, True)
    assert here.gap is not None
    assert (here.gap.replid, here.gap.start, here.gap.as_dict()["bytes"]) == (OTHER, 5000, None)


def test_a_server_that_was_set_back_within_its_history_is_no_gap() -> None:
    here = position(stored((OLD, 0, 90)), server(40, 40, replid2=OLD, shared_to=40), {OLD: [40]}, OLD)
    assert (here.replid, here.offset, here.gap) == (OLD, 40, None)


def test_it_begins_a_little_before_the_present_where_the_server_can() -> None:
    here = position(stored(), server(1 << 30, 5), {})
    assert (here.offset, here.begins) == ((1 << 30) - LAG_MAX_BYTES, True)


def test_of_several_snapshots_in_reach_the_oldest_leaves_the_smallest_gap() -> None:
    here = position(stored((NOW, 0, 50)), server(1000, 800), {NOW: [20, 820, 900]}, NOW)
    assert here.gap is not None
    assert (here.offset, here.begins, here.gap.end) == (820, False, 820)
