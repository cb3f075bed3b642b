"""docs/FORMAT.md is enough to write a reader: one that was written from it finds what the engine finds."""

import ast
import hashlib
import sys
from pathlib import Path

import pytest

from mingus_engine import rescue
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.repository.reader import SnapshotReader
from tests.formats import make_v1
from tests.formats.test_v1 import EXPECTED, SNAPSHOTS, opened
from tests.support import repositories as support


def test_it_imports_nothing_of_the_product() -> None:
    tree = ast.parse(Path(rescue.__file__).read_text(encoding="utf-8"))
    modules = {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    modules |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    allowed = set(sys.stdlib_module_names) | {"cryptography", "zstandard", "blake3"}
    assert {m.partition(".")[0] for m in modules} <= allowed


@pytest.mark.parametrize(("which", "index"), SNAPSHOTS)
def test_it_finds_what_the_engine_finds(which: str, index: int) -> None:
    ulid = EXPECTED["snapshots"][index]["ulid"]
    stranger = rescue.Repository(make_v1.HERE / which, make_v1.KEY)
    (theirs,) = [s for s in stranger.snapshots() if s.ulid == ulid]
    repository = opened(which)
    (name,) = [n for n in repository.list_snapshots(EXPECTED["source"]) if n.ulid == ulid]
    manifest = repository.get_manifest(name)
    ours = SnapshotReader(repository, manifest)

    def engine(file: TabledEntry) -> tuple[object, ...]:
        e = file.entry
        digest = hashlib.sha256()
        for _, data, length in ours.data(file):
            digest.update(bytes(length) if data is None else data)
        return e.path, e.kind, e.mode, e.uid, e.gid, e.size, e.mtime_ns, e.target, digest.hexdigest()

    def reader(f: rescue.File) -> tuple[object, ...]:
        digest = hashlib.sha256()
        for data in theirs.content(f):
            digest.update(data)
        return f.path, f.kind, f.mode, f.uid, f.gid, f.size, f.mtime_ns, f.target, digest.hexdigest()

    assert list(map(reader, theirs.files())) == list(map(engine, ours.files()))
    wal = hashlib.sha256()
    for lineage, _, chunks in sorted(theirs.logs(), key=lambda log: log[1]):
        for chunk in chunks:
            if not lineage.endswith("history"):
                wal.update(chunk)
    assert wal.hexdigest() == EXPECTED["snapshots"][index]["wal_sha256"]


def test_it_reads_a_repository_of_today(tmp_path: Path) -> None:
    made = support.make_repository(tmp_path)
    tree = support.small_source()
    manifest = support.backed_up(made, tree)
    for key in (support.TEST_KEY, made.escrow):
        (snapshot,) = rescue.Repository(made.root, key).snapshots()
        assert snapshot.ulid == manifest.ulid
        found = {
            f.path: hashlib.sha256(b"".join(snapshot.content(f))).hexdigest()
            for f in snapshot.files()
            if f.kind == 1
        }  # fmt: skip
        assert found == tree.digests()


def test_its_command_lists_verifies_and_extracts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = support.make_repository(tmp_path)
    tree = support.small_source()
    manifest = support.backed_up(made, tree)
    rescue.main([str(made.root), "list"], made.escrow)
    assert manifest.ulid in capsys.readouterr().out
    rescue.main([str(made.root), "verify", support.SOURCE], made.escrow)
    assert "good: " in capsys.readouterr().out
    rescue.main([str(made.root), "restore", support.SOURCE, str(tmp_path / "out")], made.escrow)
    assert (tmp_path / "out" / "base/1/blocks").read_bytes() == tree.files[b"base/1/blocks"]
    with pytest.raises(ValueError, match="the installation is"):
        rescue.main([str(made.root), "--fingerprint", "0" * 64, "list"], made.escrow)


def test_a_damaged_snapshot_is_named_and_the_others_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = support.make_repository(tmp_path)
    one, two = (support.backed_up(made, support.small_source(i), position=i) for i in (1, 2))
    path = made.path(str(one.name))
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    rescue.main([str(made.root), "list"], made.escrow)
    shown = capsys.readouterr()
    assert f"damaged: {one.name}" in shown.err
    assert two.ulid in shown.out
