"""What is in the roots of a set, in the order of the paths' bytes: the order in which snapshots keep entries.

The order needs no sorting of the whole: in a directory, the name of a folder stands for the folder itself, and the name
with a ``/`` for what is below it, and these are sorted together with the names of files. ``a``, ``a-b``, ``a/c``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pathspec

from mingus_engine.errors import SourceDenied, SourceError
from mingus_engine.settings import FileSetSettings
from mingus_engine.sources.files.findings import Findings, shown

# In mountinfo, of blanks, line ends and backslashes.
_OCTAL = re.compile(rb"\\([0-7]{3})")


class Found(NamedTuple):
    """A file, directory or anything else. ``path`` as in snapshots; ``real``: where it is."""

    path: bytes
    real: bytes
    status: os.stat_result


def mount_points() -> frozenset[bytes]:
    """Where something is mounted now, also of a file system that is already mounted elsewhere (``mount --bind``), which
    has the device number of what it lies in; none where the kernel does not say (proc(5), ``/proc/pid/mountinfo``).
    """
    try:
        return mount_points_of(Path("/proc/self/mountinfo").read_bytes())
    except OSError:
        return frozenset()


def mount_points_of(mountinfo: bytes) -> frozenset[bytes]:
    """The fifth column of every line."""
    columns = (line.split(b" ")[4] for line in mountinfo.splitlines())
    return frozenset(_OCTAL.sub(lambda found: bytes([int(found[1], 8)]), column) for column in columns)


class Walker:
    """One walk through a set. Not thread-safe.

    :param findings: told what cannot be listed and what is left out for another reason than the rules.
    :ivar mounts: directories below the roots that were not gone into, for something is mounted there.
    """

    def __init__(self, files: FileSetSettings, findings: Findings) -> None:
        self._files, self._findings = files, findings
        self._exclude = pathspec.GitIgnoreSpec.from_lines(files.exclude) if files.exclude else None
        self._include = pathspec.GitIgnoreSpec.from_lines(files.include) if files.include else None
        self._stat = os.stat if files.links == "follow" else os.lstat
        self._ways: set[tuple[int, int]] = set()
        self._mounted = mount_points() if files.one_file_system else frozenset()
        self.mounts: list[bytes] = []
        self.roots = {os.fsencode(root.name): os.fsencode(root.path.rstrip("/") or "/") for root in files.roots}

    def found(self) -> Iterator[Found]:
        """Everything, ascending by path; once.

        :raises SourceError: a root is not there, or cannot be read.
        """
        names = [*self.roots, *(label + b"/" for label in self.roots)]
        for name in sorted(names):
            label = name.rstrip(b"/")
            real = self.roots[label]
            try:
                status = os.stat(real)  # noqa: PTH116 - a path of bytes
                if name != label:
                    if stat.S_ISDIR(status.st_mode):
                        os.scandir(real).close()
                        yield from self._below(label, real, status)
                    continue
            except PermissionError as error:
                raise SourceDenied(f"root {shown(real)}: {error.strerror}") from None
            except OSError as error:
                raise SourceError(
                    f"root {shown(real)}: {error.strerror}", hint="is its disk mounted? correct `roots` otherwise"
                ) from None
            yield Found(label, real, status)

    def _below(self, label: bytes, root: bytes, status: os.stat_result) -> Iterator[Found]:
        device, physical = status.st_dev, os.path.realpath(root).rstrip(b"/")
        # One level each: names still to come (last first), the directory's own way, its path and where it is.
        levels = [(self._names(label + b"/", root, b""), (status.st_dev, status.st_ino), label + b"/", root, b"")]
        self._ways.add(levels[0][1])
        while levels:
            names, way, path, real, inside = levels[-1]
            if not names:
                self._ways.discard(way)
                levels.pop()
                continue
            name = names.pop()
            folder = name.endswith(b"/")
            where = real + b"/" + name.rstrip(b"/") if real != b"/" else b"/" + name.rstrip(b"/")
            try:
                status = self._stat(where)
            except OSError as error:
                dangling = self._dangling(where, folder=folder)
                if dangling is not None:
                    yield Found(path + name, where, dangling)
                elif not folder:
                    self._failed(path + name, error)
                continue
            if not folder:
                if not self._too_large(path + name, status):
                    yield Found(path + name, where, status)
                continue
            way = (status.st_dev, status.st_ino)
            if not stat.S_ISDIR(status.st_mode):
                continue
            mounted = status.st_dev != device or physical + b"/" + inside + name.rstrip(b"/") in self._mounted
            if self._files.one_file_system and mounted:
                self.mounts.append(path + name.rstrip(b"/"))
                continue
            if way in self._ways:
                self._findings.note("loop", path + name)
                continue
            self._ways.add(way)
            levels.append((self._names(path + name, where, inside + name), way, path + name, where, inside + name))

    def _names(self, path: bytes, real: bytes, inside: bytes) -> list[bytes]:
        """What is in a directory, as keys (see the module), last first."""
        keys = []
        follow = self._files.links == "follow"
        try:
            with os.scandir(real) as entries:
                for entry in entries:
                    name = entry.name
                    try:
                        folder = entry.is_dir(follow_symlinks=follow)
                    except OSError:
                        folder = False
                    if (self._exclude or self._include) and self._left_out(inside + name, folder=folder):
                        continue
                    keys.append(name)
                    if folder:
                        keys.append(name + b"/")
        except FileNotFoundError:
            self._findings.note("vanished", path)
        except OSError as error:
            self._findings.note("unreadable directory", path, error.strerror or "")
        keys.sort(reverse=True)
        return keys

    def _left_out(self, inside: bytes, *, folder: bool) -> bool:
        name = os.fsdecode(inside) + ("/" if folder else "")
        if self._exclude is not None and self._exclude.match_file(name):
            return True
        return self._include is not None and not folder and not self._include.match_file(name)

    def _too_large(self, path: bytes, status: os.stat_result) -> bool:
        limit = self._files.file_max_bytes
        if limit and stat.S_ISREG(status.st_mode) and status.st_size > limit:
            self._findings.note("too large", path, f"{status.st_size} bytes")
            return True
        return False

    def _dangling(self, where: bytes, *, folder: bool) -> os.stat_result | None:
        """Of links that are followed: the link itself, where it leads nowhere or to itself."""
        if self._files.links != "follow" or folder:
            return None
        try:
            status = os.lstat(where)
        except OSError:
            return None
        return status if stat.S_ISLNK(status.st_mode) else None

    def _failed(self, path: bytes, error: OSError) -> None:
        gone = isinstance(error, FileNotFoundError | NotADirectoryError)
        self._findings.note("vanished" if gone else "unreadable", path, "" if gone else error.strerror or "")
