"""What of a file changed since the parent, found out on the server, so that only what changed is sent.

Two ways, per file (docs/adr/0006, which says why each condition is there):

* *Page LSNs*: where every change of a page leaves its LSN in it (data checksums or ``wal_log_hints``; main forks; files
  that the parent has), a page whose LSN lies before the parent's start LSN is as the parent has it. Only if the server
  was not restarted since and the database is the same one: no LSN tells a cluster from an older copy of itself.
* *Digests*: for any other large file the backup keeps SHA-256 of every 64 KiB, cut to 16 bytes, under
  ``mingus-origin/sha256/``; the next one lets the server compute them again and compares.

Small files: see ``sql_small``. What fits neither is read and compared, like in the other transports.
"""

from __future__ import annotations

import hashlib
import struct
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mingus_engine import lsn as lsns
from mingus_engine.bounds import BLOCK_BYTES, PAGE_BYTES, SLAB_BYTES
from mingus_engine.settings import PostgresConnection
from mingus_engine.sources.base import Parent, SourceFile
from mingus_engine.sources.postgres import exclusions
from mingus_engine.sources.postgres.connection import Session, mapped
from mingus_engine.sources.postgres.facts import ServerFacts
from mingus_engine.sources.postgres.low_level import MadeFile, made_file
from mingus_engine.sources.postgres.sql_links import DataLink, literal

DIGESTS = b"mingus-origin/sha256/"
DIGEST_BYTES = 16
# Digests of a file are one item; PostgreSQL's own files have at most 1 GiB.
DIGESTED_MAX_BYTES = SLAB_BYTES // DIGEST_BYTES * BLOCK_BYTES
FACTS = "sql"
# A page between two that changed costs less than the extents around it.
_GAP_BYTES = PAGE_BYTES
_DEFAULT_TABLESPACE = 1663
# Positions begin in the second segment of WAL. Below it are: 0, a new page; 1, one of a GiST index as it was built
# (``GistBuildLSN``), which says nothing; and what initdb wrote, the size of a long page header of WAL, which is old.
_BOOTSTRAP_LSN = 40
_LSN = struct.Struct("<II")

Ranges = list[tuple[int, int]]


@dataclass(frozen=True)
class Databases:
    """When the file ``PG_VERSION`` of each database was made: it tells a database from another one with its OID.

    :param made: OID → tablespace, modification and change time. :param before: server's clock when the backup began, in
        seconds; only what was made before that is remembered, for what is younger may be replaced in the same second.
    """

    made: Mapping[str, list[int]]
    before: int

    @classmethod
    def now(cls, session: Session, conn: PostgresConnection, server: ServerFacts, before: int) -> Databases:
        """Ask the server."""
        own = f"PG_{server.major}_{server.catalog}"
        query = (
            "SELECT d.oid::text, d.dattablespace::bigint, extract(epoch FROM s.modification)::bigint,"
            " extract(epoch FROM s.change)::bigint FROM pg_database d, LATERAL pg_stat_file("
            f"CASE WHEN d.dattablespace = {_DEFAULT_TABLESPACE} THEN 'base/'"
            f" ELSE 'pg_tblspc/' || d.dattablespace || '/{own}/' END || d.oid || '/PG_VERSION', true) s"
        )
        with mapped(conn, "asking when the databases were made"):
            rows = session.execute(query.encode()).fetchall()
        return cls({oid: times for oid, *times in rows if times[1] is not None and times[2] is not None}, before)

    def as_facts(self) -> dict[str, list[int]]:
        """JSON types, for a manifest."""
        return {oid: times for oid, times in self.made.items() if max(times[1:]) < self.before - 1}


@dataclass(frozen=True)
class Comparison:
    """How one file is compared. ``size``: bytes that the parent has of it."""

    size: int
    by_lsn: bool
    digests: bytes = b""


class Changes:
    """See the module; for one backup.

    :ivar parent: one that may be taken over from without reading, else ``None``.
    :ivar lsn_reason: why page LSNs are not relied on; empty = they are.
    """

    def __init__(
        self, server: ServerFacts, databases: Databases, parent: Parent | None, *, same_lifetime: bool
    ) -> None:
        self.parent = parent if parent is not None and parent.ranges_allowed else None
        # Every change of a page then reaches its LSN, that of hint bits included.
        self._stamped = server.checksums or server.settings.get("wal_log_hints") == "on"
        self._least = server.wal_segment_bytes
        facts = self.parent.facts if self.parent else {}
        known = facts.get(FACTS, {}).get("databases", {})
        self._same = {oid for oid, times in databases.made.items() if known.get(oid) == times}
        self._start = lsns.parse(str(facts["start_lsn"])) if facts else 0
        if parent is None:
            self.lsn_reason = ""
        elif self.parent is None:
            self.lsn_reason = "some of the parent must be stored again: what changed is compared here"
        elif not self._stamped:
            self.lsn_reason = "neither data_checksums nor wal_log_hints is on: pages do not show every change"
        elif FACTS not in facts:
            self.lsn_reason = f"the parent was made by transport {facts.get('transport')}: everything is read"
        elif not same_lifetime:
            self.lsn_reason = "the server was restarted since the parent: every page is read"
        else:
            self.lsn_reason = ""

    @property
    def method(self) -> str:
        """For people."""
        if self.parent is None:
            return "compared blocks"
        return "digests on the server" if self.lsn_reason else "page LSNs and digests on the server"

    def comparison(self, path: bytes) -> Comparison | None:
        """How the file is to be compared on the server; ``None`` = it cannot be.

        :raises ParentDamaged: see ``sources.base.Parent``.
        """
        if self.parent is None or (size := self.parent.size(path)) is None:
            return None
        if self.is_stamped(path):
            return Comparison(size, by_lsn=True) if self._is_same(path) else None
        digests = b"".join(self.parent.content(DIGESTS + path))
        if len(digests) != -(-size // BLOCK_BYTES) * DIGEST_BYTES or not digests:
            return None
        return Comparison(size, by_lsn=False, digests=digests)

    def digests(self, file: SourceFile, digests: Digests) -> FileDigests | None:
        """Where to keep digests of the file for the next incremental; ``None`` = none are needed."""
        if self.is_stamped(file.path) or file.size > DIGESTED_MAX_BYTES:
            return None
        return FileDigests(file, digests)

    def is_stamped(self, path: bytes) -> bool:
        """Whether pages of the file say by their LSN when they changed."""
        relation = exclusions.relation(path)
        return self._stamped and relation is not None and relation.fork == "main"

    def changed(
        self, link: DataLink, path: bytes, offset: int, length: int, how: Comparison
    ) -> tuple[int, Ranges] | None:
        """Bytes that the file has of this range, and which of them changed: (offset, length) in the file, in order.

        :return: ``None``: there is no such file.
        """
        end = offset + length
        columns = _PAGE_LSNS if how.by_lsn else f"substring(sha256(b), 1, {DIGEST_BYTES})"
        query = (
            f"SELECT length(b), {columns} FROM generate_series({offset}::bigint, {end - 1}::bigint, {BLOCK_BYTES}) g,"
            f" LATERAL (SELECT pg_read_binary_file({literal(path)}, g, least({BLOCK_BYTES}, {end} - g), true) b"
            " OFFSET 0) r"
        )
        at, ended, vanished = offset, False, False
        found: Ranges = []
        for size, marks in link.copy(query, f"comparing {path.decode('utf-8', 'replace')}"):
            if size is None or marks is None:
                vanished = True
                continue
            have = int.from_bytes(size, "big")
            if not ended:
                for begin, behind in self._fresh(at, have, bytes(marks), how):
                    if found and begin - found[-1][1] <= (_GAP_BYTES if how.by_lsn else 0):
                        found[-1] = (found[-1][0], behind)
                    else:
                        found.append((begin, behind))
                at += have
                ended = have < BLOCK_BYTES
        return None if vanished else (at - offset, [(begin, behind - begin) for begin, behind in found])

    def _fresh(self, at: int, length: int, marks: bytes, how: Comparison) -> Iterator[tuple[int, int]]:
        """What changed of one block."""
        if not how.by_lsn:
            place = at // BLOCK_BYTES * DIGEST_BYTES
            same = how.digests[place : place + DIGEST_BYTES] == marks and min(BLOCK_BYTES, how.size - at) == length
            if not same and length:
                yield at, at + length
            return
        end = at + length
        for number, (high, low) in enumerate(_LSN.iter_unpack(marks[: len(marks) // _LSN.size * _LSN.size])):
            begin = at + number * PAGE_BYTES
            behind = min(begin + PAGE_BYTES, end)
            stamp = high << 32 | low
            old = self._least <= stamp < self._start or stamp == _BOOTSTRAP_LSN
            if not old or behind > how.size or behind - begin < PAGE_BYTES:
                yield begin, behind
        seen = at + len(marks) // _LSN.size * PAGE_BYTES
        if seen < end:  # less than a header of a page
            yield seen, end

    def _is_same(self, path: bytes) -> bool:
        if self.lsn_reason:
            return False
        directory = path.rpartition(b"/")[0]
        return directory == b"global" or directory.rpartition(b"/")[2].decode() in self._same


class Digests:
    """Digests of files, as they are read in any order by any thread."""

    def __init__(self) -> None:
        self._ready: deque[MadeFile] = deque()

    def ready(self) -> Iterator[MadeFile]:
        """Files of digests that are complete; each is given once."""
        while self._ready:
            yield self._ready.popleft()

    def add(self, file: MadeFile) -> None:
        """A file of digests is complete."""
        self._ready.append(file)


class FileDigests:
    """Those of one file."""

    def __init__(self, file: SourceFile, digests: Digests) -> None:
        self._file, self._digests = file, digests
        self._lock = threading.Lock()
        self._parts = bytearray(-(-file.size // BLOCK_BYTES) * DIGEST_BYTES)
        self._left = file.size

    def read(self, offset: int, data: memoryview) -> None:
        """*data* was read at *offset* (a multiple of 64 KiB), and is what is stored."""
        parts = b"".join(
            hashlib.sha256(data[at : at + BLOCK_BYTES]).digest()[:DIGEST_BYTES]
            for at in range(0, len(data), BLOCK_BYTES)
        )
        self._put(offset, parts)

    def kept(self, offset: int, length: int, old: bytes) -> None:
        """*length* bytes at *offset* are as they were when the whole file's digests were *old*."""
        place = offset // BLOCK_BYTES * DIGEST_BYTES
        self._put(offset, old[place : place + -(-length // BLOCK_BYTES) * DIGEST_BYTES])

    def done(self, length: int) -> None:
        """So much of the file is dealt with. One that became shorter meanwhile never gets complete: it has none."""
        with self._lock:
            self._left -= length
            complete = not self._left
        if complete:
            self._digests.add(made_file(DIGESTS + self._file.path, bytes(self._parts)))

    def _put(self, offset: int, parts: bytes) -> None:
        place = offset // BLOCK_BYTES * DIGEST_BYTES
        with self._lock:
            self._parts[place : place + len(parts)] = parts


_PAGE_LSNS = " || ".join(f"substring(b, {at + 1}, {_LSN.size})" for at in range(0, BLOCK_BYTES, PAGE_BYTES))
