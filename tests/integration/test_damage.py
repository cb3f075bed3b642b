"""Every kind of stored object, truncated, flipped, swapped or missing: noticed, and named."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from mingus_engine.errors import Damaged, FormatTooNew, KeyUnavailable, MingusError, NotARepository, ObjectMissing
from mingus_engine.jobs import backing_up
from mingus_engine.jobs.made_items import made_items
from mingus_engine.jobs.verify import VerificationRefuted
from mingus_engine.repository import names, packs, records
from mingus_engine.settings import load
from mingus_engine.sources.base import Item, SourceFile
from tests.integration import ledger
from tests.integration.conftest import Install
from tests.integration.trouble import at_first, raises
from tests.support.installation import FIRST, SECOND, SOURCE, Installation
from tests.support.postgres import PgCluster

Files = Sequence[tuple[SourceFile, bytes]]
MANNERS = ("truncated", "flipped", "swapped", "missing")


@pytest.fixture(scope="module")
def pristine(books: PgCluster, module_directory: Path) -> Iterator[Installation]:
    """Two snapshots in ``first``, of several packs; the tests damage copies of it."""
    with pytest.MonkeyPatch.context() as patch, Installation.make(module_directory / "pristine", books) as made:
        patch.setattr(packs, "_CONTENT_MAX_BYTES", 1 << 20)
        made.back_up()
        books.execute("select transfer(3, 4, 1)")
        made.back_up()
        yield made


@pytest.fixture
def installation(pristine: Installation, workspace: Path) -> Installation:
    """A copy of the pristine installation, with the same keys."""
    text = (pristine.root / "mingus.yaml").read_text()
    shutil.copytree(pristine.root, workspace / "i")
    (workspace / "i" / "mingus.yaml").write_text(text.replace(str(pristine.root), str(workspace / "i")))
    settings = load(workspace / "i" / "mingus.yaml")
    return Installation(workspace / "i", pristine.cluster, settings, pristine.environment)


def _damage(victim: Path, manner: str, others: list[Path]) -> list[Path]:
    """Damage *victim*, by a swap also one of *others*; what is damaged now."""
    content = bytearray(victim.read_bytes())
    if manner == "missing":
        victim.unlink()
    elif manner == "truncated":
        victim.write_bytes(content[: len(content) // 2])
    elif manner == "flipped":
        content[len(content) // 2] ^= 0x10
        victim.write_bytes(content)
    else:
        other = next(p for p in others if p != victim)
        swapped = other.read_bytes()
        other.write_bytes(content)
        victim.write_bytes(swapped)
        return [victim, other]
    return [victim]


def _needed(installation: Installation, prefix: str) -> list[Path]:
    """Objects of this kind that the newest snapshot needs."""
    with installation.opened() as repository:
        newest = max(repository.list_snapshots(SOURCE), key=lambda n: n.ulid)
        wanted = {name for name, _ in repository.get_manifest(newest).stored_names()}
    root = installation.path()
    return [p for p in installation.files(FIRST, prefix) if p.relative_to(root).as_posix() in wanted]


def _name(installation: Installation, path: Path) -> str:
    return path.relative_to(installation.path()).as_posix()


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("prefix", ["packs", "logs"])
def test_damaged_data_is_named_by_every_reader(
    prefix: str, manner: str, installation: Installation, workspace: Path
) -> None:
    victim = _needed(installation, prefix)[0]
    damaged = _damage(victim, manner, [p for p in installation.files(FIRST, prefix) if p.parent.name != "keys"])
    name = "|".join(re.escape(_name(installation, path)) for path in damaged)
    refused = ObjectMissing if manner == "missing" else Damaged
    for level in ("L1", "L2", "L3"):
        with pytest.raises(VerificationRefuted) as caught:
            installation.verify(level)
        assert caught.value.exit_code == 9
        assert re.search(name, caught.value.message), f"{level}: {caught.value.message}"
        assert not caught.value.report.ok
    for job in (lambda: installation.restore(workspace / "target"), installation.ship):
        with pytest.raises(refused, match=name) as error:
            job()
        assert error.value.exit_code == 6
        assert not (workspace / "target" / "global" / "pg_control").exists()
    proofs = _proofs(installation)
    assert [p["ok"] for p in proofs] == [False, False, False]


@pytest.mark.parametrize("manner", ["truncated", "missing"])
def test_presence_and_size_are_enough_to_find_what_is_gone_or_cut(manner: str, installation: Installation) -> None:
    victim = _needed(installation, "packs")[-1]
    _damage(victim, manner, [])
    with pytest.raises(VerificationRefuted, match=victim.name[:40]):
        installation.verify("L0")


@pytest.mark.parametrize("manner", ["truncated", "flipped", "swapped"])
def test_a_damaged_manifest_is_named_and_keeps_no_backup_and_no_other_snapshot_from_work(
    manner: str, installation: Installation, workspace: Path
) -> None:
    installation.ship()
    everything = installation.files(FIRST, "snapshots")
    _damage(everything[0], manner, everything)
    for job in (
        lambda: installation.verify("L0"),
        lambda: installation.restore(workspace / "target"),
        installation.ship,
    ):
        with raises(Damaged, 6, "snapshots/ledger/"):
            job()
    installation.ship(SECOND, FIRST)
    assert installation.verify("L2").ok, "shipped again from a repository that has it whole"
    report = installation.back_up()
    assert any("snapshots/ledger/" in message for message in installation.messages)
    assert installation.verify("L2", snapshot=report.snapshot).ok
    assert installation.restore(workspace / "target", snapshot=report.snapshot).snapshot == report.snapshot


def test_a_manifest_under_another_ones_name_is_refused(installation: Installation) -> None:
    """Renamed to fit its own SHA-256, as somebody would who can write to the store."""
    first, second = installation.files(FIRST, "snapshots")
    ulid = first.name.partition(".")[0]
    content = second.read_bytes()
    first.unlink()
    first.with_name(f"{ulid}.{hashlib.sha256(content).hexdigest()}").write_bytes(content)
    with raises(Damaged, 6, ulid):
        installation.verify("L0")


def test_a_manifest_of_another_repository_does_not_open(installation: Installation, workspace: Path) -> None:
    installation.ship()
    stolen = installation.files(SECOND, "snapshots")[-1]
    mine = next(p for p in installation.files(FIRST, "snapshots") if p.name[:26] == stolen.name[:26])
    mine.unlink()
    (mine.parent / stolen.name).write_bytes(stolen.read_bytes())
    with pytest.raises(MingusError, match=stolen.name):
        installation.restore(workspace / "target")
    assert not (workspace / "target").exists()


@pytest.mark.parametrize("manner", MANNERS)
@pytest.mark.parametrize("kind", ["config/*", "keys/*/environment.*"])
def test_a_damaged_configuration_or_key_is_named_when_the_repository_is_opened(
    kind: str, manner: str, installation: Installation
) -> None:
    victims = sorted(installation.path().glob(kind))
    others = installation.files(FIRST, "keys")
    # Whichever of them is damaged, no job goes on as if nothing were.
    _damage(victims[0], manner, [p for p in others if p not in victims] if kind.startswith("keys") else others)
    prefix = kind.partition("/")[0]
    expected = (Damaged, KeyUnavailable, ObjectMissing, NotARepository)
    with pytest.raises(expected) as caught:
        installation.verify("L0")
    text = caught.value.message
    assert prefix in text or str(installation.path()) in text, text


def test_a_missing_log_key_is_named_when_the_log_is_shipped(installation: Installation) -> None:
    for path in installation.files(FIRST, "logs/ledger/keys"):
        path.unlink()
    with pytest.raises(MingusError, match="no log key of run"):
        installation.ship()
    assert installation.snapshots(SECOND) == []


def test_a_repository_of_a_newer_format_is_left_alone(installation: Installation) -> None:
    (path,) = installation.files(FIRST, "config")
    content = bytearray(path.read_bytes())
    content[8] += 1  # the version, after eight bytes of magic
    path.unlink()
    path.with_name(f"{path.name.partition('.')[0]}.{hashlib.sha256(content).hexdigest()}").write_bytes(content)
    before = installation.files(FIRST)
    for job in (installation.back_up, lambda: installation.verify("L0"), installation.ship):
        with raises(FormatTooNew, 10, path.name.partition(".")[0]):
            job()
    assert installation.files(FIRST) == before


def test_a_damaged_snapshot_does_not_hide_an_older_good_one(installation: Installation, workspace: Path) -> None:
    older, newer = installation.snapshots()
    with installation.opened() as repository:
        wanted = {
            n.ulid: {s for s, _ in repository.get_manifest(n).stored_names()} for n in repository.list_snapshots(SOURCE)
        }
    only_newer = sorted(n for n in wanted[newer] - wanted[older] if n.startswith("packs/"))
    (installation.path() / only_newer[0]).unlink()
    with pytest.raises(VerificationRefuted):
        installation.verify("L2")
    assert installation.verify("L2", snapshot=older).ok
    installation.restore(workspace / "target", snapshot=older)


# -- a snapshot that a malicious or defective writer made -------------------------------------------------------------


def _without_label(content: bytes) -> bytes | None:
    return None


def _of_another_start(content: bytes) -> bytes:
    lines = content.split(b"\n")
    return b"\n".join([lines[0].replace(b"START WAL LOCATION: 0/", b"START WAL LOCATION: 0/F"), *lines[1:]])


def _of_another_checkpoint(content: bytes) -> bytes:
    lines = content.split(b"\n")
    return b"\n".join([lines[0], b"CHECKPOINT LOCATION: 0/1000028", *lines[2:]])


def _nonsense(content: bytes) -> bytes:
    return b"not a label\n"


@pytest.mark.parametrize("forge", [_without_label, _of_another_start, _of_another_checkpoint, _nonsense])
def test_a_snapshot_whose_backup_label_was_tampered_with_is_refuted(
    forge: Callable[[bytes], bytes | None], books: PgCluster, install: Install, workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(backing_up, "made_items", _forging(forge))
    installation = install(books, predicates=ledger.PREDICATES)
    installation.back_up()
    assert installation.verify("L2").ok  # every byte is what was stored
    with pytest.raises(VerificationRefuted) as caught:
        installation.verify("L4")
    assert caught.value.exit_code == 9
    assert [p["ok"] for p in _proofs(installation)] == [True, False]
    if forge in {_without_label, _nonsense}:
        with pytest.raises(Damaged, match="backup_label"):
            installation.restore(workspace / "target")
        assert not (workspace / "target" / "global" / "pg_control").exists()


def test_a_backup_label_of_a_later_moment_is_refuted(
    books: PgCluster, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is whole and the server starts from it; what was written between the two moments is lost."""
    later: list[bytes] = []

    def deed() -> None:
        with books.connect() as connection:
            connection.execute("select transfer(g, g + 1, 7) from generate_series(1, 500) g")
            connection.execute("select pg_backup_start('later', true)")
            (label,) = connection.execute("select labelfile from pg_backup_stop(false)").fetchone() or ("",)
            later.append(label.encode())

    monkeypatch.setattr(backing_up, "made_items", _forging(lambda content: later[0]))
    installation = install(books)
    installation.back_up(on_progress=at_first("back up", deed))
    with pytest.raises(VerificationRefuted) as caught:
        installation.verify("L4")
    failed = {c["name"] for c in caught.value.report.checks if not c["ok"]}
    assert {"L3 backup_label", "L4 start"} <= failed


def _forging(forge: Callable[[bytes], bytes | None]) -> Callable[[Files], Iterator[Item]]:
    """A ``made_items`` that gives the label as it was forged, or not at all."""

    def forged(files: Files) -> Iterator[Item]:
        kept = []
        for file, content in files:
            changed = forge(content) if file.path == b"backup_label" else content
            if changed is not None:
                kept.append((replace(file, size=len(changed)), changed))
        return made_items(kept)

    return forged


def _proofs(installation: Installation) -> list[dict[str, object]]:
    """The plain facts of all proofs, oldest first."""
    with installation.opened() as repository:
        found = [n for i in repository.store.list(f"records/{SOURCE}/") if (n := names.record(i.name))]
        proofs = [repository.get_record(n) for n in sorted(found, key=lambda n: n.ulid) if n.kind == records.PROOF]
        return [json.loads(json.dumps(dict(p.facts))) for p in proofs]
