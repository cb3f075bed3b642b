"""What changed between two snapshots of configuration, as text for people: a unified diff with secrets masked.

Both texts are masked first and compared then, so of a changed secret nothing is shown but that it changed.
Everything is bounded: what is too large, too long, no text or a secret by its name is named and not shown.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from mingus_engine import bounds
from mingus_engine.codec import attributes
from mingus_engine.codec.entries import Entry
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import NoSuchSnapshot
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext
from mingus_engine.masking import mask_lines
from mingus_engine.repository import state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.findings import shown

#: A larger file is no configuration that anybody reads.
FILE_MAX_BYTES = bounds.MIB
# Finding a shortest diff takes time with the square of the lines.
_LINES_MAX = 5_000
#: Of the whole text.
TEXT_MAX_CHARACTERS = 256 * 1024
_SECRET_FILE = re.compile(
    r"(?:^|/)(?:id_(?:rsa|dsa|ecdsa|ed25519)|\.pgpass|\.netrc|g?shadow-?|[^/]*\.(?:key|pem|p12|pfx|jks|keystore|kdbx))$",
    re.IGNORECASE,
)


@dataclass
class TextDiff:
    """``old``, ``new``: ULIDs. ``counts``: entries that are ``new``, ``removed``, ``changed``.

    ``text``: the diff; ``cut``: there was more of it than could be shown.
    """

    old: str
    new: str
    counts: dict[str, int] = field(default_factory=lambda: {"new": 0, "removed": 0, "changed": 0})
    text: str = ""
    cut: bool = False

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {"old": self.old, "new": self.new, **self.counts, "text": self.text, "cut": self.cut}


def diff_to_one_before(
    settings: Settings, source_id: str, snapshot: str, *, context: JobContext, max_characters: int
) -> TextDiff | None:
    """What *snapshot* has that the one before it has not, and the other way round; ``None``: it is the first.

    :raises MingusError: it cannot be read.
    """
    with places.chosen(settings, source_id, None, context) as place:
        seen = state.look(place, source_id)
        new = seen.find(snapshot)
        at = [manifest.ulid for manifest in seen.manifests].index(new.ulid)
        if not at:
            return None
        return _announced(place, (seen.manifests[at - 1], new), context, most=max_characters)


def diff_between(
    settings: Settings,
    source_id: str,
    old: str,
    new: str,
    *,
    path: str = "",
    repository: str | None = None,
    context: JobContext,
    max_characters: int = TEXT_MAX_CHARACTERS,
) -> TextDiff:
    """How *new* differs from *old*: two snapshots of *source_id* by the beginnings of their ULIDs.

    :param path: only this file, or what is below this directory.
    :raises NoSuchSnapshot: :raises MingusError: one cannot be read.
    """
    with places.chosen(settings, source_id, repository, context) as place:
        seen = state.look(place, source_id)
        return _announced(place, (seen.find(old), seen.find(new)), context, most=max_characters, path=path)


def compare(
    old: SnapshotReader, new: SnapshotReader, context: JobContext, *, path: bytes = b"",
    max_characters: int = TEXT_MAX_CHARACTERS,
) -> TextDiff:  # fmt: skip
    """See the module. :param path: only this file, or what is below this directory."""
    found = TextDiff(old.manifest.ulid, new.manifest.ulid)
    pieces: list[str] = []
    size = 0
    for before, after in _pairs(_chosen(old, path), _chosen(new, path)):
        context.checkpoint()
        if before is not None and after is not None and _same(before, old, after, new):
            continue
        found.counts["new" if before is None else "removed" if after is None else "changed"] += 1
        if found.cut:
            continue
        for line in _of_entry(before, old, after, new):
            size += len(line) + 1
            if size > max_characters:
                found.cut = True
                break
            pieces.append(line)
    found.text = "\n".join(pieces)
    return found


def _announced(
    place: Repository, pair: tuple[Manifest, Manifest], context: JobContext, *, most: int, path: str = ""
) -> TextDiff:
    old, new = pair
    for manifest in (old, new):
        if manifest.kind.partition(" ")[0] != "files":
            raise NoSuchSnapshot(f"snapshot {manifest.ulid} is of kind {manifest.kind}, not of files")
    with reading.announced(place, old, context), reading.announced(place, new, context):
        return compare(
            SnapshotReader(place, old), SnapshotReader(place, new), context,
            path=path.strip("/").encode("utf-8", "surrogateescape"), max_characters=most,
        )  # fmt: skip


def _chosen(reader: SnapshotReader, path: bytes) -> Iterator[TabledEntry]:
    for file in reader.files():
        if not path or file.entry.path == path or file.entry.path.startswith(path + b"/"):
            yield file


def _pairs(
    old: Iterator[TabledEntry], new: Iterator[TabledEntry]
) -> Iterator[tuple[TabledEntry | None, TabledEntry | None]]:
    """Entries of two snapshots by path, which ascend in both."""
    before, after = next(old, None), next(new, None)
    while before is not None or after is not None:
        if after is None or (before is not None and before.entry.path < after.entry.path):
            yield before, None
            before = next(old, None)
        elif before is None or after.entry.path < before.entry.path:
            yield None, after
            after = next(new, None)
        else:
            yield before, after
            before, after = next(old, None), next(new, None)


def _same(before: TabledEntry, old: SnapshotReader, after: TabledEntry, new: SnapshotReader) -> bool:
    return not _attributes(before.entry, after.entry) and _same_content(before, old, after, new)


def _same_content(before: TabledEntry, old: SnapshotReader, after: TabledEntry, new: SnapshotReader) -> bool:
    a, b = before.entry, after.entry
    if (a.kind, a.size, a.target) != (b.kind, b.size, b.target):
        return False
    if a.kind != FileKind.FILE or not a.size:
        return True
    if old.body.hash_key == new.body.hash_key:
        return old.block_hashes(before) == new.block_hashes(after)
    return a.size <= FILE_MAX_BYTES and _content(before, old) == _content(after, new)


def _attributes(before: Entry, after: Entry) -> list[str]:
    """What differs besides content and times."""
    found = []
    if before.mode != after.mode:
        found.append(f"mode {before.mode:04o} -> {after.mode:04o}")
    if (before.uid, before.gid) != (after.uid, after.gid):
        found.append(f"owner {before.uid}:{before.gid} -> {after.uid}:{after.gid}")
    what = shown(after.path)
    if attributes.decode(before.extra, what).xattrs != attributes.decode(after.extra, what).xattrs:
        found.append("extended attributes")
    return found


def _of_entry(
    before: TabledEntry | None, old: SnapshotReader, after: TabledEntry | None, new: SnapshotReader
) -> Iterator[str]:
    """The lines about one entry that differs."""
    one = after or before
    if one is None:
        return
    path = shown(one.entry.path)
    if before is None or after is None:
        kind = FileKind(one.entry.kind).name.lower().replace("_", " ")
        yield f"{'new' if before is None else 'removed'} {kind} {path}"
    elif changed := _attributes(before.entry, after.entry):
        yield f"changed {path}: {', '.join(changed)}"
    if before is not None and after is not None and _same_content(before, old, after, new):
        return
    kinds = {file.entry.kind for file in (before, after) if file is not None}
    if kinds == {FileKind.SYMLINK} and before is not None and after is not None:
        yield f"changed {path}: leads to {shown(after.entry.target)}, before to {shown(before.entry.target)}"
    elif len(kinds) > 1:
        yield f"changed {path}: is of another kind"
    elif kinds == {FileKind.FILE}:
        yield from _of_content(path, before, old, after, new)


def _of_content(
    path: str, before: TabledEntry | None, old: SnapshotReader, after: TabledEntry | None, new: SnapshotReader
) -> Iterator[str]:
    sizes = [file.entry.size for file in (before, after) if file is not None]
    said = f"changed {path}: " if before is not None and after is not None else f"  {path}: "
    if _SECRET_FILE.search(path):
        yield f"{said}a secret by its name, not shown"
        return
    if max(sizes) > FILE_MAX_BYTES:
        yield f"{said}{max(sizes)} bytes, not shown"
        return
    texts = [_lines(_content(file, reader)) if file else [] for file, reader in ((before, old), (after, new))]
    left, right = texts
    if left is None or right is None:
        yield f"{said}no text, not shown"
    elif max(len(left), len(right)) > _LINES_MAX:
        yield f"{said}{max(len(left), len(right))} lines, not shown"
    elif left == right:
        yield f"{said}only in what is masked"
    else:
        yield from difflib.unified_diff(left, right, f"a/{path}", f"b/{path}", lineterm="")


def _content(file: TabledEntry, reader: SnapshotReader) -> bytes:
    return b"".join(bytes(length) if data is None else bytes(data) for _, data, length in reader.data(file))


def _lines(content: bytes) -> list[str] | None:
    """Masked lines, safe to be shown; ``None`` = it is no text."""
    if b"\0" in content:
        return None
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError:
        return None
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [_shown(line) for line in mask_lines([line.removesuffix("\r") for line in lines])]


def _shown(line: str) -> str:
    """*line* without what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "\N{REPLACEMENT CHARACTER}" for c in line)
