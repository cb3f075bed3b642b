"""Random trees, changed at random: each snapshot restores exactly what was there when it was taken, also later."""

import os
import random
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mingus_engine.sources.files import reading
from tests.support.file_sets import FileSet, described, tick

SIZES = [0, 1, 500, 4_000, 65_535, 65_536, 65_537, 262_144, 300_001, 4_194_304, 4_194_305, 9_000_000]
NAMES = ["a", "a-b", "a.b", "b", "é", "z" * 200, os.fsdecode(b"\xff\n"), "a b", "0"]


class Changes:
    """Changes to a tree, chosen by a seed."""

    def __init__(self, tree: Path, seed: int) -> None:
        self.tree, self.chance = tree, random.Random(seed)

    def one(self) -> None:
        """One change; what does not fit what is there changes nothing."""
        changes: list[Callable[[], object]] = [
            self.write, self.write, self.write, self.write_inside, self.append, self.cut, self.insert, self.remove,
            self.move, self.copy, self.link, self.symlink, self.folder, self.remove_folder, self.mode, self.times,
            self.xattr, self.fifo, self.holes, self.swap,
        ]  # fmt: skip
        try:
            self.chance.choice(changes)()
        except OSError:
            return

    def folders(self) -> list[Path]:
        return [self.tree, *(p for p in sorted(self.tree.rglob("*")) if p.is_dir() and not p.is_symlink())]

    def free(self) -> Path:
        path = self.chance.choice(self.folders()) / self.chance.choice(NAMES)
        if path.is_fifo():
            raise FileExistsError  # whoever opened it would wait for somebody at the other end
        return path

    def file(self) -> Path:
        found = [p for p in sorted(self.tree.rglob("*")) if p.is_file() and not p.is_symlink()]
        if not found:
            raise FileNotFoundError
        return self.chance.choice(found)

    def content(self) -> bytes:
        size = self.chance.choice(SIZES)
        return self.chance.choice([self.chance.randbytes(size), b"text " * (size // 5), bytes(size)])

    def write(self) -> None:
        self.free().write_bytes(self.content())

    def write_inside(self) -> None:
        with self.file().open("r+b") as file:
            file.seek(self.chance.randrange(1 + file.seek(0, 2)))
            file.write(self.chance.randbytes(50))

    def append(self) -> None:
        with self.file().open("ab") as file:
            file.write(self.content())

    def cut(self) -> None:
        path = self.file()
        os.truncate(path, self.chance.randrange(1 + path.stat().st_size))

    def insert(self) -> None:
        path = self.file()
        content = path.read_bytes()
        at = self.chance.randrange(1 + len(content))
        path.write_bytes(content[:at] + b"inserted" + content[at:])

    def remove(self) -> None:
        self.file().unlink()

    def move(self) -> None:
        self.chance.choice([*self.folders()[1:], self.file()]).rename(self.free())

    def copy(self) -> None:
        shutil.copyfile(self.file(), self.free())

    def link(self) -> None:
        os.link(self.file(), self.free())

    def symlink(self) -> None:
        self.free().symlink_to(self.chance.choice(["nowhere", ".", "../..", "/etc", "a"]))

    def folder(self) -> None:
        self.free().mkdir()

    def remove_folder(self) -> None:
        shutil.rmtree(self.chance.choice(self.folders()[1:] or [self.tree / "none"]))

    def mode(self) -> None:
        self.file().chmod(self.chance.choice([0o600, 0o4755, 0o444, 0o2711]))

    def times(self) -> None:
        os.utime(
            self.chance.choice([*self.folders(), self.file()]), ns=(0, self.chance.randrange(-(10**18), 4 * 10**18))
        )

    def xattr(self) -> None:
        path = self.chance.choice([*self.folders(), self.file()])
        os.setxattr(path, self.chance.choice(["user.a", "user.b"]), self.chance.randbytes(self.chance.randrange(300)))

    def fifo(self) -> None:
        os.mkfifo(self.free())

    def holes(self) -> None:
        with self.free().open("wb") as file:
            for _ in range(self.chance.randrange(4)):
                file.seek(self.chance.randrange(10_000_000), 1)
                file.write(self.chance.randbytes(self.chance.randrange(100_000)))
            file.truncate(file.tell() + self.chance.choice([0, 1, 5_000_000]))

    def swap(self) -> None:
        one, other = self.file(), self.file()
        one.rename(self.tree / ".swap")
        other.rename(one)
        (self.tree / ".swap").rename(other)


@pytest.mark.parametrize("racy_ns", [0, reading.RACY_NS], ids=["times-trusted", "all-read"])
def test_every_snapshot_restores_exactly_at_every_later_time(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, racy_ns: int
) -> None:
    monkeypatch.setattr(reading, "RACY_NS", racy_ns)

    @settings(max_examples=6, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 25), st.booleans()), min_size=2, max_size=4))
    def check(steps: list[tuple[int, int, bool]]) -> None:
        place = Path(tempfile.mkdtemp(dir=workspace))
        one = FileSet.make(place / "set", may_be_empty=True, shrink_alarm_share=0.0, burst_alarm_share=0.0)
        try:
            taken = []
            for seed, count, incremental in steps:
                changes = Changes(one.tree, seed)
                for _ in range(count):
                    changes.one()
                tick(place)
                report = one.back_up(incremental=incremental)
                assert not report.flagged
                taken.append((report.snapshot, described(one.tree)))
                tick(place)
            for i, (snapshot, was) in enumerate(taken):
                directory, _ = one.restore(f"back-{i}", snapshot)
                assert described(directory / "tree") == was
            assert one.verify().ok
        finally:
            one.close()
            shutil.rmtree(place)

    check()
