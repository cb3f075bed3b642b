import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from mingus_engine import ulids
from mingus_engine.errors import Damaged, MingusError, NoSuchSnapshot, ObjectMissing
from mingus_engine.repository import envelope, names, records, state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.objects import put_object
from mingus_engine.repository.repository import Repository
from mingus_engine.store.faulty import Fault, FaultyStore
from tests.support import repositories as support
from tests.support.memory_store import MemoryStore
from tests.support.repositories import SOURCE, MadeRepository

TREE = support.MadeSource(files={b"f": b"content"})


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


def look(made: MadeRepository) -> state.SourceState:
    return state.look(made.repository, SOURCE)


def put(made: MadeRepository, kind: str, run: str = "", **facts: object) -> str:
    return made.repository.put_record(kind, SOURCE, facts, {}, run=run)


def ulid_of(stored: str) -> str:
    name = names.record(stored)
    assert name is not None
    return name.ulid


def shown(made: MadeRepository) -> list[str]:
    return [m.ulid for m in look(made).manifests]


def test_an_empty_source_has_nothing(made: MadeRepository) -> None:
    seen = look(made)
    assert (seen.manifests, seen.heads(), seen.removed, seen.planned) == ((), [], frozenset(), frozenset())
    with pytest.raises(NoSuchSnapshot):
        seen.newest()


def test_what_an_open_plan_names_is_not_there_until_the_plan_is_done(made: MadeRepository) -> None:
    one, two = support.backed_up(made, TREE), support.backed_up(made, TREE)
    plan = put(made, records.PLAN, names=[str(one.name)])
    seen = look(made)
    assert (shown(made), seen.removed, seen.planned) == ([two.ulid], {one.ulid}, {str(one.name)})
    assert seen.heads() == [two.digest]
    with pytest.raises(NoSuchSnapshot, match="was removed"):
        seen.find(one.ulid)
    put(made, records.DONE, plan=ulids.new())
    assert shown(made) == [two.ulid], "a done record of another plan closes nothing"
    put(made, records.DONE, plan=ulid_of(plan))
    assert shown(made) == [one.ulid, two.ulid]


def test_every_open_plan_counts(made: MadeRepository) -> None:
    found = [support.backed_up(made, TREE) for _ in range(3)]
    for m in found[:2]:
        put(made, records.PLAN, names=[str(m.name)])
    assert shown(made) == [found[2].ulid]


def test_a_fence_alone_leaves_a_snapshot_readable_but_unsettled(made: MadeRepository) -> None:
    m = support.backed_up(made, TREE)
    assert look(made).settled(m)
    put(made, records.FENCE, run=m.run)
    assert shown(made) == [m.ulid]
    assert not look(made).settled(m)


def test_a_verdict_that_names_the_snapshot_settles_it(made: MadeRepository) -> None:
    m = support.backed_up(made, TREE)
    fence = put(made, records.FENCE, run=m.run)
    put(made, records.VERDICT, run=m.run, fence=fence, manifests=[str(m.name)])
    assert look(made).settled(m)
    assert shown(made) == [m.ulid]


def test_each_fence_needs_its_own_verdict(made: MadeRepository) -> None:
    m = support.backed_up(made, TREE)
    fences = [put(made, records.FENCE, run=m.run, by=i) for i in range(2)]
    put(made, records.VERDICT, run=m.run, fence=fences[0], manifests=[str(m.name)])
    assert not look(made).settled(m)
    put(made, records.VERDICT, run=m.run, fence=fences[1], manifests=[str(m.name)])
    assert look(made).settled(m)


def test_one_verdict_that_omits_the_snapshot_makes_it_void_whatever_others_say(made: MadeRepository) -> None:
    m = support.backed_up(made, TREE)
    fence = put(made, records.FENCE, run=m.run)
    put(made, records.VERDICT, run=m.run, fence=fence, manifests=[str(m.name)])
    put(made, records.VERDICT, run=m.run, fence=fence, manifests=[])
    seen = look(made)
    assert (seen.manifests, seen.removed, seen.heads()) == ((), {m.ulid}, [])


def test_fences_and_verdicts_are_about_the_run_that_put_the_object_here(made: MadeRepository, tmp_path: Path) -> None:
    m = support.backed_up(made, TREE)
    other = support.make_repository(tmp_path / "other", signer=made.repository.keys.signer)
    there = support.shipped(made, other, m)
    assert there.put_by != m.run
    put(other, records.FENCE, run=m.run)
    assert look(other).settled(there)
    fence = put(other, records.FENCE, run=there.put_by)
    assert not look(other).settled(there)
    put(other, records.VERDICT, run=there.put_by, fence=fence, manifests=[])
    assert shown(other) == []


def test_two_objects_with_one_ulid_and_one_digest_are_one_snapshot(made: MadeRepository) -> None:
    m = support.backed_up(made, TREE)
    repository = made.repository
    raw = repository.reseal(m.envelope, repository.open(m.envelope), dict(m.envelope.placement))
    put_object(made.store, raw, lambda sha: str(names.SnapshotName(SOURCE, m.ulid, sha)))
    assert len(made.names("snapshots/")) == 2
    assert shown(made) == [m.ulid]
    put(made, records.PLAN, names=[str(look(made).manifests[0].name)])
    assert shown(made) == [m.ulid], "its other object is still there"


def test_two_digests_under_one_ulid_are_an_error(made: MadeRepository) -> None:
    m = support.backed_up(made, TREE)
    header = {k: v for k, v in m.envelope.header.items() if k not in {"digest", "signer"}}
    raw = made.repository.seal(envelope.SNAPSHOT, header, b'{"other":1}', dict(m.envelope.placement))
    other = put_object(made.store, raw, lambda sha: str(names.SnapshotName(SOURCE, m.ulid, sha)))
    with pytest.raises(Damaged, match="one ULID") as caught:
        look(made)
    assert other in caught.value.message
    assert str(m.name) in caught.value.message


def test_a_snapshot_that_is_gone_since_it_was_listed_was_removed(made: MadeRepository) -> None:
    m = support.backed_up(made, TREE)
    listed = list(made.store.list("snapshots/"))

    class Stale(FaultyStore):
        """Its first listing is older than the deletion."""

        first = True

        def list(self, prefix: str):  # type: ignore[no-untyped-def]
            if prefix.startswith("snapshots/") and self.first:
                self.first = False
                return iter(listed)
            return super().list(prefix)

    made.store.delete(str(m.name))
    repository = made.reopened(store=Stale(made.store))
    seen = state.look(repository, SOURCE)
    assert (seen.manifests, seen.removed) == ((), {m.ulid})


def test_a_snapshot_that_is_listed_and_cannot_be_had_is_an_error(made: MadeRepository) -> None:
    m = support.backed_up(made, TREE)
    fault = Fault("get", "raise", name="snapshots/*", error=lambda: ObjectMissing("injected"), times=None)
    with pytest.raises(ObjectMissing):
        state.look(made.reopened(store=FaultyStore(made.store, [fault])), SOURCE)
    assert shown(made) == [m.ulid]


@pytest.mark.parametrize("kind", [records.PLAN, records.VERDICT, records.DONE])
def test_a_damaged_record_is_named_and_hides_no_snapshot(made: MadeRepository, kind: str) -> None:
    m = support.backed_up(made, TREE)
    put(made, kind, run=ulids.new(), names=[], plan="x", fence="x", manifests=[])
    store = FaultyStore(made.store, [Fault("get", "flip", name="records/*", times=None)])
    seen = state.look(made.reopened(store=store), SOURCE)
    assert [found.ulid for found in seen.manifests] == [m.ulid]
    assert [name.split("/")[0] for name in seen.damaged] == ["records"]
    assert ("whatever it named" in seen.planned) is (kind == records.PLAN)


def test_a_damaged_manifest_stops_neither_the_next_backup_nor_the_others(made: MadeRepository) -> None:
    one, two = support.backed_up(made, TREE), support.backed_up(made, TREE)
    fault = Fault("get", "flip", name=str(two.name), times=None)
    store = FaultyStore(made.store, [fault])
    seen = state.look(made.reopened(store=store), SOURCE)
    assert [m.ulid for m in seen.manifests] == [one.ulid]
    assert list(seen.damaged) == [str(two.name)]
    assert seen.find(one.ulid).digest == one.digest
    for ask in (seen.newest, lambda: seen.find(two.ulid)):
        with pytest.raises(Damaged, match=two.ulid):
            ask()
    three = support.backed_up(made, TREE, store=store)
    assert three.heads == (one.digest,)


@pytest.mark.parametrize("kind", [records.PLAN, records.VERDICT])
def test_a_record_that_lacks_what_it_is_for_is_an_error(made: MadeRepository, kind: str) -> None:
    m = support.backed_up(made, TREE)
    stored = put(made, kind, run=m.run)
    with pytest.raises(MingusError) as caught:
        look(made)
    assert stored in caught.value.message


def test_plans_are_listed_before_manifests(made: MadeRepository) -> None:
    store = FaultyStore(made.store)
    state.look(made.reopened(store=store), SOURCE)
    listed = [c.name for c in store.calls if c.operation == "list" and c.name.startswith(("records/", "snapshots/"))]
    assert listed == [f"records/{SOURCE}/", f"snapshots/{SOURCE}/"]


class Distant(MemoryStore):
    """Gives no manifest before *together* of them were asked for."""

    def __init__(self, objects: dict[str, bytes], together: int) -> None:
        super().__init__(objects)
        self.barrier = threading.Barrier(together, timeout=30)

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        if name.startswith("snapshots/"):
            self.barrier.wait()
        return super().get(name, max_bytes=max_bytes)


def test_a_distant_store_is_asked_for_many_snapshots_at_a_time(made: MadeRepository) -> None:
    ulids_made = [support.backed_up(made, TREE).ulid for _ in range(3)]
    distant = Distant(MemoryStore.copy_of(made.store).objects, 3)
    assert [m.ulid for m in state.look(made.reopened(store=distant), SOURCE).manifests] == ulids_made


def test_a_snapshot_is_found_by_the_beginning_of_its_ulid(made: MadeRepository) -> None:
    one, two = support.backed_up(made, TREE), support.backed_up(made, TREE)
    seen = look(made)
    assert seen.find(one.ulid.lower()).digest == one.digest
    assert seen.newest().digest == two.digest
    for text in (ulids.new(), "", one.ulid[:4]):
        with pytest.raises(NoSuchSnapshot):
            seen.find(text)


@dataclass
class Node:
    """What ordering needs of a manifest."""

    ulid: str
    digest: str
    heads: tuple[str, ...] = ()
    position: int = 0
    name: str = "snapshots/x"


def order(*nodes: Node) -> str:
    return "".join(m.digest for m in state.in_order(nodes))  # type: ignore[arg-type]


def test_order_is_the_graph_of_heads_then_the_position_then_the_ulid() -> None:
    a, b, c = Node("9", "a"), Node("5", "b", ("a",)), Node("1", "c", ("b",))
    assert order(c, b, a) == order(a, c, b) == "abc", "a clock that went back does not reorder"
    assert order(Node("9", "a", position=1), Node("1", "b", position=2)) == "ab"
    assert order(Node("2", "b"), Node("1", "a")) == "ab"
    fork = (Node("1", "a"), Node("2", "y", ("a",), 20), Node("3", "x", ("a",), 10), Node("0", "z", ("x", "y"), 5))
    assert order(*fork) == "axyz"


def test_heads_that_are_not_here_do_not_matter_and_nobody_is_lost() -> None:
    assert order(Node("1", "a", ("expired", "gone")), Node("2", "b", ("a", "a"))) == "ab"
    assert order(Node("1", "a"), Node("2", "a"), Node("3", "c", ("a",))) == "aac", "two snapshots with one content"


def test_a_circle_of_heads_is_an_error_not_an_empty_list() -> None:
    with pytest.raises(Damaged, match="snapshots/x"):
        order(Node("1", "a", ("b",)), Node("2", "b", ("a",)), Node("3", "c"))


def test_snapshots_of_other_sources_are_not_seen(made: MadeRepository) -> None:
    support.backed_up(made, TREE, source=SOURCE + "-2")
    assert shown(made) == []
    assert made.repository.sources() == [SOURCE + "-2"]


def test_a_source_whose_runs_are_cleaned_away_is_still_listed(made: MadeRepository) -> None:
    support.backed_up(made, TREE)
    for name in made.names("runs/"):
        made.store.delete(name)
    assert made.repository.sources() == [SOURCE]


def test_looking_needs_no_key(made: MadeRepository) -> None:
    m: Manifest = support.backed_up(made, TREE)
    keyless: Repository = made.reopened(with_key=False)
    assert [found.ulid for found in state.look(keyless, SOURCE).manifests] == [m.ulid]
