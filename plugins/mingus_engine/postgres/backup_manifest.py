"""The text of ``backup_manifest``: written for ``pg_verifybackup``, read from servers and from disk.

Source: PostgreSQL documentation "Backup Manifest Format", ``backend/backup/backup_manifest.c``; POSTGRES.md §3.
The text is JSON, but one entry a line, and the last line is hashed apart: SHA-256 covers every byte before it.
Version 1 is what 15 and 16 read, version 2 (17 and later) adds the system identifier. A CRC32C is written as the
hexadecimal digits of its little-endian bytes. ``backup_manifest`` itself and what lies in ``pg_wal`` are not listed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, BinaryIO

from mingus_engine.errors import Damaged

# A path has at most MAXPGPATH = 1024 bytes, each at most six characters of JSON; a checksum at most 128 digits.
LINE_MAX_BYTES = 16 * 1024
SYSTEM_IDENTIFIER_SINCE = 17
_END = b'"Manifest-Checksum"'
_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_ESCAPED = re.compile(r'["\\\x00-\x1f]')


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One listed file. ``path`` is raw bytes relative to the data directory, as untrusted as the text it came from.

    :param mtime_s: seconds since 1970.
    :param algorithm: as written (``CRC32C``, ``SHA256``, …), empty = no checksum.
    :param checksum: its bytes, as written.
    """

    path: bytes
    size: int
    mtime_s: int
    algorithm: str = ""
    checksum: bytes = b""

    @property
    def crc32c(self) -> int | None:
        """The CRC32C of the content, ``None`` when the manifest has another checksum or none."""
        return int.from_bytes(self.checksum, "little") if self.algorithm == "CRC32C" else None


@dataclass(frozen=True, slots=True)
class WalRange:
    """WAL that the backup needs: LSNs *start* (inclusive) to *end* on one timeline."""

    timeline: int
    start: int
    end: int


@dataclass(frozen=True)
class Manifest:
    """A manifest. ``system_identifier`` is ``None`` in version 1; ``files`` is empty when a callback took them."""

    version: int
    system_identifier: int | None
    wal_ranges: tuple[WalRange, ...]
    files: tuple[ManifestFile, ...] = ()


@dataclass
class ManifestWriter:
    """Writes a manifest file by file, in any order; memory does not grow with their number. Not thread-safe.

    :param write: takes the next bytes. :param server_version: major version whose tools shall read it.
    """

    write: Callable[[bytes], object]
    server_version: int
    system_identifier: int
    _digest: Any = field(default_factory=hashlib.sha256)
    _separator: str = "\n"

    def __post_init__(self) -> None:
        if self.server_version >= SYSTEM_IDENTIFIER_SINCE:
            head = f'"PostgreSQL-Backup-Manifest-Version": 2,\n"System-Identifier": {self.system_identifier},\n'
        else:
            head = '"PostgreSQL-Backup-Manifest-Version": 1,\n'
        self._put("{ " + head + '"Files": [')

    def add(self, path: bytes, size: int, mtime_s: int, crc32c: int | None) -> None:
        """List a file of *size* bytes; *crc32c* ``None`` leaves its checksum out."""
        moment = time.strftime("%Y-%m-%d %H:%M:%S GMT", time.gmtime(mtime_s))
        checksum = ""
        if crc32c is not None:
            checksum = f', "Checksum-Algorithm": "CRC32C", "Checksum": "{crc32c.to_bytes(4, "little").hex()}"'
        self._put(f'{self._separator}{{ {_named(path)}, "Size": {size}, "Last-Modified": "{moment}"{checksum} }}')
        self._separator = ",\n"

    def finish(self, wal_ranges: Iterable[WalRange]) -> None:
        """Write the ranges of WAL and the digest; nothing may be added afterwards."""
        ranges = ",\n".join(
            f'{{ "Timeline": {r.timeline}, "Start-LSN": "{_lsn(r.start)}", "End-LSN": "{_lsn(r.end)}" }}'
            for r in wal_ranges
        )
        self._put(f'\n],\n"WAL-Ranges": [\n{ranges}\n],\n')
        self.write(_END + f': "{self._digest.hexdigest()}"}}\n'.encode())

    def _put(self, text: str) -> None:
        data = text.encode()
        self._digest.update(data)
        self.write(data)


def generate(
    files: Iterable[ManifestFile], wal_ranges: Iterable[WalRange], *, server_version: int, system_identifier: int
) -> bytes:
    """The whole text at once (tests, uploads for an incremental)."""
    out = io.BytesIO()
    writer = ManifestWriter(out.write, server_version, system_identifier)
    for file in files:
        writer.add(file.path, file.size, file.mtime_s, file.crc32c)
    writer.finish(wal_ranges)
    return out.getvalue()


def parse(data: bytes) -> Manifest:
    """Read a whole manifest into memory.

    :raises Damaged: see :func:`scan`.
    """
    files: list[ManifestFile] = []
    found = scan(io.BytesIO(data), files.append)
    return Manifest(found.version, found.system_identifier, found.wal_ranges, tuple(files))


def scan(stream: BinaryIO, on_file: Callable[[ManifestFile], object]) -> Manifest:
    """Read a manifest line by line; *on_file* is called for each file before the digest is known to be right.

    Only the form that PostgreSQL's own programs write is read: one entry a line.

    :raises Damaged: not a manifest, cut, altered, an entry of the wrong form; the message names the line.
    """
    lines = _Lines(stream)
    version = lines.field("PostgreSQL-Backup-Manifest-Version", opening=True)
    if version not in (1, 2):
        raise lines.wrong(f"unknown version {version}")
    identifier = lines.field("System-Identifier") if version == 2 else None
    lines.expect(b'"Files": [')
    for entry in lines.entries():
        on_file(_file(entry, lines))
    lines.expect(b'"WAL-Ranges": [')
    ranges = tuple(_range(entry, lines) for entry in lines.entries())
    lines.end()
    return Manifest(version, identifier, ranges)


class _Lines:
    """The lines of a manifest, counted and hashed; never longer than LINE_MAX_BYTES in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._digest = hashlib.sha256()
        self._number = 0

    def wrong(self, what: str) -> Damaged:
        return Damaged(f"backup_manifest line {self._number}: {what}")

    def next(self) -> bytes:
        line = self._read()
        if line.startswith(_END):
            raise self.wrong("ends too early")
        self._digest.update(line)
        return line[:-1]

    def expect(self, text: bytes) -> None:
        if self.next() != text:
            raise self.wrong(f"expected {text.decode()}")

    def field(self, name: str, *, opening: bool = False) -> int:
        line = self.next()
        text = line.removesuffix(b",") if opening else b"{" + line.removesuffix(b",")
        value = self.parse(text + b"}").get(name)
        if type(value) is not int or not 0 <= value < 1 << 64:
            raise self.wrong(f"expected the number {name}")
        return value

    def entries(self) -> Iterable[dict[str, Any]]:
        more = True
        while (line := self.next()) != b"],":
            if not line:  # an empty list is written as an empty line
                continue
            if not more:
                raise self.wrong("expected a comma before this entry")
            more = line.endswith(b",")
            yield self.parse(line.removesuffix(b","))

    def parse(self, text: bytes) -> dict[str, Any]:
        try:
            value = json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
        except (ValueError, RecursionError) as error:
            raise self.wrong(f"not JSON ({type(error).__name__})") from None
        if not isinstance(value, dict):
            raise self.wrong("expected an object")
        return value

    def end(self) -> None:
        line = self._read()
        if line != _END + f': "{self._digest.hexdigest()}"}}\n'.encode():
            raise self.wrong("the manifest's own checksum does not match")
        if self._stream.read(1):
            raise self.wrong("something follows the end")

    def _read(self) -> bytes:
        self._number += 1
        line = self._stream.readline(LINE_MAX_BYTES + 1)
        if len(line) > LINE_MAX_BYTES:
            raise self.wrong(f"longer than {LINE_MAX_BYTES} bytes")
        if not line.endswith(b"\n"):
            raise self.wrong("the text is cut")
        return line


def _file(entry: dict[str, Any], lines: _Lines) -> ManifestFile:
    size, moment = entry.get("Size"), entry.get("Last-Modified", "")
    algorithm, checksum = entry.get("Checksum-Algorithm", ""), entry.get("Checksum", "")
    encoded = "Encoded-Path" in entry
    path = entry.get("Encoded-Path" if encoded else "Path")
    if type(size) is not int or size < 0 or not all(isinstance(v, str) for v in (path, moment, algorithm, checksum)):
        raise lines.wrong("a file without path or size")
    try:
        raw = bytes.fromhex(str(path)) if encoded else str(path).encode()
        digest = bytes.fromhex(checksum)
        seconds = (
            int(datetime.strptime(moment, "%Y-%m-%d %H:%M:%S GMT").replace(tzinfo=UTC).timestamp()) if moment else 0
        )
    except ValueError:
        raise lines.wrong("a path, time or checksum of the wrong form") from None
    if not raw or b"\0" in raw or (algorithm == "CRC32C" and len(digest) != 4):
        raise lines.wrong("a path or checksum of the wrong form")
    return ManifestFile(raw, size, seconds, algorithm, digest)


def _range(entry: dict[str, Any], lines: _Lines) -> WalRange:
    timeline = entry.get("Timeline")
    ends = [_LSN.fullmatch(str(entry.get(name))) for name in ("Start-LSN", "End-LSN")]
    if type(timeline) is not int or not 0 < timeline < 1 << 32 or None in ends:
        raise lines.wrong("a range of WAL of the wrong form")
    start, end = (int(m[1], 16) << 32 | int(m[2], 16) for m in ends if m)
    return WalRange(timeline, start, end)


def _named(path: bytes) -> str:
    try:
        text = path.decode()
    except UnicodeDecodeError:
        return f'"Encoded-Path": "{path.hex()}"'
    return '"Path": "' + _ESCAPED.sub(lambda m: _ESCAPES.get(m[0]) or f"\\u{ord(m[0]):04x}", text) + '"'


def _lsn(position: int) -> str:
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key twice")
    return found


def _refuse(name: str) -> Any:
    raise ValueError(name)
