"""What a restore does with each entry, given what is there already: pure decisions, with their reasons."""

from __future__ import annotations

import enum
import os
import stat
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from mingus_engine.codec import attributes
from mingus_engine.codec.entries import Entry
from mingus_engine.errors import SettingsError
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.findings import shown

#: What becomes of something that is there already, of another snapshot or of somebody else.
Conflict = Literal["fail", "skip", "newer", "overwrite"]
CONFLICTS: tuple[Conflict, ...] = get_args(Conflict)
_TYPES = {
    FileKind.FILE: stat.S_IFREG,
    FileKind.DIRECTORY: stat.S_IFDIR,
    FileKind.SYMLINK: stat.S_IFLNK,
    FileKind.FIFO: stat.S_IFIFO,
    FileKind.CHARACTER_DEVICE: stat.S_IFCHR,
    FileKind.BLOCK_DEVICE: stat.S_IFBLK,
}


class Action(enum.Enum):
    """What happens to an entry's place."""

    CREATE = "created"
    OVERWRITE = "overwritten"
    #: Only where it differs from the snapshot, by content: it is not known yet.
    MEND = "mended"
    SKIP = "skipped"
    SAME = "unchanged"
    REMOVE = "removed"


_SIGNS = {Action.CREATE: "+", Action.OVERWRITE: "~", Action.MEND: "~", Action.SKIP: "~", Action.SAME: "=",
          Action.REMOVE: "-"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the list of a restore. ``differs``: in what it differs from what is there (``kind``, ``size``,
    ``content``, ``mode``, ``owner``, ``mtime``, ``target``, ``device``, ``xattr``); ``bytes``: of its content.
    """

    path: bytes
    action: Action
    differs: tuple[str, ...] = ()
    bytes: int = 0
    why: str = ""

    def __str__(self) -> str:
        notes = [", ".join(self.differs)] if self.differs else []
        notes += ["kept"] if self.action is Action.SKIP else []
        notes += [self.why] if self.why else []
        return f"{_SIGNS[self.action]} {shown(self.path)}" + (f" ({'; '.join(notes)})" if notes else "")

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        found = {"path": shown(self.path), "sign": _SIGNS[self.action], "action": self.action.value}
        return {**found, "differs": list(self.differs), "bytes": self.bytes, **({"why": self.why} if self.why else {})}


@dataclass(frozen=True, slots=True)
class Present:
    """What is there. ``target``: of a link; ``xattrs``: ``None`` = not looked at."""

    status: os.stat_result
    target: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] | None = None

    def is_kind(self, kind: int) -> bool:
        """Whether it is what an entry of *kind* becomes."""
        return stat.S_IFMT(self.status.st_mode) == _TYPES.get(FileKind(kind))


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What is asked for.

    :param conflict: of what is there already. :param delta: what is there becomes what the snapshot has, and only what
        differs is written. :param contents: of a delta: also files of the same size and time are compared.
    """

    conflict: Conflict = "fail"
    delta: bool = False
    contents: bool = False

    @classmethod
    def of(cls, conflict: str, *, delta: bool) -> Policy:
        """The policy of the arguments of a restore. :raises SettingsError: they do not go together."""
        known = next((c for c in CONFLICTS if c == conflict), None)
        if known is None:
            raise SettingsError(f"{conflict!r} is not one of {', '.join(CONFLICTS)}")
        if delta and known in ("skip", "newer"):
            raise SettingsError(
                f"a delta restore makes the place equal to the snapshot; it cannot {known}",
                hint="leave out the conflict policy, or the delta",
            )
        return cls(conflict="overwrite" if delta else known, delta=delta, contents=known == "overwrite")

    def decide(self, entry: Entry, present: Present | None, owner: tuple[int, int] | None) -> Change:
        """What happens to *entry*.

        :param present: what is there. :param owner: who shall own it, ``None`` = no matter.
        """
        if present is None:
            return Change(entry.path, Action.CREATE, bytes=entry.size)
        differs = differences(entry, present, owner)
        return Change(entry.path, self._action(entry, present, differs), differs, entry.size)

    def _action(self, entry: Entry, present: Present, differs: tuple[str, ...]) -> Action:
        folder = entry.kind == FileKind.DIRECTORY and "kind" not in differs
        if self.conflict in ("fail", "skip") or (self.conflict == "newer" and folder):
            return Action.SAME if folder else Action.SKIP
        if self.conflict == "newer":
            if "kind" in differs or entry.mtime_ns <= present.status.st_mtime_ns:
                return Action.SKIP if differs else Action.SAME
            return Action.OVERWRITE
        if entry.kind == FileKind.FILE:
            if not self.delta or "kind" in differs:
                return Action.OVERWRITE
            return Action.MEND if differs or self.contents else Action.SAME
        return Action.OVERWRITE if differs else Action.SAME


def differences(entry: Entry, present: Present, owner: tuple[int, int] | None) -> tuple[str, ...]:
    """In what *present* differs from *entry*, as far as can be seen without its content."""
    if not present.is_kind(entry.kind):
        return ("kind",)
    status = present.status
    found = []
    if entry.kind == FileKind.FILE and status.st_size != entry.size:
        found.append("size")
    if entry.kind == FileKind.SYMLINK and present.target != entry.target:
        found.append("target")
    if entry.kind != FileKind.SYMLINK and stat.S_IMODE(status.st_mode) != entry.mode & 0o7777:
        found.append("mode")
    if owner is not None and owner != (status.st_uid, status.st_gid):
        found.append("owner")
    if entry.kind != FileKind.DIRECTORY and status.st_mtime_ns != entry.mtime_ns:
        found.append("mtime")
    known = attributes.decode(entry.extra, shown(entry.path))
    if known.device is not None and known.device != (os.major(status.st_rdev), os.minor(status.st_rdev)):
        found.append("device")
    if present.xattrs is not None and present.xattrs != known.xattrs:
        found.append("xattr")
    return tuple(found)


@dataclass
class Tally:
    """How many of each action, in entries that are no directories and bytes of contents; and the first changes.

    :ivar first: at most ``FIRST`` changes that are not ``unchanged``.
    """

    counts: dict[str, dict[str, int]] = field(
        default_factory=lambda: {a.value: {"count": 0, "bytes": 0} for a in Action if a is not Action.MEND}
    )
    first: list[str] = field(default_factory=list)

    def add(self, change: Change) -> None:
        """One more."""
        action = Action.OVERWRITE if change.action is Action.MEND else change.action
        count = self.counts[action.value]
        count["count"] += 1
        count["bytes"] += change.bytes
        if action is not Action.SAME and len(self.first) < FIRST:
            self.first.append(str(change))

    def __str__(self) -> str:
        said = [f"{count['count']} {name}" for name, count in self.counts.items() if count["count"]]
        return ", ".join(said) or "nothing"


#: How many changes a report names.
FIRST = 50
