"""What of a file changed since the parent, found out on the server, so that only what changed is sent.

Two ways, per file (docs/adr/0006, which says why each condition is there):

* *Page LSNs*: where every change of a page leaves its LSN in it (data checksums or ``wal_log_hints``; main forks; files
  that the parent has), a page whose LSN lies before the parent's start LSN is as the parent has it. Only if the server
  was not restarted since and the database is the same one: no LSN tells a cluster from an older copy of itself.
* *Digests*: of any other large file, and of blocks with a page whose LSN says nothing, the backup keeps SHA-256 of
  64 KiB, cut to 16 bytes (``sql_digests``); the next one lets the server compute them again and compares.

Small files: see ``sql_small``. What fits neither is read and compared, like in the other transports.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from mingus_engine import lsn as lsns
from mingus_engine.bounds import BLOCK_BYTES, PAGE_BYTES
from mingus_engine.settings import PostgresConnection
from mingus_engine.sources.base import Parent, SourceFile
from mingus_engine.sources.postgres import exclusions
from mingus_engine.sources.postgres.connection import Session, mapped
from mingus_engine.sources.postgres.facts import ServerFacts
from mingus_engine.sources.postgres.sql_digests import (
    DIGEST_BYTES,
    DIGESTED_MAX_BYTES,
    DIGESTS,
    LSN,
    Digests,
    FileDigests,
)
from mingus_engine.sources.postgres.sql_links import DataLink, literal

FACTS = "sql"
# A page between two that changed costs less than the extents around it.
_GAP_BYTES = PAGE_BYTES
_DEFAULT_TABLESPACE = 1663
# Positions begin in the second segment of WAL. Below it are: 0, a new page; 1, one of a GiST index as it was built
# (``GistBuildLSN``), which says nothing; and what initdb wrote, the size of a long page header of WAL, which is old.
_BOOTSTRAP_LSN = 40

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


class _Block(NamedTuple):
    """``length`` bytes at ``at``, of which the server said ``marks``: page LSNs or a digest."""

    at: int
    length: int
    marks: bytes


@dataclass(frozen=True)
class Comparison:
    """How one file is compared. ``size``: bytes that the parent has of it."""

    size: int
    by_lsn: bool
    digests: bytes = b""

    def digest(self, block: _Block) -> bytes:
        """Of what the parent has there, if it has as much; empty = unknown."""
        place = block.at // BLOCK_BYTES * DIGEST_BYTES
        found = self.digests[place : place + DIGEST_BYTES]
        return found if min(BLOCK_BYTES, self.size - block.at) == block.length and any(found) else b""


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
        by_lsn = self.is_stamped(path)
        if by_lsn and not self._is_same(path):
            return None
        digests = b"".join(self.parent.content(DIGESTS + path))
        if len(digests) != -(-size // BLOCK_BYTES) * DIGEST_BYTES:
            digests = b""
        return Comparison(size, by_lsn, digests) if by_lsn or digests else None

    def digests(self, file: SourceFile, digests: Digests) -> FileDigests | None:
        """Where to keep digests of the file for the next incremental; ``None`` = none are kept.

        Of a file whose pages say when they changed, only those of blocks with a page that does not.
        """
        if file.size > DIGESTED_MAX_BYTES:
            return None
        return FileDigests(file, digests, self._is_unclear if self.is_stamped(file.path) else None)

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
        columns = _PAGE_LSNS if how.by_lsn else _SHA256
        query = (
            f"SELECT length(b), {columns} FROM generate_series({offset}::bigint, {end - 1}::bigint, {BLOCK_BYTES}) g,"
            f" LATERAL (SELECT pg_read_binary_file({literal(path)}, g, least({BLOCK_BYTES}, {end} - g), true) b"
            " OFFSET 0) r"
        )
        doing = f"comparing {path.decode('utf-8', 'replace')}"
        blocks: list[_Block] = []
        at, vanished = offset, False
        for size, marks in link.copy(query, doing):
            vanished = vanished or size is None
            have = int.from_bytes(size or b"", "big")
            if have and at == offset + len(blocks) * BLOCK_BYTES:  # else behind a short read
                blocks.append(_Block(at, have, bytes(marks or b"")))
                at += have
        if vanished:
            return None
        equal = self._equal(link, path, blocks, how, doing) if how.by_lsn else frozenset()
        found: Ranges = []
        for begin, behind in (piece for block in blocks for piece in self._fresh(block, how, equal)):
            if found and begin - sum(found[-1]) <= (_GAP_BYTES if how.by_lsn else 0):
                found[-1] = (found[-1][0], behind - found[-1][0])
            else:
                found.append((begin, behind - begin))
        return at - offset, found

    def _equal(self, link: DataLink, path: bytes, blocks: list[_Block], how: Comparison, doing: str) -> frozenset[int]:
        """Of the blocks whose LSNs do not tell, those that have the parent's digest."""
        asked = [b for b in blocks if how.digest(b) and any(map(self._is_unclear, _stamps(b.marks)))]
        if not asked:
            return frozenset()
        values = ", ".join(f"({b.at}::bigint, {b.length}::bigint)" for b in asked)
        query = (
            f"SELECT {_SHA256} FROM (VALUES {values}) v(o, n),"
            f" LATERAL (SELECT pg_read_binary_file({literal(path)}, o, n, true) b OFFSET 0) r"
        )
        marks = [bytes(mark or b"") for (mark,) in link.copy(query, doing)]
        return frozenset(b.at for b, mark in zip(asked, marks, strict=True) if how.digest(b) == mark)

    def _fresh(self, block: _Block, how: Comparison, equal: Collection[int]) -> Iterator[tuple[int, int]]:
        """What changed of one block: begin and end."""
        end = block.at + block.length
        if not how.by_lsn:
            if how.digest(block) != block.marks:
                yield block.at, end
            return
        if block.at in equal:
            return
        stamps = _stamps(block.marks)
        if any(map(self._is_unclear, stamps)):
            yield block.at, end  # as a whole: its digest is kept
            return
        for number, stamp in enumerate(stamps):
            begin = block.at + number * PAGE_BYTES
            behind = min(begin + PAGE_BYTES, end)
            if stamp >= self._start or behind > how.size or behind - begin < PAGE_BYTES:
                yield begin, behind
        seen = block.at + len(stamps) * PAGE_BYTES
        if seen < end:  # less than a header of a page
            yield seen, end

    def _is_unclear(self, stamp: int) -> bool:
        return stamp < self._least and stamp != _BOOTSTRAP_LSN

    def _is_same(self, path: bytes) -> bool:
        if self.lsn_reason:
            return False
        directory = path.rpartition(b"/")[0]
        return directory == b"global" or directory.rpartition(b"/")[2].decode() in self._same


def _stamps(marks: bytes) -> list[int]:
    """The LSNs of pages, from the first eight bytes of each."""
    whole = len(marks) // LSN.size * LSN.size
    return [high << 32 | low for high, low in LSN.iter_unpack(marks[:whole])]


_SHA256 = f"substring(sha256(b), 1, {DIGEST_BYTES})"
_PAGE_LSNS = " || ".join(f"substring(b, {at + 1}, {LSN.size})" for at in range(0, BLOCK_BYTES, PAGE_BYTES))
