"""Repositories of format 1, made once by ``make_v1``, are listed, verified and restored for ever."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mingus_engine import rescue
from mingus_engine.errors import ForeignRepository, KeyUnavailable
from mingus_engine.jobs import integrity
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import names, records, state
from mingus_engine.repository import repository as repositories
from mingus_engine.repository.logs import LogReader
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.slots import Credentials
from mingus_engine.settings import Secret
from mingus_engine.store.local import LocalStore
from tests.formats import make_v1

EXPECTED: dict[str, Any] = json.loads((make_v1.HERE / "expected.json").read_text(encoding="ascii"))
BY_KEY = Credentials(environment=Secret(make_v1.KEY))


def opened(which: str, credentials: Credentials | None = BY_KEY, pinned: str = EXPECTED["fingerprint"]) -> Repository:
    return repositories.open_repository(
        which, LocalStore(make_v1.HERE / which, create=False), credentials, pinned=pinned
    )


SNAPSHOTS = [("repository", 0), ("repository", 1), ("destination", 1)]


@pytest.fixture(params=SNAPSHOTS, ids=lambda p: f"{p[0]}-{p[1]}")
def frozen(request: pytest.FixtureRequest) -> Iterator[tuple[Repository, Manifest, dict[str, Any]]]:
    which, index = request.param
    repository = opened(which)
    expected = EXPECTED["snapshots"][index]
    yield repository, state.look(repository, EXPECTED["source"]).find(expected["ulid"]), expected


def entries(reader: SnapshotReader) -> list[dict[str, Any]]:
    found = []
    for file in reader.files():
        e = file.entry
        sha256 = ""
        if e.kind == 1:
            digest = hashlib.sha256()
            for _, data, length in reader.data(file):
                digest.update(bytes(length) if data is None else data)
            sha256 = digest.hexdigest()
        found.append({
            "path": e.path.hex(), "kind": e.kind, "mode": e.mode, "uid": e.uid, "gid": e.gid, "mtime_ns": e.mtime_ns,
            "size": e.size, "target": e.target.hex(), "sha256": sha256,
        })  # fmt: skip
    return found


def test_the_snapshots_are_listed_in_their_order() -> None:
    seen = state.look(opened("repository"), EXPECTED["source"])
    assert [(m.ulid, m.digest) for m in seen.manifests] == [(s["ulid"], s["digest"]) for s in EXPECTED["snapshots"]]
    assert seen.heads() == [EXPECTED["snapshots"][1]["digest"]]
    assert not seen.removed
    assert all(seen.settled(m) for m in seen.manifests)


def test_every_file_is_restored_byte_for_byte(frozen: tuple[Repository, Manifest, dict[str, Any]]) -> None:
    repository, manifest, expected = frozen
    assert entries(SnapshotReader(repository, manifest)) == expected["files"]


def test_every_level_of_verification_without_a_server_passes(
    frozen: tuple[Repository, Manifest, dict[str, Any]],
) -> None:
    repository, manifest, _ = frozen
    context = JobContext()
    keyless = repositories.open_repository("again", repository.store, None, pinned=EXPECTED["fingerprint"])
    checks = [integrity.present(keyless, manifest, context), integrity.whole(keyless, manifest, context)]
    checks.append(integrity.readable(SnapshotReader(repository, manifest), context))
    assert [c.ok for c in checks] == [True, True, True], checks


def test_the_log_is_the_one_that_was_archived(frozen: tuple[Repository, Manifest, dict[str, Any]]) -> None:
    repository, manifest, expected = frozen
    digest, history = hashlib.sha256(), b""
    for ref in sorted(manifest.logs, key=lambda g: g.start):
        chunks = LogReader(repository, manifest.name.source, ref).chunks()
        if ref.lineage.endswith("/history"):
            history = b"".join(chunks)
            continue
        for chunk in chunks:
            digest.update(chunk)
    assert digest.hexdigest() == expected["wal_sha256"]
    assert history.startswith(b"1\t0/FFD00000\t")


def test_the_proof_is_read() -> None:
    repository = opened("repository")
    (info,) = repository.store.list(f"records/{EXPECTED['source']}/")
    name = names.record(info.name)
    assert name is not None
    proof = repository.get_record(name)
    assert (proof.name.kind, proof.text("snapshot")) == (records.PROOF, EXPECTED["snapshots"][0]["ulid"])
    assert json.loads(repository.open(proof.source_envelope)) == {"report": {"checks": []}}


@pytest.mark.parametrize("which", ["repository", "destination"])
def test_each_of_its_slots_opens_it(which: str) -> None:
    for credentials, slot in (
        (BY_KEY, "environment"),
        (Credentials(passphrase=Secret(make_v1.PASSPHRASE)), "passphrase"),
        (Credentials(escrow=Secret(EXPECTED[which]["escrow"])), "escrow"),
    ):
        repository = opened(which, credentials)
        assert (repository.id, repository.keys.slot.name) == (EXPECTED[which]["id"], slot)


def test_another_key_or_another_installation_is_refused() -> None:
    with pytest.raises(KeyUnavailable):
        opened("repository", Credentials(environment=Secret("00" * 32)))
    with pytest.raises(ForeignRepository):
        opened("repository", pinned="0" * 64)


@pytest.mark.parametrize("key", [make_v1.KEY, make_v1.PASSPHRASE, EXPECTED["repository"]["escrow"]])
def test_a_reader_written_from_the_text_alone_extracts_the_same(key: str, tmp_path: Path) -> None:
    repository = rescue.Repository(make_v1.HERE / "repository", key)
    found = {snapshot.ulid: snapshot for snapshot in repository.snapshots()}
    expected = EXPECTED["snapshots"][1]
    assert set(found) == {s["ulid"] for s in EXPECTED["snapshots"]}
    rescue.extract(found[expected["ulid"]], tmp_path / "out")
    files = {f["path"]: f["sha256"] for f in expected["files"] if f["kind"] == 1}
    written = {
        str(p.relative_to(tmp_path / "out")).encode("utf-8", "surrogateescape").hex(): hashlib.sha256(
            p.read_bytes()
        ).hexdigest()
        for p in (tmp_path / "out").rglob("*")
        if p.is_file()
    }
    assert written == files
