from contextlib import closing
from pathlib import Path

import pytest

from mingus_engine import bounds
from mingus_engine.codec.containers import BlobKind
from mingus_engine.codec.directories import Segment
from mingus_engine.errors import Damaged, ObjectMissing
from mingus_engine.repository import names, packs, records, resume, runs
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.resume import StoredBlocks
from mingus_engine.store.faulty import Fault, FaultyStore
from tests.support import repositories as support
from tests.support.repositories import SOURCE, MadeRepository, MadeSource, noise

TREE = MadeSource(files={b"f%d" % i: noise(200_000, i) for i in range(6)} | {b"empty": b""})
SIZE = 6 * 200_000


@pytest.fixture
def made(tmp_path: Path) -> MadeRepository:
    return support.make_repository(tmp_path)


@pytest.fixture
def dead(made: MadeRepository) -> str:
    """A run that stored everything but its manifest."""
    return die(made)


def die(made: MadeRepository, tree: MadeSource = TREE) -> str:
    with closing(support.begin(made)) as run:
        support.store_tree(made, run, tree)
    return run.run


def retried(made: MadeRepository, tree: MadeSource = TREE) -> tuple[Manifest, int]:
    """The next run's snapshot, and how much of it was stored already; it restores, whatever else is so."""
    manifest = support.backed_up(made, tree)
    assert support.contents(made.reopened(), manifest) == tree.digests()
    return manifest, int(made.repository.manifest_body(manifest).statistics["reused_bytes"])


def data_pack(made: MadeRepository, run: str) -> str:
    return next(n for n in made.names(f"packs/{SOURCE}/{run}/") if made.path(n).stat().st_size > 100_000)


def test_what_a_dead_run_stored_is_used_and_not_stored_again(made: MadeRepository, dead: str) -> None:
    manifest, reused = retried(made)
    assert reused == SIZE
    assert dead in {p.run for p in manifest.packs}
    own = sum(made.path(str(p.name(SOURCE))).stat().st_size for p in manifest.packs if p.run != dead)
    assert own < 20_000


def test_only_what_changed_since_is_stored(made: MadeRepository, dead: str) -> None:
    changed = bytearray(TREE.files[b"f0"])
    changed[70_000] ^= 1
    tree = MadeSource(files={**TREE.files, b"f0": bytes(changed), b"new": b"new"})
    assert retried(made, tree)[1] == SIZE - bounds.BLOCK_BYTES


def test_a_file_that_grew_or_shrank_is_not_taken_for_its_old_self(made: MadeRepository, dead: str) -> None:
    f0 = TREE.files[b"f0"]
    for content in (f0 + b"more", f0[:-1], f0[:65_536], b"", f0[65_536:]):
        retried(made, MadeSource(files={b"f0": content}))


def test_only_the_packs_that_were_open_are_stored_again(made: MadeRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 300_000)
    store = FaultyStore(made.store)
    with closing(support.begin(made, store=store)) as run:
        for i, (path, content) in enumerate(TREE.files.items()):
            segment = Segment(path, 0, 0, len(content[:65_536]), b"%016d" % i)
            run.packs.append(BlobKind.DATA, content[:65_536], (segment,))
        # The process dies here: what was full is in the store, what was open is not.
    left = made.names(f"packs/{SOURCE}/{run.run}/")
    assert len(left) == 1
    with closing(support.begin(made)) as again, closing(resume.stored_blocks(again)) as blocks:
        found = [bool(blocks.get(path, 0, 1)) for path in TREE.files]
    assert found == [True, True, True, True, False, False, False]


def test_a_chain_of_dead_runs_is_used(made: MadeRepository) -> None:
    half = MadeSource(files={p: c for p, c in TREE.files.items() if p < b"f3"})
    first = die(made, half)
    second = die(made)
    manifest, reused = retried(made)
    assert reused == SIZE
    assert {p.run for p in manifest.packs} >= {first, second}


def damage(made: MadeRepository, name: str, at: int) -> None:
    path = made.path(name)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 2
    path.write_bytes(raw)


@pytest.mark.parametrize("at", [0, 8, 10, 12, 20, 40, -1, -100], ids=lambda at: f"byte {at}")
def test_a_dead_pack_that_is_damaged_is_passed_over_and_its_content_stored_again(
    made: MadeRepository, dead: str, at: int
) -> None:
    """Byte 8 is the version: a flipped bit there looks like a newer format."""
    damage(made, data_pack(made, dead), at)
    manifest, reused = retried(made)
    assert reused == 0
    assert {p.run for p in manifest.packs} == {manifest.run}


def test_a_dead_pack_that_is_cut_or_gone_is_passed_over(made: MadeRepository, dead: str) -> None:
    path = made.path(data_pack(made, dead))
    for raw in (path.read_bytes()[:-5], path.read_bytes()[:30], b""):
        path.write_bytes(raw)
        assert retried(made)[1] == 0
    path.unlink()
    assert retried(made)[1] == 0


def test_a_pack_that_vanishes_between_listing_and_reading_is_passed_over(made: MadeRepository, dead: str) -> None:
    name = data_pack(made, dead)
    fault = Fault("get_range", "raise", name=name, error=lambda: ObjectMissing("gone"))
    with closing(support.begin(made, store=FaultyStore(made.store, [fault]))) as run:
        assert support.store_tree(made, run, TREE)[1] == set()


def test_planned_packs_are_not_used(made: MadeRepository, dead: str) -> None:
    name = data_pack(made, dead)
    made.repository.put_record(records.PLAN, SOURCE, {"names": [name]}, {})
    manifest, reused = retried(made)
    assert reused == 0
    assert name not in {stored for stored, _ in manifest.stored_names()}


def test_a_fenced_run_is_not_used(made: MadeRepository, dead: str) -> None:
    made.repository.put_record(records.FENCE, SOURCE, {}, {}, run=dead)
    assert retried(made)[1] == 0


def test_a_run_that_ended_is_no_dead_run(made: MadeRepository) -> None:
    support.backed_up(made, TREE)
    assert retried(made)[1] == 0


def test_runs_that_only_read_or_archive_are_left_alone(made: MadeRepository) -> None:
    for kind in (runs.READ, runs.LOG):
        support.begin(made, kind=kind).close()
    with closing(support.begin(made)) as run, closing(resume.stored_blocks(run)) as blocks:
        assert not blocks


def test_packs_of_another_source_are_not_used(made: MadeRepository, dead: str) -> None:
    manifest = support.backed_up(made, TREE, source="another")
    assert {p.run for p in manifest.packs} == {manifest.run}


def test_packs_that_were_shipped_here_are_not_taken_for_a_dead_runs_own(made: MadeRepository, dead: str) -> None:
    name = data_pack(made, dead)
    made.path(name).rename(made.path(f"{name}.{dead}"))
    assert retried(made)[1] == 0


def test_blocks_of_unknown_hash_are_never_reused() -> None:
    blocks = StoredBlocks(bytes(32))
    with closing(blocks):
        assert not blocks
        assert blocks.get(b"f", 0, 100) == {}


def test_no_path_rests_on_the_disk_in_plain(made: MadeRepository, dead: str) -> None:
    with closing(support.begin(made)) as run, closing(resume.stored_blocks(run)) as blocks:
        assert blocks
        dump = "\n".join(blocks._db.iterdump())
    assert "f0" not in {w.strip("'") for w in dump.split(",")}
    assert b"f0".hex().upper() not in dump.replace("X'", "\n").split("\n")


def test_reading_a_directory_checks_that_the_pack_is_the_one_of_its_name(made: MadeRepository, dead: str) -> None:
    stored = sorted(made.names(f"packs/{SOURCE}/{dead}/"))
    key = made.repository.run_keys(names.RunName(SOURCE, dead, "start")).run_key
    raw = made.path(stored[1]).read_bytes()
    made.path(stored[0]).write_bytes(raw)
    with pytest.raises(Damaged, match="another object"):
        resume.read_directory(made.repository, stored[0], len(raw), key)
