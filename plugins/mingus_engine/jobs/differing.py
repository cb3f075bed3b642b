"""``diff``: in what two snapshots of a source differ, entry by entry. Reads no contents where hashes tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec import attributes
from mingus_engine.codec.entries import Entry
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import NoSuchSnapshot, SettingsError
from mingus_engine.jobs import reading
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.file_listing import FileInfo, file_info
from mingus_engine.jobs.finding import holding
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.settings import Settings
from mingus_engine.sources.base import FileKind

_UNKNOWN = bytes(bounds.BLOCK_HASH_BYTES)
_ZEROS = bytes(bounds.MIB)


@dataclass(frozen=True, slots=True)
class Difference:
    """One path that is not the same in both. ``sign``: ``A`` only in the second, ``D`` only in the first, ``T`` another
    kind, ``M`` another content (of a link: target), ``m`` only attributes; ``differs`` names what.
    """

    sign: str
    path: str
    before: FileInfo | None
    after: FileInfo | None
    differs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """What was compared, and how many paths differ by sign."""

    source: str
    repository: str
    first: str
    second: str
    counts: dict[str, int]


def diff_snapshots(
    settings: Settings,
    first: str,
    second: str,
    path: str = "",
    *,
    into: Callable[[Difference], None],
    source: str | None = None,
    repository: str | None = None,
    context: JobContext,
) -> Comparison:
    """Give *into* every difference at or below *path*, in path order.

    :param first, second: the beginnings of their ULIDs, or ``latest``; both of one source.
    :raises NoSuchSnapshot: one of them, or *path* in both. :raises SettingsError: they are of two sources.
    """
    with holding(settings, first, source, repository, context) as (place, one):
        of = source or one.name.source
        other = reading.choose(place, of, None if second.lower() == "latest" else second)
        if other.name.source != one.name.source:
            raise SettingsError("the snapshots are of two sources")
        with reading.announced(place, one, context), reading.announced(place, other, context):
            comparing = _Comparing(SnapshotReader(place, one), SnapshotReader(place, other), context)
            counts = dict.fromkeys("ADTMm", 0)
            for difference in comparing.differences(path.strip("/").encode("utf-8", "surrogateescape")):
                counts[difference.sign] += 1
                into(difference)
        if path.strip("/") and not comparing.met:
            raise NoSuchSnapshot(f"no file {path} in snapshots {one.ulid} and {other.ulid}")
        return Comparison(of, place.name, one.ulid, other.ulid, counts)


class _Comparing:
    """:ivar met: whether anything was at the path in either."""

    def __init__(self, first: SnapshotReader, second: SnapshotReader, context: JobContext) -> None:
        self._first, self._second, self._context = first, second, context
        self.met = False

    def differences(self, path: bytes) -> Iterator[Difference]:
        """A merge of both in path order; shards that are in both are not read where nothing else is asked of them."""
        skipped = set() if path else {s.digest for s in self._first.body.shards} & {
            s.digest for s in self._second.body.shards
        }  # fmt: skip
        if self._first.body.hash_key != self._second.body.hash_key:
            skipped = set()
        one, two = self._entries(self._first, path, skipped), self._entries(self._second, path, skipped)
        before, after = next(one, None), next(two, None)
        while before is not None or after is not None:
            self._context.checkpoint()
            self.met = True
            if before is not None and (after is None or before.entry.path < after.entry.path):
                info = file_info(before.entry)
                yield Difference("D", info.path, info, None)
                before = next(one, None)
            elif after is not None and (before is None or after.entry.path < before.entry.path):
                info = file_info(after.entry)
                yield Difference("A", info.path, None, info)
                after = next(two, None)
            elif before is not None and after is not None:
                sign, differs = self._compared(before, after)
                if sign:
                    info = file_info(after.entry)
                    yield Difference(sign, info.path, file_info(before.entry), info, differs)
                before, after = next(one, None), next(two, None)

    @staticmethod
    def _entries(reader: SnapshotReader, path: bytes, skipped: set[bytes]) -> Iterator[TabledEntry]:
        numbers = [n for n, shard in enumerate(reader.body.shards) if shard.digest not in skipped]
        if path:
            within = set(reader.shards_within([(path, path + b"\0"), (path + b"/", path + b"0")]))
            numbers = [n for n in numbers if n in within]
        for table in reader.tables(numbers):
            for number, found in enumerate(table.paths):
                if not path or found == path or found.startswith(path + b"/"):
                    yield TabledEntry(table.entry(number), table.runs)

    def _compared(self, before: TabledEntry, after: TabledEntry) -> tuple[str, tuple[str, ...]]:
        one, two = before.entry, after.entry
        if one.kind != two.kind:
            return "T", ("kind",)
        found = [] if one.size == two.size else ["size"]
        if one.target != two.target:
            found.append("target")
        if one.kind == FileKind.FILE and (one.size != two.size or not self._same_content(before, after)):
            found.append("content")
        changed = bool(found)
        found += _attributes_of(one, two)
        return ("M" if changed else "m" if found else ""), tuple(found)

    def _same_content(self, before: TabledEntry, after: TabledEntry) -> bool:
        if self._first.body.hash_key == self._second.body.hash_key:
            one, two = self._first.block_hashes(before), self._second.block_hashes(after)
            if _whole(one) and _whole(two):
                return one == two
        return self._digest(self._first, before) == self._digest(self._second, after)

    def _digest(self, reader: SnapshotReader, file: TabledEntry) -> bytes:
        hashing = blake3()
        for _, data, length in reader.data(file):
            self._context.checkpoint()
            if data is not None:
                hashing.update(data)
                continue
            for at in range(0, length, len(_ZEROS)):
                hashing.update(_ZEROS[: length - at])
        return hashing.digest()


def _attributes_of(one: Entry, two: Entry) -> list[str]:
    found = []
    if one.mode != two.mode:
        found.append("mode")
    if (one.uid, one.gid) != (two.uid, two.gid):
        found.append("owner")
    if one.mtime_ns != two.mtime_ns:
        found.append("mtime")
    first, second = (attributes.decode(e.extra, e.path.decode("utf-8", "replace")) for e in (one, two))
    if first.xattrs != second.xattrs:
        found.append("xattr")
    if first.device != second.device:
        found.append("device")
    if first.link != second.link:
        found.append("link")
    return found


def _whole(hashes: bytes) -> bool:
    """Whether each block has a known hash."""
    width = bounds.BLOCK_HASH_BYTES
    return _UNKNOWN not in hashes or all(hashes[at : at + width] != _UNKNOWN for at in range(0, len(hashes), width))
