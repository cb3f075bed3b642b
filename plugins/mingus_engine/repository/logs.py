"""Log containers: a stretch of WAL (or a ``.history`` file), sealed in memory, stored under the LSNs it holds.

``header (64) · u64 start · u64 end · sealed blobs (≤ 256 KiB plain) · sealed directory (JSON) · directory length``

The directory holds the total length, the BLAKE3 digest of the plain text (sealed, so it needs no key), and the last
sample of server clock and flush LSN. The key is derived from the run key of the writer, which lies sealed under
``logs/<source>/keys/``; so a container opens without any manifest.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.codec import plainjson
from mingus_engine.codec.blobs import Compressor, Decompressor
from mingus_engine.codec.containers import (
    HEADER_BYTES,
    LENGTH,
    LOG_MAGIC,
    SEALED_MAX_BYTES,
    BlobKind,
    Cipher,
    ContainerKind,
    Header,
    directory_span,
)
from mingus_engine.codec.sealing import SALT_BYTES
from mingus_engine.errors import Damaged, LogDiverged
from mingus_engine.repository import envelope, names, spool
from mingus_engine.repository.log_index import LogIndex
from mingus_engine.repository.manifests import LogRef
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.writer import UNUSABLE, WriteRun
from mingus_engine.store.unnamed import open_spool

_RANGE = struct.Struct("<QQ")
HEAD_BYTES = HEADER_BYTES + _RANGE.size


@dataclass(frozen=True)
class LogDirectory:
    """What a container says of itself. ``blobs``: position, sealed and plain length of each, in order of the log."""

    length: int
    digest: str
    server_clock_us: int
    flush: int
    facts: dict[str, Any]
    blobs: tuple[tuple[int, int, int], ...]


class LogWriter:
    """One container in the making; ``append`` in log order, then ``put``. Not thread-safe.

    :param start: LSN of its first byte. :param end: LSN behind its last; more is refused.
    """

    def __init__(
        self, run: WriteRun, kind: ContainerKind, lineage: str, start: int, *, spool_path: Path, level: int
    ) -> None:
        self._run, self._lineage, self.start = run, lineage, start
        self._header = Header(LOG_MAGIC, kind, 0, run.run, os.urandom(SALT_BYTES))
        self._key = _container_key(self._header, run.keys.run_key, run.source, lineage)
        self._file = open_spool(spool_path)
        self._compressor = Compressor(level)
        self._buffer = bytearray()
        self._blobs: list[tuple[int, int, int]] = []
        self._digest = blake3()
        # The end of the range is known last, so blobs are bound to the start; the sealed directory binds the end.
        self._cipher = Cipher(self._header, self._key, struct.pack("<Q", start))
        self._at = HEAD_BYTES
        self.length = 0

    def append(self, data: bytes | memoryview) -> None:
        """The next bytes of the log.

        :raises StoreFull: no space in the spool.
        """
        self._digest.update(data)
        self.length += len(data)
        self._buffer += data
        while len(self._buffer) >= bounds.BLOB_PLAIN_BYTES:
            self._seal(bytes(self._buffer[: bounds.BLOB_PLAIN_BYTES]))
            del self._buffer[: bounds.BLOB_PLAIN_BYTES]

    def read(self, start: int) -> Iterator[bytes]:
        """What was appended from the LSN *start* on, read back from the sealed spool, in pieces of at most 256 KiB.

        Nothing may be appended meanwhile.
        """
        decompressor = Decompressor()
        first, skip = divmod(start - self.start, bounds.BLOB_PLAIN_BYTES)
        for at, sealed_bytes, _ in self._blobs[first:]:
            sealed = os.pread(self._file.fileno(), sealed_bytes, at)
            what = f"spool of {self._lineage}"
            yield decompressor.data(self._cipher.open(BlobKind.DATA, at, sealed, what), what)[skip:]
            skip = 0
        # Every sealed blob is full until the container is finished, so what is left to skip lies in the buffer.
        skip += max(0, first - len(self._blobs)) * bounds.BLOB_PLAIN_BYTES
        if rest := bytes(self._buffer[skip:]):
            yield rest

    def put(self, *, server_clock_us: int, flush: int, facts: dict[str, Any], even_if_there: bool = False) -> LogRef:
        """Finish and store the container; once.

        The same range with the same bytes that is there already is a success without a put (its run counts as adopted);
        with other bytes it is refused (TRAPS "PostgreSQL" 3).

        :param even_if_there: store it beside an equal one, for its newer sample.
        :raises LogDiverged: another log under the same range.
        """
        if self._buffer:
            self._seal(bytes(self._buffer))
            self._buffer.clear()
        end = self.start + self.length
        digest = self._digest.hexdigest()
        with self._file:
            if (there := self._already_there(end, digest)) is not None and not even_if_there:
                # Fences are on the run that put the object here: in a destination that is the shipping one.
                self._run.adopted.add(there.putting_run or there.run)
                return there
            directory = plainjson.encode({
                "length": self.length, "digest": digest, "server_clock_us": server_clock_us, "flush": flush,
                "lineage": self._lineage, "start": self.start, "end": end, "facts": facts, "blobs": self._blobs,
            })  # fmt: skip
            sealed = self._cipher.seal(BlobKind.DIRECTORY, self._at, self._compressor.plain_form(directory))
            spool.write_at(self._file, self._at, sealed + LENGTH.pack(len(sealed)))
            size = self._at + len(sealed) + LENGTH.size
            spool.write_at(self._file, 0, self._header.encode() + _RANGE.pack(self.start, end))
            sha256 = spool.sha256_of(self._file, size)
            self._run.put_log_key()
            ref = LogRef(self._lineage, self.start, end, self._run.run, size, sha256.hex())
            self._run.repository.store.put(str(ref.name(self._run.source)), self._file, size=size, sha256=sha256)
        return ref

    def close(self) -> None:
        """Abandon it. Idempotent."""
        self._file.close()

    def _seal(self, data: bytes) -> None:
        sealed = self._cipher.seal(BlobKind.DATA, self._at, self._compressor.plain_form(data))
        spool.write_at(self._file, self._at, sealed)
        self._blobs.append((self._at, len(sealed), len(data)))
        self._at += len(sealed)

    def _already_there(self, end: int, digest: str) -> LogRef | None:
        repository, source = self._run.repository, self._run.source
        for ref in find(repository, source, self._lineage, self.start, end):
            state = self._run.state
            if str(ref.name(source)) in state.planned or state.fences.get(ref.putting_run or ref.run):
                continue
            try:
                there = LogReader(repository, source, ref).directory().digest
            except UNUSABLE:
                continue  # what cannot be read is not there: the log is stored beside it
            if there != digest:
                raise LogDiverged(f"{ref.name(source)}: holds another log than the one just received")
            return ref
        return None


class LogReader:
    """Reads one container of a repository.

    :param run_key: of the container's writer; ``None`` = from its log key object.
    """

    def __init__(self, repository: Repository, source: str, ref: LogRef, run_key: bytes | None = None) -> None:
        self._store, self._ref, self.name = repository.store, ref, str(ref.name(source))
        raw = self._store.get_range(self.name, 0, HEAD_BYTES)
        header = Header.decode(raw, LOG_MAGIC, self.name)
        if header.run != ref.run or _RANGE.unpack_from(raw, HEADER_BYTES) != (ref.start, ref.end):
            envelope.mismatch(self.name)
        key = _container_key(header, run_key or repository.log_key(source, ref.run), source, ref.lineage)
        self._cipher = Cipher(header, key, struct.pack("<Q", ref.start))
        self._directory: LogDirectory | None = None

    def directory(self) -> LogDirectory:
        """What the container says of itself. :raises Damaged: changed, cut, or of another range."""
        if self._directory is None:
            tail = self._store.get_range(self.name, self._ref.size - LENGTH.size, LENGTH.size)
            at, length = directory_span(self._ref.size, tail, self.name, HEAD_BYTES)
            sealed = self._store.get_range(self.name, at, length)
            plain = self._cipher.open(BlobKind.DIRECTORY, at, sealed, self.name)
            self._directory = _directory(Decompressor().data(plain, self.name), self._ref, self.name)
        return self._directory

    def tail(self) -> tuple[int, bytes]:
        """Its last bytes, at most 256 KiB, and the LSN of the first of them; empty when there are none.

        :raises Damaged: changed or cut.
        """
        blobs = self.directory().blobs
        if not blobs:
            return self._ref.end, b""
        data = self._blob(Decompressor(), *blobs[-1])
        return self._ref.end - len(data), data

    def chunks(self) -> Iterator[bytes]:
        """The log, in order, in pieces of at most 256 KiB; the digest is checked before the last piece is given.

        :raises Damaged: changed, cut, or the digest differs.
        """
        directory = self.directory()
        digest, decompressor, total = blake3(), Decompressor(), 0
        held: bytes | None = None
        for blob in directory.blobs:
            data = self._blob(decompressor, *blob)
            digest.update(data)
            total += len(data)
            if held is not None:
                yield held
            held = data
        if total != directory.length or digest.hexdigest() != directory.digest:
            raise Damaged(f"{self.name}: {total} bytes of log do not have the recorded digest")
        if held is not None:
            yield held

    def _blob(self, decompressor: Decompressor, at: int, sealed_bytes: int, plain_bytes: int) -> bytes:
        sealed = self._store.get_range(self.name, at, sealed_bytes)
        data = decompressor.data(self._cipher.open(BlobKind.DATA, at, sealed, self.name), self.name)
        if len(data) != plain_bytes:
            raise Damaged(f"{self.name}: blob at {at} holds {len(data)} bytes instead of {plain_bytes}")
        return data


def find(repository: Repository, source: str, lineage: str, start: int, end: int) -> list[LogRef]:
    """The containers of exactly this range, as the store lists them (writer and size are read from each)."""
    found = []
    for info in repository.store.list(f"logs/{source}/{lineage}/{start:016X}-{end:016X}."):
        name = names.log(info.name)
        if name is not None:
            found.append(reference(repository, name, info.size))
    return found


def reference(repository: Repository, name: names.LogName, size: int) -> LogRef:
    """How a listed container of *size* bytes is referred to; who wrote it is read from its header.

    :raises Damaged: it has none.
    """
    header = Header.decode(repository.store.get_range(str(name), 0, HEADER_BYTES), LOG_MAGIC, str(name))
    return LogRef(name.lineage, name.start, name.end, header.run, size, name.sha256, name.putting_run)


def counted(
    repository: Repository, index: LogIndex, fences: Mapping[str, Sequence[names.RecordName]], *, beyond: int = 0
) -> LogIndex:
    """*index* without what fenced runs put: a cleaner may have looked before, and take its key for unused.

    :param fences: of ``SourceState``. :param beyond: log that ends at or before this LSN counts in any case.
    """
    if not fences:
        return index
    every = [*index.histories.values(), *(log for timeline in index.timelines.values() for log in timeline.logs)]
    unsure = {
        str(log.name)
        for log in every
        if log.name.end > beyond and fences.get(log.name.putting_run or reference(repository, *log).run)
    }
    return index.without(unsure)


def _container_key(header: Header, run_key: bytes, source: str, lineage: str) -> bytes:
    return header.key(run_key, "log", source, lineage)


def _directory(raw: bytes, ref: LogRef, what: str) -> LogDirectory:
    v = plainjson.decode(raw, what)
    if (v.get("lineage"), v.get("start"), v.get("end")) != (ref.lineage, ref.start, ref.end):
        envelope.mismatch(what)
    try:
        blobs = tuple((int(at), int(sealed), int(plain)) for at, sealed, plain in v["blobs"])
    except (KeyError, TypeError, ValueError):
        raise Damaged(f"{what}: its directory is not well-formed") from None
    if any(at < 0 or not 0 <= sealed <= SEALED_MAX_BYTES for at, sealed, _ in blobs):
        raise Damaged(f"{what}: a blob has an impossible length")
    return LogDirectory(
        length=envelope.typed(v, "length", int, what),
        digest=envelope.typed(v, "digest", str, what),
        server_clock_us=envelope.typed(v, "server_clock_us", int, what),
        flush=envelope.typed(v, "flush", int, what),
        facts=envelope.typed(v, "facts", dict, what),
        blobs=blobs,
    )
