"""What PostgreSQL 17 and later need for an increment of their own, and what its parts look like.

The server compares its summaries of WAL since the parent's start with the uploaded list of files, and sends the blocks
that changed. It checks neither sizes nor checksums of that list, so paths are enough (POSTGRES.md §3); a file that is
not listed comes in full.

Visibility maps are not listed, so they come in full (1/32,768 of the data) and are compared block by block: WAL that
changes a heap page clears bits of its map without naming the map's page, so no summary names it. An increment of the
map, and what ``pg_combinebackup`` makes of it, keeps such bits set: index-only scans of it are wrong (docs/adr/0005).
"""

from __future__ import annotations

from collections.abc import Iterator

from mingus_engine import lsn as lsns
from mingus_engine.bounds import KIB, PAGE_BYTES
from mingus_engine.errors import BackupBroken
from mingus_engine.postgres.backup_manifest import ManifestWriter, WalRange
from mingus_engine.sources.base import Parent
from mingus_engine.sources.postgres import exclusions

SINCE = 17
_FORKS = frozenset({"main", "init"})
_CHUNK_BYTES = 64 * KIB
_FROM_LSN, _FROM_TIMELINE = b"INCREMENTAL FROM LSN: ", b"INCREMENTAL FROM TLI: "


def parent_manifest(parent: Parent, major: int) -> Iterator[bytes]:
    """The ``backup_manifest`` to upload, in pieces of some 64 KiB: the relation files of *parent*, without checksums.

    The range of WAL begins at the parent's *start*: it was copied between there and its stop, so the blocks of that
    time may be of either state. :raises ParentDamaged: it cannot be read.
    """
    facts = parent.facts
    pieces: list[bytes] = []
    writer = ManifestWriter(pieces.append, major, int(facts["system_id"]))
    size = 0
    for path, file_bytes in parent.files():
        # What is not whole pages was cut while it was read; pages the parent lacks in between would become zeros.
        relation = exclusions.relation(path)
        if relation is None or relation.fork not in _FORKS or not file_bytes or file_bytes % PAGE_BYTES:
            continue
        writer.add(path, file_bytes, 0, None)
        size += len(pieces[-1])
        if size >= _CHUNK_BYTES:
            yield b"".join(pieces)
            pieces.clear()
            size = 0
    start, stop = lsns.parse(str(facts["start_lsn"])), lsns.parse(str(facts["stop_lsn"]))
    writer.finish([WalRange(int(facts["timeline"]), start, stop)])
    yield b"".join(pieces)


def full_label(label: bytes, parent: Parent) -> bytes:
    """The ``backup_label`` of the merged backup: without what says that it is an increment, which no server starts on.

    :raises BackupBroken: it is an increment of another backup, or of none.
    """
    said: dict[bytes, bytes] = {}
    kept = []
    for line in label.splitlines(keepends=True):
        begin = next((b for b in (_FROM_LSN, _FROM_TIMELINE) if line.startswith(b)), None)
        if begin is None:
            kept.append(line)
        else:
            said[begin] = line.removeprefix(begin).strip()
    facts = parent.facts
    try:
        # As numbers: versions differ in how many digits of an LSN they write.
        found = lsns.parse(said[_FROM_LSN].decode("ascii")), int(said[_FROM_TIMELINE])
    except (KeyError, ValueError):
        raise BackupBroken(f"the server's backup_label does not say what it is an increment of: {said!r}") from None
    if found != (lsns.parse(str(facts["start_lsn"])), facts["timeline"]):
        raise BackupBroken(f"the server's backup_label says {said!r}: it is no increment of {parent.snapshot}")
    return b"".join(kept)
