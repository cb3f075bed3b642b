"""What a delta restore of a whole snapshot removes: what is below its roots and not in it.

Not removed: what the set's rules leave out (the snapshot says nothing of it), sockets, what is on another file system
than its root, and what lies where one was mounted and left out when the snapshot was taken. Nothing at all is removed
where the snapshot is no witness: it is flagged, it could not read something or left out what was too large, or its set
follows links.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings.files import FileRoot, FileSetSettings
from mingus_engine.sources.files.findings import Findings
from mingus_engine.sources.files.walk import Walker
from mingus_engine.targets.files.live import LiveTarget

# What was too large then may be smaller now.
_UNSEEN = ("unreadable", "unreadable directory", "loop", "too large")


def no_witness(reader: SnapshotReader) -> str:
    """Why what a snapshot does not have may be there all the same; empty: it may not."""
    facts = reader.body.facts
    if reader.manifest.flagged:
        return "the snapshot is flagged"
    if facts.get("rules", {}).get("links") == "follow":
        return "the set follows links"
    findings = facts.get("files", {}).get("findings", {})
    unseen = sum(int(findings.get(sort, 0)) for sort in _UNSEEN)
    return (
        f"the snapshot lacks {unseen} files or directories that could not be read or were too large" if unseen else ""
    )


class Removing:
    """See the module.

    :param roots: label → where it is now. :param linked: a root may be a link to where it is.
    """

    def __init__(self, reader: SnapshotReader, target: LiveTarget, roots: Mapping[str, Path], *, linked: bool) -> None:
        self._reader, self._target, self._roots, self._linked = reader, target, roots, linked
        self._folders: list[bytes] = []

    def absent(self, below: bytes = b"") -> Iterator[tuple[bytes, bool]]:
        """Paths that are there and not in the snapshot, in path order, and whether each is a directory."""
        snapshot = (path for table in self._reader.tables() for path in table.paths)
        unseen = tuple(os.fsencode(path) + b"/" for path in self._reader.body.facts.get("mounts", ()))
        known = next(snapshot, None)
        for found in self._walker().found():
            while known is not None and known < found.path:
                known = next(snapshot, None)
            if found.path == known or stat.S_ISSOCK(found.status.st_mode) or found.path.startswith(unseen):
                continue
            if not below or found.path.startswith(below + b"/"):
                yield found.path, stat.S_ISDIR(found.status.st_mode)

    def remove(self, path: bytes, *, folder: bool) -> bool:
        """Remove a file; a directory waits for what is in it. Whether it is gone."""
        if folder:
            self._folders.append(path)
            return False
        return self._target.remove(path, folder=False)

    def finish(self, removed: Callable[[bytes], None]) -> None:
        """Remove the directories that are empty now."""
        for path in reversed(self._folders):
            if self._target.remove(path, folder=True):
                removed(path)
        self._folders.clear()

    def leaves_something(self, path: bytes) -> bool:
        """Whether something in the directory *path*, where the snapshot has none, is not to be removed."""
        going = {one for one, _ in self.absent(path)}
        return any(one not in going for one in self._target.below(path))

    def make_room(self, paths: Iterable[bytes], removed: Callable[[bytes], None]) -> None:
        """Empty the directories *paths*, which are in place of something else."""
        for path in paths:
            for one, folder in self.absent(path):
                if self.remove(one, folder=folder):
                    removed(one)
            self.finish(removed)

    def _walker(self) -> Walker:
        rules = self._reader.body.facts.get("rules", {})
        there = tuple(
            FileRoot(str(path), label)
            for label, path in self._roots.items()
            if path.exists() and (self._linked or not path.is_symlink())
        )
        return Walker(
            FileSetSettings(
                roots=there, one_file_system=True, file_max_bytes=int(rules.get("file_max_bytes", 0)),
                include=tuple(rules.get("include", ())), exclude=tuple(rules.get("exclude", ())),
            ),
            Findings(),
        )  # fmt: skip
