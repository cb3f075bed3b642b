"""The files of a snapshot as a directory would show them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from mingus_engine.codec.entries import Entry
from mingus_engine.sources.base import FileKind

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIRECTORY_MODE = 0o700


@dataclass(frozen=True, slots=True)
class FileInfo:
    """One file, directory or link. ``path`` and ``target``: bytes that are not UTF-8 as ``\\xNN``.

    :param kind: ``file``, ``directory`` or ``symlink``. :param mode: permission bits.
    """

    path: str
    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    modified: datetime
    target: str = ""


def children(entries: Iterable[Entry], path: bytes, *, recursive: bool) -> Iterator[FileInfo]:
    """What `ls` shows of *path* (empty = the root): the file itself, or the content of the directory.

    :param entries: in path order. A directory that has no entry of its own is shown by its contents.
    """
    prefix = path + b"/" if path else b""
    shown: set[bytes] = set()
    for entry in entries:
        if entry.path == path and entry.kind != FileKind.DIRECTORY:
            yield file_info(entry)
        if not entry.path.startswith(prefix):
            if prefix and entry.path > prefix and not entry.path.startswith(path):
                return  # path order: nothing of it comes any more
            continue
        first, deeper, _ = entry.path[len(prefix) :].partition(b"/")
        if recursive or not deeper:
            if entry.kind == FileKind.DIRECTORY and not recursive:
                shown.add(entry.path)
            yield file_info(entry)
        elif prefix + first not in shown:
            shown.add(prefix + first)
            yield FileInfo(_text(prefix + first), "directory", _DIRECTORY_MODE, entry.uid, entry.gid, 0, _time(entry))


def file_info(entry: Entry) -> FileInfo:
    """*entry* as a plain value."""
    return FileInfo(
        path=_text(entry.path),
        kind=FileKind(entry.kind).name.lower(),
        mode=entry.mode,
        uid=entry.uid,
        gid=entry.gid,
        size=entry.size,
        modified=_time(entry),
        target=_text(entry.target),
    )


def _time(entry: Entry) -> datetime:
    try:
        return _EPOCH + timedelta(microseconds=entry.mtime_ns // 1000)
    except OverflowError:
        return _EPOCH


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
