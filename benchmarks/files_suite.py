"""Files beside restic and borg: four kinds of trees, each backed up, backed up again, changed, backed up, restored."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from benchmarks.contenders import Backup, Bench, Contender, Mingus, Restic, tree_bytes
from benchmarks.figures import Target
from benchmarks.file_trees import TREES, Tree, Trees, digests
from benchmarks.measuring import Cost, Outcome
from benchmarks.rounds import Sample, restored, said
from benchmarks.suite import Say, Served, Suite
from tests.support import directories
from tests.support.processes import unprivileged_user

_MINGUS, _RESTIC, _BORG = "mingus", "restic", "borg"
# What restic takes when nothing else is said.
_LEVEL = 3


def _tree(bench: Bench) -> Path:
    return bench.cluster.data_directory


def _require_same(bench: Bench, restored_root: Path) -> None:
    """:raises AssertionError: content, mode or time of a file is not as in the tree."""
    if list(digests(restored_root)) != list(digests(_tree(bench))):
        raise AssertionError(f"{restored_root} is not what was backed up")


@dataclass
class MingusFiles(Mingus):
    """The engine. Against it: keyed hashes of every 64 KiB block are kept and compared on restore, objects are fsynced,
    and what was restored is on stable storage before it says so (``syncfs``).
    """

    def sources(self) -> list[dict[str, Any]]:
        """The tree."""
        return [{"id": "bench", "kind": "files", "files": {"roots": [{"path": str(_tree(self.bench))}]}}]

    def restore(self, into: Path) -> Cost:
        """The snapshot into *into*."""
        return self._engine("restore-files", "bench", into).cost

    def check(self, restored: Path) -> None:
        """Every file: content, mode, time."""
        _require_same(self.bench, restored / _tree(self.bench).name)


@dataclass
class ResticFiles(Restic):
    """restic, ``--compression auto``. In its favour: it neither keeps nor checks hashes of restored blocks below its
    chunks, and does not wait until restored files are on the disk.
    """

    def check(self, restored: Path) -> None:
        """Every file: content, mode, time."""
        _require_same(self.bench, restored / _tree(self.bench).relative_to("/"))


@dataclass
class Borg:
    """borg with ``repokey-blake2`` (AES-256-CTR) and zstd. One thread is all it has. Of what did not change it keeps a
    list beside the repository, as restic does.
    """

    bench: Bench
    name: str
    restores: bool = True
    _home: Path = field(init=False)
    _archives: int = field(init=False)

    def prepare(self) -> None:
        """An empty repository."""
        self._home, self._archives = self.bench.folder(self.name.replace(" ", "-").replace(",", "")), 0
        self._environment = {
            "BORG_PASSPHRASE": secrets.token_hex(16),
            "BORG_REPO": str(self._home / "repository"),
            "BORG_BASE_DIR": str(self._home / "base"),
            "TMPDIR": str(self._home),
        }
        self._run("init", "--encryption", "repokey-blake2")

    def back_up(self) -> Backup:
        """The tree as it is."""
        before = tree_bytes(self._home / "repository")
        self._archives += 1
        compression = ("--compression", f"zstd,{_LEVEL}")
        outcome = self._run("create", *compression, f"::{self._archives}", _tree(self.bench))
        return Backup(outcome.cost, tree_bytes(self._home / "repository") - before)

    def increment(self) -> Backup:
        """The same again: borg finds by itself what it has."""
        return self.back_up()

    def restore(self, into: Path) -> Cost:
        """The newest archive into *into*."""
        directories.make_directory(into, owner=unprivileged_user(), mode=0o700)
        return self._run("extract", f"::{self._archives}", cwd=into).cost

    def check(self, restored: Path) -> None:
        """Every file: content, mode, time."""
        _require_same(self.bench, restored / _tree(self.bench).relative_to("/"))

    def remove(self) -> None:
        """The repository."""
        directories.remove(self._home)

    def _run(self, *arguments: str | Path, cwd: Path | None = None) -> Outcome:
        return self.bench.run("borg", *arguments, env=self._environment, cwd=cwd or self._home)


def play(bench: Bench, contenders: Sequence[Contender], rounds: int, say: Say) -> Iterator[Sample]:
    """Tree by tree, round by round: everybody's first backup, one of the same, one after a change, its restore."""
    started = time.monotonic()
    trees = cast("Trees", bench.cluster)
    for tree in TREES:
        trees.grow(tree)
        say(f"{time.monotonic() - started:5.0f} s  {tree.name}: {trees.size / 1e6:.0f} MB")
        for number in range(rounds):
            turn = number % len(contenders)
            order = [*contenders[turn:], *contenders[:turn]]
            for sample in _round(bench, tree, order, number):
                known = replace(sample, contender=f"{sample.contender}, {tree.name}", size_bytes=trees.size)
                yield said(say, started, known)
    trees.remove()


def _round(bench: Bench, tree: Tree, order: Sequence[Contender], number: int) -> Iterator[Sample]:
    try:
        for contender in order:
            contender.prepare()
            yield Sample.of(contender, "back up", number, _settled(contender.back_up))
        for contender in order:
            yield Sample.of(contender, "unchanged", number, _settled(contender.increment))
        cast("Trees", bench.cluster).change(tree, number)
        for contender in order:
            yield Sample.of(contender, "changed", number, _settled(contender.increment))
        for contender in order:
            os.sync()
            yield from restored(bench, contender, number)
    finally:
        for contender in order:
            contender.remove()


def _settled(back_up: Callable[[], Backup]) -> Backup:
    """Nobody pays for pages that another one left dirty."""
    os.sync()
    return back_up()


def serve(directory: Path, gb: float) -> Served:
    """The place of the trees; they are made one after the other."""
    trees = Trees(directory, gb)
    text = "small files, documents, a large file, a tree of sources, one after the other"
    return Served(trees, text, round(gb * 1e9), trees.remove)


def _targets() -> Iterator[Target]:
    for tree in TREES:
        ours, peer = f"{_MINGUS}, {tree.name}", f"{_RESTIC}, {tree.name}"
        yield Target(f"first backup, {tree.name}", "back up", "wall", ours, peer, 0.7)
        yield Target(f"second backup, nothing changed, {tree.name}", "unchanged", "wall", ours, peer, 0.5)
        yield Target(f"backup of what changed, {tree.name}", "changed", "wall", ours, peer, 1.0)
        yield Target(f"stored bytes, first backup, {tree.name}", "back up", "stored", ours, peer, 1.02)
        yield Target(f"stored bytes, what changed, {tree.name}", "changed", "stored", ours, peer, 1.02)
        yield Target(f"restore, {tree.name}", "restore", "wall", ours, peer, 0.8)
    for tree in TREES:
        name = f"memory of a first backup (MiB), {tree.name}"
        yield Target(name, "back up", "whole memory", f"{_MINGUS}, {tree.name}", "", 256)


FILES = Suite(
    name="files",
    title="Files: backup, backup again, restore",
    conditions=(
        "Trees, one after the other (at 5 GB): 200,000 files of 1 to 16 KiB; 5 GB of documents of 10 KB to 30 MB; one"
        " file of 10 GB, of which a hundredth is then overwritten, 64 KiB at a time, anywhere; 70,000 sources, whose"
        " top directory is then renamed. Half of the content is incompressible (of the sources: nothing). A fresh"
        " repository of each contender in each round. Files are in the page cache for everybody; what one left dirty"
        " is on the disk before the next begins. kopia is not compared: it could not be built where this was made."
    ),
    contenders=lambda bench: [
        MingusFiles(bench, _MINGUS, level=_LEVEL), ResticFiles(bench, _RESTIC), Borg(bench, _BORG)
    ],
    play=play,
    targets=tuple(_targets()),
    # The large file, what it was restored to, and three repositories of it.
    space_per_gb=9.0,
    serve=serve,
)  # fmt: skip
