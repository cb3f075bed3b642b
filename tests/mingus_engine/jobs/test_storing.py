"""Snapshots that build on a parent: what is compared, what is taken over unread, what is stored again."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mingus_engine import bounds
from mingus_engine.codec.entries import RunTable, decode_extents
from mingus_engine.errors import ParentDamaged, SourceError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.entry_sorter import EntrySorter
from mingus_engine.jobs.pipeline import Pipeline
from mingus_engine.jobs.storing import Storing
from mingus_engine.repository import resume
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.sources.base import Item, Stretch, Stretches
from tests.support import repositories as support
from tests.support.repositories import SOURCE, MadeItem, MadeRepository, MadeSource, noise

BLOCK, PAGE = bounds.BLOCK_BYTES, bounds.PAGE_BYTES


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


def parent_of(made: MadeRepository, manifest: Manifest, **packs: set[tuple[str, int]]) -> ParentSnapshot:
    return ParentSnapshot(SnapshotReader(made.repository, manifest), **packs)


def on(made: MadeRepository, manifest: Manifest, tree: MadeSource, **packs: set[tuple[str, int]]) -> Manifest:
    """A snapshot of *tree* that builds on *manifest*; it restores to *tree*."""
    child = support.backed_up(made, tree, parent=parent_of(made, manifest, **packs))
    assert support.contents(made.reopened(), child) == tree.digests()
    return child


def statistics(made: MadeRepository, manifest: Manifest) -> dict[str, int]:
    return dict(made.repository.manifest_body(manifest).statistics)


def changed(content: bytes, *places: int) -> bytes:
    copy = bytearray(content)
    for at in places:
        copy[at] ^= 1
    return bytes(copy)


class Unchanged(MadeItem):
    """An item that gives only its changed pages."""

    pages: frozenset[int] = frozenset()
    old_bytes: int = 0

    def read(self, scratch: memoryview) -> Stretches:  # type: ignore[override]
        """New pages as bytes, old ones as the parent's, what neither has as zeros."""
        found = []
        for at in range(self.offset, self.offset + self.length, PAGE):
            data = self.content(at, min(PAGE, self.offset + self.length - at))
            if at // PAGE in self.pages:
                found.append(Stretch(at, len(data), memoryview(data)))
            elif at + len(data) <= self.old_bytes:
                found.append(Stretch(at, len(data), parent=True))
            else:
                assert not any(data)
                found.append(Stretch(at, len(data)))
        return Stretches(found)


class ChangedPages(MadeSource):
    """A tree whose source knows which pages of each file changed since *old*."""

    old: MadeSource

    def file_items(self, path: bytes) -> Iterator[MadeItem]:
        """As the contract of sources wants them."""
        if path not in self.old.files:
            yield from super().file_items(path)
            return
        old, new = self.old.files[path], self.files[path]
        pages = {at // PAGE for at in range(0, len(new), PAGE) if old[at : at + PAGE] != new[at : at + PAGE]}
        zeros = {p for p in pages if p * PAGE >= len(old) and not any(new[p * PAGE : (p + 1) * PAGE])}
        for item in super().file_items(path):
            known = Unchanged(item.file, item.offset, item.length, item.last, item.content)
            known.pages, known.old_bytes = frozenset(pages - zeros), len(old)
            yield known


def changed_pages(old: MadeSource, files: dict[bytes, bytes], item_bytes: int = bounds.SLAB_BYTES) -> ChangedPages:
    source = ChangedPages(files=files, item_bytes=item_bytes)
    source.old = old
    return source


def test_only_blocks_that_changed_are_stored(made: MadeRepository) -> None:
    old = MadeSource(files={b"f%d" % i: noise(10 * BLOCK + 17, i) for i in range(4)})
    first = support.backed_up(made, old)
    new = MadeSource(files={**old.files, b"f1": changed(old.files[b"f1"], 3 * BLOCK, 10 * BLOCK + 16), b"f9": b"new"})
    second = on(made, first, new)
    assert statistics(made, second)["reused_bytes"] == 4 * (10 * BLOCK + 17) - BLOCK - 17
    assert {p.run for p in second.packs} == {first.run, second.run}
    assert first.packs[0] in second.packs


def test_a_snapshot_restores_without_its_parent(made: MadeRepository) -> None:
    old = MadeSource(files={b"f": noise(10 * BLOCK, 1)})
    first = support.backed_up(made, old)
    new = MadeSource(files={b"f": changed(old.files[b"f"], 5)})
    second = on(made, first, new)
    made.path(str(first.name)).unlink()
    assert support.contents(made.reopened(), second) == new.digests()


def test_files_that_grow_shrink_vanish_and_come_back_are_what_they_are_now(made: MadeRepository) -> None:
    whole = noise(7 * BLOCK + 100, 1)
    manifest = support.backed_up(made, MadeSource(files={b"f": whole}))
    for content in (whole[:-1], whole[: 3 * BLOCK], b"", whole + b"more", whole[BLOCK:], bytes(5 * BLOCK), whole):
        manifest = on(made, manifest, MadeSource(files={b"f": content, b"g": b"beside"}))
    manifest = on(made, manifest, MadeSource(files={b"g": b"beside"}))
    on(made, manifest, MadeSource(files={b"f": whole}))


def test_large_files_are_compared_span_by_span(made: MadeRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounds, "MAP_SPAN_BYTES", 5 * BLOCK)
    old = MadeSource(files={b"big": noise(23 * BLOCK + 17, 1)}, item_bytes=3 * BLOCK)
    manifest = support.backed_up(made, old)
    for at in (0, 5 * BLOCK - 1, 5 * BLOCK, 23 * BLOCK + 16):
        new = MadeSource(files={b"big": changed(old.files[b"big"], at)}, item_bytes=3 * BLOCK)
        stored = statistics(made, on(made, manifest, new))
        block = 17 if at > 23 * BLOCK else BLOCK
        assert stored["reused_bytes"] == 23 * BLOCK + 17 - block


def test_pages_are_taken_over_unread_and_their_blocks_stay_comparable(made: MadeRepository) -> None:
    old = MadeSource(files={b"f": noise(40 * BLOCK, 1)})
    first = support.backed_up(made, old)
    content = changed(old.files[b"f"], 7 * PAGE, 9 * PAGE)
    new = changed_pages(old, {b"f": content})
    second = on(made, first, new)
    assert statistics(made, second)["given_bytes"] == 2 * PAGE
    assert statistics(made, second)["reused_bytes"] == 40 * BLOCK - 2 * PAGE
    # The next one compares: what is unknown (two blocks) is stored again, and then nothing is.
    third = on(made, second, MadeSource(files={b"f": content}))
    assert statistics(made, third)["reused_bytes"] == 38 * BLOCK
    fourth = on(made, third, MadeSource(files={b"f": content}))
    assert statistics(made, fourth)["reused_bytes"] == 40 * BLOCK


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32), st.integers(0, 60), st.integers(1, 3), st.booleans())
def test_chains_of_changed_pages_and_of_compared_blocks_restore_to_the_newest_bytes(
    made: MadeRepository, seed: int, pages: int, item_blocks: int, small_spans: bool
) -> None:
    chosen = random.Random(seed)
    span = bounds.MAP_SPAN_BYTES
    bounds.MAP_SPAN_BYTES = 2 * BLOCK if small_spans else span
    try:
        tree = MadeSource(files={b"f": noise(pages * PAGE, seed)})
        manifest = support.backed_up(made, tree)
        for step in range(4):
            content = bytearray(tree.files[b"f"])
            size = max(0, len(content) + chosen.choice([0, 0, -9, -1, 1, 5, 20]) * PAGE)
            content = content[:size] + bytes(max(0, size - len(content)))
            for _ in range(chosen.choice([0, 1, 3, 30])):
                if content:
                    page = chosen.randrange(len(content) // PAGE)
                    content[page * PAGE : (page + 1) * PAGE] = noise(PAGE, (seed, step, page))
            new = changed_pages(tree, {b"f": bytes(content)}, item_bytes=item_blocks * BLOCK)
            manifest = on(made, manifest, new if chosen.random() < 0.7 else MadeSource(files={b"f": bytes(content)}))
            tree = MadeSource(files={b"f": bytes(content)})
    finally:
        bounds.MAP_SPAN_BYTES = span


def test_what_lies_in_a_sparse_pack_is_stored_again_also_unread(made: MadeRepository) -> None:
    old = MadeSource(files={b"f": noise(10 * BLOCK, 1)})
    first = support.backed_up(made, old)
    sparse = {(p.run, p.number) for p in first.packs}
    compared = on(made, first, old, sparse=sparse)
    unread = on(made, first, changed_pages(old, dict(old.files)), sparse=sparse)
    for manifest in (compared, unread):
        assert {p.run for p in manifest.packs} == {manifest.run}
        assert statistics(made, manifest)["reused_bytes"] == 0


def test_nothing_is_built_on_a_refused_pack_and_no_range_of_it_is_taken_over(made: MadeRepository) -> None:
    old = MadeSource(files={b"f": noise(10 * BLOCK, 1)})
    first = support.backed_up(made, old)
    refused = {(p.run, p.number) for p in first.packs}
    assert not parent_of(made, first, refused=refused).ranges_allowed
    assert statistics(made, on(made, first, old, refused=refused))["reused_bytes"] == 0
    with pytest.raises(SourceError, match="the parent does not have"):
        on(made, first, changed_pages(old, dict(old.files)), refused=refused)


@pytest.mark.parametrize(
    "stretches",
    [
        [Stretch(0, 2 * BLOCK, parent=True)],
        [Stretch(PAGE, BLOCK - PAGE, parent=True)],
        [Stretch(0, PAGE, parent=True), Stretch(0, PAGE, parent=True)],
    ],
    ids=["beyond its end", "not from the beginning", "twice"],
)
def test_ranges_that_cannot_be_are_refused(made: MadeRepository, stretches: list[Stretch]) -> None:
    tree = MadeSource(files={b"f": noise(BLOCK, 1)})
    first = support.backed_up(made, tree)

    class Wrong(MadeItem):
        def read(self, scratch: memoryview) -> Stretches:  # type: ignore[override]
            return Stretches(stretches)

    (item,) = tree.file_items(b"f")
    with ExitStack() as stack:
        run = stack.enter_context(closing(support.begin(made)))
        table = RunTable([run.run])
        entries = stack.enter_context(closing(EntrySorter(table, made.spool)))
        blocks = stack.enter_context(closing(resume.stored_blocks(run)))
        pipeline = Pipeline(run, entries, table, blocks, JobContext(), parent=parent_of(made, first))
        wrong: list[Item] = [Wrong(item.file, 0, item.length, True, item.content)]
        with pytest.raises(SourceError, match=r"stretch|does not have"):
            pipeline.process(iter(wrong), 1)


def test_a_dead_increment_is_resumed_on_top_of_its_parent(made: MadeRepository) -> None:
    old = MadeSource(files={b"f%d" % i: noise(10 * BLOCK, i) for i in range(3)})
    first = support.backed_up(made, old)
    new = MadeSource(files={p: changed(c, 0, 5 * BLOCK) for p, c in old.files.items()})
    with closing(support.begin(made)) as dead:
        support.store_tree(made, dead, new, parent=parent_of(made, first))
    again = on(made, first, new)
    assert statistics(made, again)["reused_bytes"] == 30 * BLOCK
    assert {p.run for p in again.packs} == {first.run, dead.run, again.run}


def blobs_of_groups(made: MadeRepository, manifest: Manifest) -> list[int]:
    """In how many blobs each 256 KiB of the files of a snapshot lie."""
    reader = SnapshotReader(made.repository, manifest)
    found = []
    for file in reader.files():
        groups: dict[int, set[tuple[int, int, int]]] = {}
        for e in decode_extents(file.entry.extents, "extents"):
            for at in range(e.offset // bounds.BLOB_PLAIN_BYTES, -(-(e.offset + e.length) // bounds.BLOB_PLAIN_BYTES)):
                groups.setdefault(at, set()).add((e.run, e.pack, e.position))
        found += map(len, groups.values())
    return found


def test_a_long_chain_scatters_no_file_over_more_than_a_few_blobs_and_stores_twice_as_much_at_most(
    made: MadeRepository,
) -> None:
    chance = random.Random(4)
    tree = MadeSource(files={b"f": noise(32 * BLOCK + 17, 1)})
    manifest, blocks, stored = support.backed_up(made, tree), 0, 0
    for _ in range(30):
        places = {chance.randrange(32) * BLOCK for _ in range(3)}
        tree = MadeSource(files={b"f": changed(tree.files[b"f"], *places)})
        manifest = on(made, manifest, tree)
        blocks += len(places)
        stored += len(tree.files[b"f"]) - statistics(made, manifest)["reused_bytes"]
    assert max(blobs_of_groups(made, manifest)) <= bounds.SCATTER_MAX_BLOBS
    assert blocks * BLOCK < stored <= 2 * blocks * BLOCK


def test_what_a_dead_increment_gathered_is_not_gathered_again(made: MadeRepository) -> None:
    tree = MadeSource(files={b"f": noise(4 * BLOCK, 1)})
    manifest = support.backed_up(made, tree)
    for at in (0, 1):
        tree = MadeSource(files={b"f": changed(tree.files[b"f"], at * BLOCK)})
        manifest = on(made, manifest, tree)
    tree = MadeSource(files={b"f": changed(tree.files[b"f"], 2 * BLOCK)})
    with closing(support.begin(made)) as dead:
        support.store_tree(made, dead, tree, parent=parent_of(made, manifest))
    again = on(made, manifest, tree)
    assert statistics(made, again)["reused_bytes"] == 4 * BLOCK
    assert {p.run for p in again.packs} == {dead.run, again.run}


def test_every_run_has_its_number_before_threads_ask_for_it(made: MadeRepository) -> None:
    """A run table is not made for several threads: two runs could get one number, and the backup would be broken."""
    old = MadeSource(files={b"f%d" % i: noise(10 * BLOCK, i) for i in range(3)})
    first = support.backed_up(made, old)
    changed_once = MadeSource(files={**old.files, b"f1": noise(10 * BLOCK, "else")})
    second = on(made, first, changed_once)
    with closing(support.begin(made)) as dead:
        support.store_tree(made, dead, MadeSource(files={b"g": noise(BLOCK, 9)}))
    with ExitStack() as stack:
        run = stack.enter_context(closing(support.begin(made)))
        blocks = stack.enter_context(closing(resume.stored_blocks(run)))
        table = RunTable([run.run])
        Storing(run, table, blocks, parent_of(made, second))
        assert {table.run(i, "table") for i in range(len(table))} == {run.run, dead.run, first.run, second.run}


def test_a_parent_that_is_damaged_ends_the_backup_and_says_so(made: MadeRepository) -> None:
    tree = MadeSource(files={b"f": noise(10 * BLOCK, 1)})
    first = support.backed_up(made, tree)
    for pack in first.packs:
        path = made.path(str(pack.name(SOURCE)))
        raw = bytearray(path.read_bytes())
        for at in range(72, len(raw), 50):
            raw[at] ^= 1
        path.write_bytes(raw)
    with pytest.raises(ParentDamaged, match=first.ulid):
        on(made, first, tree)


def test_a_parent_tells_its_files_and_their_contents(made: MadeRepository) -> None:
    tree = support.small_source()
    parent = parent_of(made, support.backed_up(made, tree))
    assert dict(parent.files()) == {path: len(content) for path, content in tree.files.items()}
    for path, content in tree.files.items():
        assert parent.size(path) == len(content)
        assert b"".join(parent.content(path)) == content
    for path in (b"", b"base", b"base/1/blocks2", b"pg_tblspc/1", b"zzz"):
        assert parent.size(path) is None
        assert list(parent.content(path)) == []
