"""Trees of files that are backed up, and how each of them changes. The same seed makes the same tree.

Half of what is in them is text that zstd makes a third of, half is as incompressible as pictures and archives are. No
content occurs twice, so nobody finds a chunk that users' files would not have given.
"""

from __future__ import annotations

import hashlib
import math
import os
import random
import stat
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.support import directories
from tests.support.processes import unprivileged_user

_KB, _MB, _GB = 1_000, 1_000_000, 1_000_000_000
_BLOCK = 65_536
_WRITE_BYTES = 4 * _MB
_OLD_S = 2.5


class Filler:
    """Contents, from one seed. Text is of words of eight characters, often the same ones, as words are."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self._numbers = np.random.default_rng(seed)
        letters = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", dtype="S1")
        self._words = self._numbers.choice(letters, (4096, 8))
        self._words[:, 7] = b" "

    def data(self, size: int, *, text: bool) -> bytes:
        """*size* bytes that occur nowhere else."""
        if not text:
            return self._numbers.bytes(size)
        # The smaller the number, the more often: half of a text are some 60 words.
        picked = (self._numbers.random(size // 8 + 1) ** 6 * len(self._words)).astype(np.int32)
        return self._words[picked].tobytes()[:size]

    def size(self, low: int, high: int) -> int:
        """Between *low* and *high*, each order of magnitude as often."""
        return round(math.exp(self.random.uniform(math.log(low), math.log(high))))


@dataclass(frozen=True)
class Tree:
    """A kind of tree.

    :param make: fills a directory, given GB of the benchmark. :param change: changes some of it, given the round.
    """

    name: str
    make: Callable[[Path, float], None]
    change: Callable[[Path, int], None]


@dataclass
class Trees:
    """What the suite backs up: the tree that is there now. In the place of the other suites' servers.

    :param gb: of the benchmark: documents take as much. :ivar size: bytes of all files of the tree.
    """

    directory: Path
    gb: float
    size: int = field(default=0)
    pid: int | None = None

    @property
    def data_directory(self) -> Path:
        """The root of the tree."""
        return self.directory / "tree"

    def grow(self, tree: Tree) -> None:
        """Put *tree* in the place of what is there."""
        self.remove()
        user = unprivileged_user()
        tree.make(directories.make_directory(self.data_directory, owner=user, mode=0o755), self.gb)
        _settle(self.data_directory)
        self.size = sum(path.lstat().st_size for path in self.data_directory.rglob("*") if path.is_file())

    def change(self, tree: Tree, number: int) -> None:
        """Change it as users do between two backups."""
        tree.change(self.data_directory, number)
        _settle(self.data_directory)

    def remove(self) -> None:
        """Nothing is left."""
        directories.remove(self.data_directory)


def digests(root: Path) -> Iterator[tuple[str, int, int, str]]:
    """Of each file below *root*: its path there, mode, time of change in ns, SHA-256; in order."""
    for path in sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink()):
        status = path.stat()
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        yield str(path.relative_to(root)), stat.S_IMODE(status.st_mode), status.st_mtime_ns, digest


def _settle(root: Path) -> None:
    """Files are the unprivileged user's, who backs them up; nothing of them waits to be written to a disk.

    What changed less than two seconds ago may change again unseen, so a careful program reads it again: it is older.
    """
    directories.give_tree(root, unprivileged_user())
    os.sync()
    time.sleep(_OLD_S)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    path.chmod(0o644)


def _small(root: Path, gb: float) -> None:
    """200,000 files of 1 to 16 KiB at 5 GB, a hundred in a directory."""
    filler = Filler(1)
    for number in range(round(40_000 * gb)):
        folder = root / f"{number // 10_000:03}" / f"{number // 100 % 100:02}"
        if number % 100 == 0:
            folder.mkdir(parents=True)
        _write(folder / f"{number:07}.dat", filler.data(filler.random.randint(1024, 16384), text=bool(number % 2)))


def _change_small(root: Path, number: int) -> None:
    """One file of a hundred has another content, and there is one new one for each of those."""
    filler = Filler(100 + number)
    files = sorted(root.rglob("*.dat"))
    for path in filler.random.sample(files, len(files) // 100):
        _write(path, filler.data(filler.random.randint(1024, 16384), text=True))
        _write(path.with_suffix(f".{number}.dat"), filler.data(filler.random.randint(1024, 16384), text=False))


def _documents(root: Path, gb: float) -> None:
    """Documents of 10 KB to 30 MB."""
    filler, total, number = Filler(2), 0, 0
    while total < gb * _GB:
        folder = root / f"{number // 200:03}"
        folder.mkdir(exist_ok=True)
        size = filler.size(10 * _KB, 30 * _MB)
        _write(folder / f"{number:06}.bin", filler.data(size, text=bool(number % 2)))
        total, number = total + size, number + 1


def _change_documents(root: Path, number: int) -> None:
    """Of a hundred: two are written anew, two get a page in front of the rest, one is copied, one goes elsewhere."""
    filler = Filler(200 + number)
    files = sorted(root.rglob("*.bin"))
    chosen = filler.random.sample(files, max(6, 6 * len(files) // 100))
    for at, path in enumerate(chosen):
        data = path.read_bytes()
        if at % 6 < 2:
            _write(path, filler.data(len(data), text=True))
        elif at % 6 < 4:
            _write(path, filler.data(3000, text=True) + data)
        elif at % 6 == 4:
            _write(path.with_name(f"copy-{number}-{path.name}"), data)
        else:
            path.rename(path.with_name(f"moved-{number}-{path.name}"))


def _image(root: Path, gb: float) -> None:
    """One file of twice as many GB: the disk of a virtual machine, or a mailbox."""
    filler, left, number = Filler(3), round(2 * gb * _GB), 0
    with (root / "image.raw").open("wb") as file:
        while left > 0:
            left -= file.write(filler.data(min(_WRITE_BYTES, left), text=bool(number % 2)))
            number += 1
    (root / "image.raw").chmod(0o644)


def _change_image(root: Path, number: int) -> None:
    """A hundredth of it is overwritten: 64 KiB at a time, anywhere."""
    filler, path = Filler(300 + number), root / "image.raw"
    size = path.stat().st_size
    with path.open("r+b", buffering=0) as file:
        for _ in range(max(1, size // 100 // _BLOCK)):
            os.pwrite(file.fileno(), filler.data(_BLOCK, text=True), filler.random.randrange(size - _BLOCK))


def _sources(root: Path, gb: float) -> None:
    """As many files as a kernel has at 5 GB, of sources: all text, 15 KB on average, deep directories."""
    filler = Filler(4)
    top = root / "linux-0"
    for number in range(round(14_000 * gb)):
        folder = top / f"d{number // 3000:02}" / f"e{number // 300 % 10}" / f"f{number // 20 % 15:02}"
        if number % 20 == 0:
            folder.mkdir(parents=True, exist_ok=True)
        _write(folder / f"{number:06}.c", filler.data(filler.size(500, 90 * _KB), text=True))


def _change_sources(root: Path, number: int) -> None:
    """A version later: the directory has another name, one file of a hundred another content."""
    filler = Filler(400 + number)
    (top,) = root.iterdir()
    top = top.rename(root / f"linux-{number + 1}")
    files = sorted(top.rglob("*.c"))
    for path in filler.random.sample(files, len(files) // 100):
        _write(path, filler.data(filler.size(500, 90 * _KB), text=True))


SMALL = Tree("small files", _small, _change_small)
DOCUMENTS = Tree("documents", _documents, _change_documents)
IMAGE = Tree("large file", _image, _change_image)
SOURCES = Tree("sources renamed", _sources, _change_sources)
TREES = (SMALL, DOCUMENTS, IMAGE, SOURCES)
