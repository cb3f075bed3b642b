"""Every byte of every object of a small repository: flipped, cut off, missing, put elsewhere. Nothing is believed."""

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from mingus_engine import bounds, ulids
from mingus_engine.codec.containers import LENGTH
from mingus_engine.errors import (
    Damaged,
    ForeignRepository,
    FormatTooNew,
    KeyUnavailable,
    MingusError,
    NotARepository,
    ObjectMissing,
)
from mingus_engine.jobs import integrity
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import names, records, resume
from mingus_engine.repository import repository as repositories
from mingus_engine.repository.logs import LogReader
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.slots import Credentials
from mingus_engine.settings import Secret
from mingus_engine.store.base import Store
from tests.support import repositories as support
from tests.support.memory_store import MemoryStore

REFUSED = (Damaged, FormatTooNew, KeyUnavailable, ForeignRepository)


@dataclass
class Small:
    """A repository in memory with one object of every kind."""

    objects: dict[str, bytes]
    escrow: str
    fingerprint: str
    snapshot: str

    def opened(self, store: Store, keys: Credentials | None = None) -> Repository:
        return repositories.open_repository("small", store, keys or support.credentials(), pinned=self.fingerprint)

    def of_kind(self, kind: str) -> list[str]:
        return [name for name in self.objects if kind_of(name) == kind]


def kind_of(name: str) -> str:
    folder = name.split("/", maxsplit=1)[0]
    if folder == "logs":
        return "LKEY" if "/keys/" in name else "log"
    if folder == "runs":
        return "RUNS" if name.endswith(".start") else "RUNE"
    return {"config": "CONF", "keys": "EKEY", "packs": "pack", "snapshots": "SNAP", "records": "RECD"}[folder]


KINDS = ["CONF", "EKEY", "RUNS", "RUNE", "SNAP", "LKEY", "RECD", "pack", "log"]


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    with pytest.MonkeyPatch.context() as patched:
        # So that a file of 300 KiB has its map in blobs; a reader does not know the number.
        patched.setattr(bounds, "MAP_SPAN_BYTES", 128 * bounds.KIB)
        made = support.make_repository(tmp_path_factory.mktemp("small"))
        tree = support.MadeSource(
            files={b"a/one": b"one" * 7, b"a/two": b"two" * 50_000, b"b": bytes(300 * bounds.KIB)},
            directories=[b"a"],
            links={b"link": b"b"},
        )
        manifest = support.backed_up(made, tree, wal_pieces=support.wal_pieces(1 << 24, 400), cut_bits=0)
    facts = {"snapshot": manifest.ulid, "digest_of": manifest.digest, "level": 1, "ok": True, "at": "never"}
    made.repository.put_record(records.PROOF, support.SOURCE, facts, {"report": {"a": 1}})
    made.repository.put_record(records.PLAN, support.SOURCE, {"names": []}, {})
    objects = MemoryStore.copy_of(made.store).objects
    return Small(objects, made.escrow, made.repository.config.fingerprint, str(manifest.name))


def snapshot_of(repository: Repository, which: str = "") -> Manifest:
    (name,) = [n for n in repository.list_snapshots(support.SOURCE) if which in str(n)]
    return repository.get_manifest(name)


def read_all(repository: Repository) -> None:
    reader = SnapshotReader(repository, snapshot_of(repository))
    for file in reader.files():
        for _ in reader.data(file):
            pass


def read(small: Small, store: Store, name: str) -> None:
    """Use the object *name* for what it is there for."""
    kind = kind_of(name)
    keys = Credentials(escrow=Secret(small.escrow)) if "/escrow." in name else None
    repository = small.opened(store, keys)
    if kind == "EKEY":
        assert repository.keys.epoch_key(repository.keys.epoch)
        assert repository.keys.signer
    elif kind in {"RUNS", "RUNE"}:
        run = names.run(name)
        assert run is not None
        repository.open(repository.get_run(run))
    elif kind == "SNAP":
        repository.manifest_body(snapshot_of(repository))
    elif kind == "LKEY":
        log_key = names.log_key(name)
        assert log_key is not None
        repository.log_key(log_key.source, log_key.run)
    elif kind == "RECD":
        record = names.record(name)
        assert record is not None
        repository.open(repository.get_record(record).source_envelope)
    elif kind == "pack":
        read_all(repository)
        parsed = names.pack(name)
        assert parsed is not None
        keys_found = repository.run_keys(names.RunName(parsed.source, parsed.run, "start"))
        resume.read_directory(repository, name, len(small.objects[name]), keys_found.run_key)
    elif kind == "log":
        (ref,) = [g for g in snapshot_of(repository).logs if str(g.name(support.SOURCE)) == name]
        assert b"".join(LogReader(repository, support.SOURCE, ref).chunks())


def renamed(name: str, raw: bytes) -> str:
    """*name* as somebody would call other bytes who wants them to be believed."""
    old = names.stored_sha256(name)
    return name.replace(old, hashlib.sha256(raw).hexdigest()) if old else name


def changed_store(small: Small, name: str, raw: bytes) -> tuple[MemoryStore, str]:
    """The repository with other bytes in place of *name*. Packs and logs keep the name that the manifest signs."""
    objects = dict(small.objects)
    del objects[name]
    new = name if kind_of(name) in {"pack", "log"} else renamed(name, raw)
    objects[new] = raw
    return MemoryStore(objects), new


def refused(small: Small, name: str, raw: bytes) -> str | None:
    """``None`` when using the changed object ends in an error that names it, else what went wrong."""
    store, new = changed_store(small, name, raw)
    try:
        read(small, store, new)
    except REFUSED as error:
        # Keys are looked for by their place; so is what the error names.
        place = new.rpartition(".")[0] if kind_of(name) == "EKEY" else new
        return None if place in error.message else f"does not name {place}: {error.message}"
    return "was taken"


def changes(raw: bytes, at_most: int) -> Iterator[tuple[str, bytes]]:
    chosen = random.Random(len(raw))
    step = max(1, len(raw) // at_most)
    for at in range(chosen.randrange(step), len(raw), step):
        flipped = bytearray(raw)
        flipped[at] ^= 1 << chosen.randrange(8)
        yield f"bit of byte {at} of {len(raw)} flipped", bytes(flipped)
        yield f"cut at {at} of {len(raw)}", raw[:at]
    yield "a byte longer", raw + b"\0"


def test_the_small_repository_has_every_kind_and_is_whole(small: Small) -> None:
    assert {kind_of(name) for name in small.objects} == set(KINDS)
    for name in small.objects:
        read(small, MemoryStore(small.objects), name)


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_and_no_cut_is_believed(small: Small, kind: str) -> None:
    wrong = []
    found = small.of_kind(kind)
    for name in found:
        for what, raw in changes(small.objects[name], 300 // len(found)):
            if kind in {"pack", "log"} and what == "a byte longer":
                continue  # whoever reads takes the size from the manifest; L0 and L1 see it
            if said := refused(small, name, raw):
                wrong.append(f"{name[:60]}: {what}: {said}")
    assert not wrong, wrong[:5]


def test_every_byte_of_what_guards_the_rest_counts(small: Small) -> None:
    """The heads, lengths and plain parts of a manifest, without skipping any."""
    raw = small.objects[small.snapshot]
    for at in range(len(raw)):
        flipped = bytearray(raw)
        flipped[at] ^= 0x80 if at % 2 else 1
        assert refused(small, small.snapshot, bytes(flipped)) is None


@pytest.mark.parametrize("kind", ["pack", "log"])
def test_levels_without_a_key_find_every_damaged_object(small: Small, kind: str) -> None:
    for name in small.of_kind(kind):
        for what, raw in changes(small.objects[name], 15):
            store, _ = changed_store(small, name, raw)
            repository = repositories.open_repository("keyless", store, None, pinned=small.fingerprint)
            manifest = snapshot_of(repository)
            checks = [
                integrity.present(repository, manifest, JobContext()),
                integrity.whole(repository, manifest, JobContext()),
            ]
            assert any(not c.ok and name in c.detail for c in checks), what
            assert checks[0].ok == (len(raw) == len(small.objects[name])), what


def test_a_damaged_object_under_its_own_name_is_refused_by_its_sha256(small: Small) -> None:
    for name, good in small.objects.items():
        if names.stored_sha256(name) is None or kind_of(name) in {"pack", "log"}:
            continue
        store = MemoryStore({**small.objects, name: good[:-1] + bytes([good[-1] ^ 1])})
        with pytest.raises(Damaged, match="SHA-256") as caught:
            read(small, store, name)
        assert name in caught.value.message


def test_a_missing_object_is_named(small: Small) -> None:
    for name in small.objects:
        if kind_of(name) in {"SNAP", "RECD"}:
            continue  # what is not listed is not there: rollback is found by the cleaner's lists (DESIGN §4)
        objects = dict(small.objects)
        del objects[name]
        with pytest.raises((ObjectMissing, KeyUnavailable, NotARepository)) as caught:
            read(small, MemoryStore(objects), name)
        place = {"CONF": "memory", "EKEY": name.rpartition(".")[0], "LKEY": "no log key"}.get(kind_of(name), name)
        assert place in caught.value.message


def put_as(small: Small, raw: bytes, name: str) -> MemoryStore:
    return MemoryStore({**small.objects, name: raw})


def sha(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


def test_an_object_is_not_taken_for_another_of_its_kind(small: Small) -> None:
    other = ulids.new()
    manifest = small.objects[small.snapshot]
    (start,), (end,), (log_key,) = small.of_kind("RUNS"), small.of_kind("RUNE"), small.of_kind("LKEY")
    proof = next(n for n in small.of_kind("RECD") if ".proof." in n)
    proof_ulid = proof.split("/")[2].split(".")[0]

    def manifest_of(name: str, found: Repository) -> object:
        return found.get_manifest(names.snapshot(name))

    elsewhere: list[tuple[str, bytes, Callable[[str, Repository], object]]] = [
        (f"snapshots/{support.SOURCE}/{other}.{sha(manifest)}", manifest, manifest_of),
        (f"snapshots/elsewhere/{ulids.new()}.{sha(manifest)}", manifest, manifest_of),
        (f"runs/{support.SOURCE}/{other}.start", small.objects[start], lambda n, r: r.get_run(names.run(n))),
        (start.replace(support.SOURCE, "elsewhere"), small.objects[start], lambda n, r: r.get_run(names.run(n))),
        (start.replace(".start", ".end"), small.objects[start], lambda n, r: r.get_run(names.run(n))),
        (end.replace(".end", ".start"), small.objects[end], lambda n, r: r.get_run(names.run(n))),
        (f"logs/{support.SOURCE}/keys/{other}.{sha(small.objects[log_key])}", small.objects[log_key],
         lambda n, r: r.log_key(support.SOURCE, other)),
        (proof.replace(".proof.", ".done."), small.objects[proof], lambda n, r: r.get_record(names.record(n))),
        (proof.replace(support.SOURCE, "elsewhere"), small.objects[proof], lambda n, r: r.get_record(names.record(n))),
        (proof.replace(proof_ulid, other), small.objects[proof], lambda n, r: r.get_record(names.record(n))),
        (f"records/{support.SOURCE}/{other}.proof.{sha(manifest)}", manifest,
         lambda n, r: r.get_record(names.record(n))),
    ]  # fmt: skip
    for name, raw, use in elsewhere:
        with pytest.raises(Damaged) as caught:
            use(name, small.opened(put_as(small, raw, name)))
        assert name in caught.value.message


@pytest.mark.parametrize("kind", ["SNAP", "RECD", "RUNS", "RUNE"])
def test_a_forged_header_is_refused_without_any_key(small: Small, kind: str) -> None:
    """Whoever has no key lists and deletes by these headers: the signature alone guards them."""
    for name in small.of_kind(kind):
        raw = small.objects[name]
        at = raw.index(b'"signer":"') + len(b'"signer":"')
        forged = raw[:at] + (b"0" if raw[at : at + 1] != b"0" else b"1") + raw[at + 1 :]
        store, new = changed_store(small, name, forged)
        keyless = repositories.open_repository("keyless", store, None, pinned=small.fingerprint)
        parsed = names.snapshot(new), names.record(new), names.run(new)
        get = (keyless.get_manifest, keyless.get_record, keyless.get_run)
        for name_found, use in zip(parsed, get, strict=True):
            if name_found is not None:
                with pytest.raises(Damaged, match="signature") as caught:
                    use(name_found)  # type: ignore[operator]
                assert new in caught.value.message


def test_keys_of_another_slot_set_or_purpose_do_not_open(small: Small) -> None:
    found = {name: tuple(name.split("/")[1:]) for name in small.of_kind("EKEY")}
    for place in found:
        for other in found:
            if other == place:
                continue
            raw = small.objects[other]
            store, new = changed_store(small, place, raw)
            with pytest.raises(Damaged) as caught:
                read(small, store, new)
            assert new.rpartition(".")[0] in caught.value.message


def test_packs_and_logs_in_each_others_place_are_refused(small: Small) -> None:
    for kind in ("pack", "log"):
        for place in small.of_kind(kind):
            for other in [*small.of_kind("pack"), *small.of_kind("log")]:
                if other == place:
                    continue
                with pytest.raises(Damaged) as caught:
                    read(small, put_as(small, small.objects[other], place), place)
                assert place in caught.value.message


def test_a_log_container_is_bound_to_range_lineage_and_source(small: Small) -> None:
    (place,) = small.of_kind("log")
    raw = small.objects[place]
    parsed = names.log(place)
    assert parsed is not None
    moved = [
        parsed._replace(start=parsed.start + 1),
        parsed._replace(end=parsed.end - 1),
        parsed._replace(lineage=parsed.lineage.replace("/1/", "/2/")),
        parsed._replace(source="elsewhere"),
    ]
    for name in moved:
        repository = small.opened(put_as(small, raw, str(name)))
        ref = snapshot_of(repository).logs[0]
        run_key = repository.log_key(support.SOURCE, ref.run)
        ref = ref._replace(lineage=name.lineage, start=name.start, end=name.end)
        with pytest.raises(Damaged) as caught:
            list(LogReader(repository, name.source, ref, run_key).chunks())
        assert str(name) in caught.value.message


def test_two_blobs_of_a_pack_cannot_change_places(small: Small, tmp_path: Path) -> None:
    made = support.make_repository(tmp_path)
    blocks = [support.noise(100, i) for i in range(2)]
    manifest = support.backed_up(made, support.MadeSource(files={b"0": blocks[0], b"1": blocks[1]}), workers=1)
    name = str(manifest.packs[0].name(support.SOURCE))
    store = MemoryStore.copy_of(made.store)
    raw = store.objects[name]
    sealed = 100 + 5 + 16
    store.objects[name] = raw[:64] + raw[64 + sealed : 64 + 2 * sealed] + raw[64 : 64 + sealed] + raw[64 + 2 * sealed :]
    assert len(store.objects[name]) == len(raw)
    assert store.objects[name] != raw
    with pytest.raises(Damaged, match=name):
        read_all(made.reopened(store=store))


def test_nothing_of_another_repository_of_the_same_installation_is_taken(small: Small, tmp_path: Path) -> None:
    here = support.make_repository(tmp_path / "here")
    there = support.make_repository(tmp_path / "there", signer=here.repository.keys.signer)
    support.backed_up(there, support.MadeSource(files={b"f": b"1"}), wal_pieces=support.wal_pieces(1 << 24, 400))
    there.repository.put_record(records.PROOF, support.SOURCE, {"snapshot": "x"}, {})
    theirs = MemoryStore.copy_of(there.store).objects
    mine = MemoryStore.copy_of(here.store).objects
    foreign = Small(theirs, there.escrow, "", "")
    for name in theirs:
        kind = kind_of(name)
        if kind in {"CONF", "EKEY", "pack", "log"}:
            continue  # packs and logs are the same everywhere, bound by their run key
        with pytest.raises(ForeignRepository) as caught:
            read(foreign, MemoryStore({**mine, name: theirs[name]}), name)
        assert name in caught.value.message


def test_an_epoch_key_of_another_repository_is_refused(tmp_path: Path) -> None:
    here = support.make_repository(tmp_path / "here")
    there = support.make_repository(tmp_path / "there", signer=here.repository.keys.signer)
    store = MemoryStore.copy_of(here.store)
    (mine,) = [n for n in store.objects if n.startswith(f"keys/{here.repository.config.epoch}/environment.")]
    (theirs,) = there.names(f"keys/{there.repository.config.epoch}/environment.")
    del store.objects[mine]
    raw = there.store.get(theirs)
    planted = renamed(mine, raw)
    store.objects[planted] = raw
    with pytest.raises(MingusError) as caught:
        here.reopened(store=store)
    assert isinstance(caught.value, REFUSED)
    assert planted.rpartition(".")[0] in caught.value.message


def test_the_plain_part_of_a_manifest_tells_no_path_and_no_content(small: Small) -> None:
    for name, raw in small.objects.items():
        for secret in (b"a/one", b"oneone", b"twotwo", support.TEST_KEY.encode()):
            assert secret not in raw, name
    parsed = snapshot_of(small.opened(MemoryStore(small.objects))).envelope
    body = json.loads(small.opened(MemoryStore(small.objects)).open(parsed))
    for key in [*body["run_keys"].values(), body["hash_key"]]:
        assert all(key.encode() not in raw and bytes.fromhex(key) not in raw for raw in small.objects.values())


def test_a_pack_whose_tail_lies_is_not_resumed_from(small: Small) -> None:
    repository = small.opened(MemoryStore(small.objects))
    for name in small.of_kind("pack"):
        parsed = names.pack(name)
        assert parsed is not None
        run_key = repository.run_keys(names.RunName(parsed.source, parsed.run, "start")).run_key
        good = small.objects[name]
        for length in (0, 20, len(good), 2**32 - 1, LENGTH.unpack(good[-4:])[0] - 1):
            store = put_as(small, good[:-4] + LENGTH.pack(length), name)
            with pytest.raises(Damaged, match=name):
                resume.read_directory(small.opened(store), name, len(good), run_key)
