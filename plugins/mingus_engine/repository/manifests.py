"""Manifests: a snapshot's plain references and its sealed body. Writing one is the commit.

The plain header is the same in every repository (one signature); the placement says under which names this repository
holds the packs and logs. The body holds facts, checks, statistics, run keys and the list of shards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple, NoReturn

from mingus_engine.codec import plainjson, sealing
from mingus_engine.codec.entries import BlobRef
from mingus_engine.errors import Damaged
from mingus_engine.repository import envelope, names
from mingus_engine.repository.packs import PackRef


class LogRef(NamedTuple):
    """A log container as manifests name it. ``run`` wrote it (its key opens it); ``size`` in bytes, ``sha256`` in
    hex.
    """

    lineage: str
    start: int
    end: int
    run: str
    size: int
    sha256: str
    putting_run: str = ""

    def name(self, source: str) -> names.LogName:
        """Its stored name in the repository the reference was read from."""
        return names.LogName(source, self.lineage, self.start, self.end, self.sha256, self.putting_run)


class ShardRef(NamedTuple):
    """Where a shard lies and which path it begins with. ``digest``: keyed BLAKE3 (32 bytes) of its plain form."""

    first_path: bytes
    blob: BlobRef
    digest: bytes


@dataclass(frozen=True)
class Body:
    """The sealed part of a manifest.

    :param facts: JSON-able facts of the source. :param checks: findings at backup time. :param statistics: numbers of
        the run.
    :param run_keys: run ULID → key, of every run whose packs or logs are referenced.
    :param hash_key: key of block hashes and shard cuts.
    """

    facts: Mapping[str, Any]
    checks: Sequence[Mapping[str, Any]]
    statistics: Mapping[str, Any]
    provenance: Mapping[str, str]
    run_keys: Mapping[str, bytes]
    hash_key: bytes
    cut_bits: int
    shards: Sequence[ShardRef]

    def encode(self) -> bytes:
        """The exact plain bytes, of which the content digest is."""
        return plainjson.encode({
            "facts": dict(self.facts),
            "checks": [dict(c) for c in self.checks],
            "statistics": dict(self.statistics),
            "provenance": dict(self.provenance),
            "run_keys": {run: key.hex() for run, key in self.run_keys.items()},
            "hash_key": self.hash_key.hex(),
            "cut_bits": self.cut_bits,
            "shards": [[s.first_path.hex(), *s.blob, s.digest.hex()] for s in self.shards],
        })  # fmt: skip

    @classmethod
    def decode(cls, raw: bytes, what: str) -> Body:
        """:raises Damaged: not well-formed."""
        v = plainjson.decode(raw, what)
        run_keys = envelope.typed(v, "run_keys", dict, what)
        try:
            shards = [
                ShardRef(bytes.fromhex(first), BlobRef(str(run), *map(_u32, numbers)), bytes.fromhex(digest))
                for first, run, *numbers, digest in envelope.typed(v, "shards", list, what)
            ]
        except (TypeError, ValueError):
            raise Damaged(f"{what}: its list of shards is not well-formed") from None
        return cls(
            facts=envelope.typed(v, "facts", dict, what),
            checks=envelope.typed(v, "checks", list, what),
            statistics=envelope.typed(v, "statistics", dict, what),
            provenance=envelope.typed(v, "provenance", dict, what),
            run_keys={run: envelope.hexbytes(run_keys, run, sealing.KEY_BYTES, what) for run in run_keys},
            hash_key=envelope.hexbytes(v, "hash_key", sealing.KEY_BYTES, what),
            cut_bits=envelope.typed(v, "cut_bits", int, what),
            shards=shards,
        )


@dataclass(frozen=True)
class Manifest:
    """A manifest as listed: its plain part, signature verified. ``size`` of the stored object in bytes."""

    name: names.SnapshotName
    envelope: envelope.Envelope

    @property
    def ulid(self) -> str:
        """The snapshot's ULID, the same in every repository."""
        return self.name.ulid

    @property
    def digest(self) -> str:
        """The content digest (hex): two objects with one ULID and one digest are one snapshot."""
        return self.envelope.text("digest")

    @property
    def run(self) -> str:
        """The run that made the snapshot."""
        return self.envelope.text("run")

    @property
    def put_by(self) -> str:
        """The run that put this object into this repository; fences and verdicts refer to it."""
        return envelope.typed(self.envelope.placement, "put_by", str, str(self.name))

    @property
    def kind(self) -> str:
        """What it is of and how it was made, e.g. ``postgres full``."""
        return self.envelope.text("kind")

    @property
    def heads(self) -> tuple[str, ...]:
        """Content digests of the newest manifests the writer knew."""
        return tuple(map(str, envelope.typed(self.envelope.header, "heads", list, str(self.name))))

    @property
    def position(self) -> int:
        """Where in the source's own order it stands (PostgreSQL: stop LSN)."""
        return self.envelope.number("position")

    @property
    def written_at(self) -> datetime:
        """The writer's time of commit, UTC."""
        try:
            time = datetime.fromisoformat(self.envelope.text("written_at"))
        except ValueError:
            time = None
        if time is None or time.tzinfo is None:
            raise Damaged(f"{self.name}: 'written_at' is not a time with its offset")
        return time

    @property
    def flagged(self) -> bool:
        """Whether a check failed at backup time."""
        return bool(self.envelope.header.get("flagged"))

    @cached_property
    def packs(self) -> tuple[PackRef, ...]:
        """Every pack it needs, with the names of this repository."""
        what = str(self.name)
        runs = list(map(str, envelope.typed(self.envelope.header, "runs", list, what)))
        put_by = _putting_runs(self.envelope, "pack_put_by")
        try:
            return tuple(
                PackRef(runs[_u32(run)], _u32(number), _u32(size), str(sha256), put_by.get(i, ""))
                for i, (run, number, size, sha256) in enumerate(
                    envelope.typed(self.envelope.header, "packs", list, what)
                )
            )
        except (TypeError, ValueError, IndexError):
            raise Damaged(f"{what}: its list of packs is not well-formed") from None

    @cached_property
    def logs(self) -> tuple[LogRef, ...]:
        """Every log container it needs, with the names of this repository."""
        what = str(self.name)
        put_by = _putting_runs(self.envelope, "log_put_by")
        try:
            return tuple(
                LogRef(str(lineage), _lsn(start), _lsn(end), str(run), _lsn(size), str(sha256), put_by.get(i, ""))
                for i, (lineage, start, end, run, size, sha256) in enumerate(
                    envelope.typed(self.envelope.header, "logs", list, what)
                )
            )
        except (TypeError, ValueError):
            raise Damaged(f"{what}: its list of logs is not well-formed") from None

    def stored_names(self) -> list[tuple[str, int]]:
        """Stored name and size in bytes of everything it needs."""
        source = self.name.source
        packs = [(str(p.name(source)), p.size) for p in self.packs]
        return packs + [(str(g.name(source)), g.size) for g in self.logs]


def header(
    *,
    source: str,
    ulid: str,
    run: str,
    kind: str,
    written_at: datetime,
    store_time: datetime,
    heads: Sequence[str],
    position: int,
    flagged: bool,
    packs: Sequence[PackRef],
    logs: Sequence[LogRef],
) -> dict[str, Any]:
    """The plain header of a new manifest."""
    runs = sorted({p.run for p in packs})
    return {
        "source": source,
        "ulid": ulid,
        "run": run,
        "kind": kind,
        "written_at": written_at.isoformat(),
        "store_time": store_time.isoformat(),
        "heads": sorted(heads),
        "position": position,
        "flagged": flagged,
        "runs": runs,
        "packs": [[runs.index(p.run), p.number, p.size, p.sha256] for p in packs],
        "logs": [[g.lineage, g.start, g.end, g.run, g.size, g.sha256] for g in logs],
    }


def placement(put_by: str, packs: Sequence[PackRef], logs: Sequence[LogRef]) -> dict[str, Any]:
    """The plain part of one repository: who put the object, and putting runs by index where a name has one."""
    return {
        "put_by": put_by,
        "pack_put_by": {str(i): p.putting_run for i, p in enumerate(packs) if p.putting_run},
        "log_put_by": {str(i): g.putting_run for i, g in enumerate(logs) if g.putting_run},
    }


def decode(raw: bytes, name: names.SnapshotName, signing_public: bytes) -> Manifest:
    """Read a manifest and verify its signature. :raises Damaged: changed, or not what its name says."""
    e = envelope.parse(raw, envelope.SNAPSHOT, str(name))
    e.verify(signing_public)
    if (e.text("source"), e.text("ulid")) != (name.source, name.ulid):
        envelope.mismatch(str(name))
    return Manifest(name, e)


def _putting_runs(e: envelope.Envelope, key: str) -> dict[int, str]:
    try:
        return {int(i): str(run) for i, run in envelope.typed(e.placement, key, dict, e.name).items()}
    except ValueError:
        raise Damaged(f"{e.name}: {key!r} is not well-formed") from None


def _u32(value: object) -> int:
    return _number(value, 1 << 32)


def _lsn(value: object) -> int:
    return _number(value, 1 << 64)


def _number(value: object, limit: int) -> int:
    # JSON has floats, and Python takes negative indexes: neither is a number of this format.
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < limit:
        raise ValueError(f"not a number below {limit}")
    return value


def conflict(one: str, other: str) -> NoReturn:
    """:raises Damaged: always: two manifests claim one ULID with different content."""
    raise Damaged(f"{one} and {other} have one ULID and different content")
