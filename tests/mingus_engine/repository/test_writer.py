"""DESIGN §4 "A writer MUST", step by step."""

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from mingus_engine.errors import ClockSkew, CommitRefused, Damaged, MingusError, StoreUnreachable
from mingus_engine.repository import names, records, runs, state
from mingus_engine.repository.writer import WriteRun, open_runs
from mingus_engine.store.faulty import Fault, FaultyStore
from tests.support import repositories as support
from tests.support.repositories import SOURCE, MadeRepository, SkewedStore

TREE = support.small_source()


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


@pytest.fixture
def run(made: MadeRepository) -> Iterator[WriteRun]:
    with closing(support.begin(made)) as opened:
        yield opened


def fence(made: MadeRepository, run: str) -> str:
    return made.repository.put_record(records.FENCE, SOURCE, {"plan": "x"}, {}, run=run)


def test_the_steps_come_in_the_order_of_the_protocol(made: MadeRepository) -> None:
    store = FaultyStore(made.store)
    manifest = support.backed_up(made, TREE, store=store)
    run = manifest.run
    steps = [
        ("put", f"runs/{SOURCE}/{run}.start"),
        ("get", f"runs/{SOURCE}/{run}.start"),
        ("list", f"records/{SOURCE}/"),
        ("list", f"snapshots/{SOURCE}/"),
        ("put", f"packs/{SOURCE}/{run}/"),
        ("put", str(manifest.name)),
        ("get", str(manifest.name)),
        ("list", f"records/{SOURCE}/{run}.fence."),
        ("put", f"runs/{SOURCE}/{run}.end"),
    ]
    calls = [(c.operation, c.name) for c in store.calls]
    start = next(i for i, c in enumerate(calls) if c == steps[0])
    at = start - 1
    for operation, name in steps:
        at = next(i for i, c in enumerate(calls) if i > at and c[0] == operation and c[1].startswith(name))
    assert at == len(calls) - 1, "nothing is put after .end"
    last_pack = max(i for i, c in enumerate(calls) if c[0] == "put" and c[1].startswith("packs/"))
    assert last_pack < calls.index(("put", str(manifest.name))), "the manifest comes after every pack"
    assert not [c for c in calls[:start] if c[0] == "put"], "nothing is put before .start"


def test_start_holds_the_run_key_and_end_what_was_committed(made: MadeRepository) -> None:
    manifest = support.backed_up(made, TREE)
    start, end = (names.RunName(SOURCE, manifest.run, part) for part in ("start", "end"))
    keys = made.repository.run_keys(start)
    assert made.repository.manifest_body(manifest).run_keys == {manifest.run: keys.run_key}
    assert made.repository.get_run(end).header["committed"] == [str(manifest.name)]
    assert made.repository.get_run(start).text("kind") == runs.WRITE
    assert open_runs(made.repository, SOURCE) == []


def test_a_start_that_did_not_arrive_whole_is_refused(made: MadeRepository) -> None:
    store = FaultyStore(made.store, [Fault("put", "flip", name="runs/*.start")])
    with pytest.raises(Damaged, match="read back"):
        support.begin(made, store=store)


def test_a_run_that_was_fenced_before_its_commit_is_refused_and_stays_open(made: MadeRepository, run: WriteRun) -> None:
    stored = fence(made, run.run)
    with pytest.raises(CommitRefused, match=run.run) as caught:
        support.commit(made, run, TREE)
    assert stored in caught.value.message
    assert caught.value.transient
    assert open_runs(made.repository, SOURCE) == [run.run], "no .end: it did not succeed"


def test_a_run_whose_adopted_run_was_fenced_is_refused(made: MadeRepository, run: WriteRun) -> None:
    with closing(support.begin(made)) as dead:
        support.store_tree(made, dead, TREE)
    body, adopted = support.store_tree(made, run, TREE)
    assert {p.run for p in adopted} == {dead.run} == run.adopted
    fence(made, dead.run)
    with pytest.raises(CommitRefused, match=dead.run):
        run.commit(
            kind="x", position=0, flagged=False, packs=[*run.packs.refs, *adopted], logs=[], body=body
        )  # fmt: skip


def test_a_run_that_counts_on_a_log_of_a_fenced_run_is_refused(made: MadeRepository) -> None:
    with closing(support.begin(made)) as dead:
        support.archive(made, dead, support.wal_pieces(1 << 24, 1000))
    with closing(support.begin(made)) as run:
        fence(made, dead.run)
        with pytest.raises(CommitRefused, match=dead.run):
            support.archive(made, run, support.wal_pieces(1 << 24, 1000))


def test_fences_on_other_runs_and_sources_do_not_matter(made: MadeRepository, run: WriteRun) -> None:
    with closing(support.begin(made)) as other:
        fence(made, other.run)
    made.repository.put_record(records.FENCE, "elsewhere", {}, {}, run=run.run)
    assert support.commit(made, run, TREE).run == run.run


@pytest.mark.parametrize("minutes", [-6, 6])
def test_clocks_that_differ_too_much_refuse_the_commit(made: MadeRepository, minutes: int) -> None:
    store = SkewedStore(made.store, timedelta(minutes=minutes))
    with closing(support.begin(made, store=store)) as run, pytest.raises(ClockSkew, match=str(made.root)):
        support.commit(made, run, TREE)
    assert made.names("snapshots/") == []


def test_clocks_that_differ_a_little_are_recorded(made: MadeRepository) -> None:
    manifest = support.backed_up(made, TREE, store=SkewedStore(made.store, timedelta(minutes=4)))
    assert manifest.envelope.text("store_time") > manifest.envelope.text("written_at")


@pytest.mark.parametrize("fault", ["flip", "truncate"])
@pytest.mark.parametrize("operation", ["put", "get"])
def test_a_manifest_that_reads_back_differently_is_no_commit(made: MadeRepository, operation: str, fault: str) -> None:
    store = FaultyStore(made.store, [Fault(operation, fault, name="snapshots/*")])
    with closing(support.begin(made, store=store)) as run:
        with pytest.raises(Damaged, match="snapshots/"):
            support.commit(made, run, TREE)
        assert open_runs(made.repository, SOURCE) == [run.run]


def test_a_lost_answer_to_the_manifest_is_a_failure_though_it_is_there(made: MadeRepository) -> None:
    store = FaultyStore(made.store, [Fault("put", "raise_after", name="snapshots/*")])
    with closing(support.begin(made, store=store)) as run, pytest.raises(StoreUnreachable):
        support.commit(made, run, TREE)
    (manifest,) = state.look(made.repository, SOURCE).manifests
    assert support.contents(made.repository, manifest) == TREE.digests(), "whatever is listed restores"


def test_a_failed_listing_of_fences_is_not_read_as_none(made: MadeRepository) -> None:
    store = FaultyStore(made.store, [Fault("list", "raise", name="records/*.fence.")])
    with closing(support.begin(made, store=store)) as run, pytest.raises(StoreUnreachable):
        support.commit(made, run, TREE)
    assert made.names(f"runs/{SOURCE}/{run.run}.end") == []


def test_nothing_is_built_on_a_plan_or_manifest_that_cannot_be_read(made: MadeRepository) -> None:
    support.backed_up(made, TREE)
    made.repository.put_record(records.PLAN, SOURCE, {"names": []}, {})
    for prefix, any_name_is_planned in (("records/", True), ("snapshots/", False)):
        store = FaultyStore(made.store, [Fault("get", "flip", name=f"{prefix}*", times=None)])
        with closing(support.begin(made, store=store)) as run:
            assert [name.startswith(prefix) for name in run.state.damaged] == [True]
            assert ("any name" in run.state.planned) is any_name_is_planned


def test_heads_are_the_newest_known_before_and_forks_are_joined(made: MadeRepository) -> None:
    with closing(support.begin(made)) as one, closing(support.begin(made)) as other:
        first, second = support.commit(made, one, TREE), support.commit(made, other, TREE)
    assert (first.heads, second.heads) == ((), ()), "neither had seen the other"
    third = support.backed_up(made, support.small_source(3))
    assert set(third.heads) == {first.digest, second.digest}


def test_the_hash_key_stays_the_sources_own(made: MadeRepository) -> None:
    first = support.backed_up(made, TREE)
    second = support.backed_up(made, TREE)
    other = support.backed_up(made, TREE, source="another")
    keys = [made.repository.manifest_body(m).hash_key for m in (first, second, other)]
    assert keys[0] == keys[1] != keys[2]


def test_a_damaged_dead_start_does_not_keep_the_source_from_being_backed_up(made: MadeRepository) -> None:
    with closing(support.begin(made)) as older, closing(support.begin(made)) as dead:
        pass
    path = made.path(f"runs/{SOURCE}/{dead.run}.start")
    raw = bytearray(path.read_bytes())
    for at in (8, 60, len(raw) - 1):  # its version (looks like a newer format), its header, its body
        changed = bytearray(raw)
        changed[at] ^= 2
        path.write_bytes(changed)
        manifest = support.backed_up(made, TREE)
        assert support.contents(made.repository, manifest) == TREE.digests()
    assert made.repository.manifest_body(manifest).hash_key == older.keys.hash_key


def test_every_run_has_its_own_key_and_number(made: MadeRepository) -> None:
    opened = [support.begin(made) for _ in range(3)]
    for run in opened:
        run.close()
    assert len({r.run for r in opened}) == len({r.keys.run_key for r in opened}) == 3


def test_provenance_is_kept_and_is_plain(made: MadeRepository, run: WriteRun) -> None:
    header = made.repository.get_run(names.RunName(SOURCE, run.run, "start")).header
    assert header["provenance"] == {"host": "test", "user": "test"}


STEPS = ["runs/*.start", "packs/*", "logs/*/keys/*", "logs/*/7*", "snapshots/*", "runs/*.end"]


@pytest.mark.parametrize("action", ["raise", "raise_after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_failure_at_any_put_leaves_a_repository_in_which_everything_listed_restores(
    made: MadeRepository, step: str, action: str
) -> None:
    before = support.backed_up(made, TREE)
    store = FaultyStore(made.store, [Fault("put", action, name=step)])
    after = support.small_source(9)
    with pytest.raises(StoreUnreachable):
        support.backed_up(made, after, store=store, wal_pieces=support.wal_pieces(1 << 24, 3000))
    fresh = made.reopened()
    found = {m.ulid: support.contents(fresh, m) for m in state.look(fresh, SOURCE).manifests}
    assert found.pop(before.ulid) == TREE.digests()
    assert all(digests == after.digests() for digests in found.values())
    retried = support.backed_up(made, after, wal_pieces=support.wal_pieces(1 << 24, 3000))
    assert support.contents(made.reopened(), retried) == after.digests()


def test_two_writers_at_once_both_commit(made: MadeRepository) -> None:
    trees = [support.small_source(i) for i in range(2)]
    failures: list[MingusError] = []

    def back_up(tree: support.MadeSource) -> None:
        try:
            support.backed_up(made, tree)
        except MingusError as error:
            failures.append(error)

    threads = [threading.Thread(target=back_up, args=(t,)) for t in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    found = [support.contents(made.repository, m) for m in state.look(made.repository, SOURCE).manifests]
    assert sorted(map(json.dumps, ({k.hex(): v for k, v in f.items()} for f in found))) == sorted(
        json.dumps({k.hex(): v for k, v in t.digests().items()}) for t in trees
    )
