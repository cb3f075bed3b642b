"""Names of objects: the grammar of DESIGN §4, made and read in one place.

Names carry the SHA-256 of the stored bytes, so anybody can verify a copy without a key. What does not parse is not
ours and is left alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from mingus_engine import ulids

_SHA = "[0-9a-f]{64}"
_SOURCE = "[a-z0-9][a-z0-9-]{0,62}"
_PACK = re.compile(rf"packs/({_SOURCE})/({ulids.PATTERN})/(0|[1-9][0-9]{{0,8}})\.({_SHA})(?:\.({ulids.PATTERN}))?")
_LOG = re.compile(
    rf"logs/({_SOURCE})/([0-9]{{1,20}}/[0-9]{{1,10}}/(?:[0-9A-F]{{8}}|history))/([0-9A-F]{{16}})-([0-9A-F]{{16}})\.({_SHA})"
    rf"(?:\.({ulids.PATTERN}))?"
)
_LOG_KEY = re.compile(rf"logs/({_SOURCE})/keys/({ulids.PATTERN})\.({_SHA})")
_SNAPSHOT = re.compile(rf"snapshots/({_SOURCE})/({ulids.PATTERN})\.({_SHA})")
_RUN = re.compile(rf"runs/({_SOURCE})/({ulids.PATTERN})\.(start|end)")
_RECORD = re.compile(rf"records/({_SOURCE})/({ulids.PATTERN})\.([a-z]+)\.({_SHA})")
_CONFIG = re.compile(rf"config/({ulids.PATTERN})\.({_SHA})")
_RESCUE = re.compile(rf"rescue/([A-Za-z0-9-]+)\.({_SHA})\.(py|md)")
_KEY = re.compile(rf"keys/({ulids.PATTERN})/([a-z0-9][a-z0-9-]{{0,62}})\.({_SHA})")


class PackName(NamedTuple):
    """A pack; ``putting_run`` is empty where the run itself put it, else the shipping run."""

    source: str
    run: str
    number: int
    sha256: str
    putting_run: str = ""

    def __str__(self) -> str:
        tail = f".{self.putting_run}" if self.putting_run else ""
        return f"packs/{self.source}/{self.run}/{self.number}.{self.sha256}{tail}"


class LogName(NamedTuple):
    """A log container: bytes ``start`` to ``end`` (LSNs) of a lineage; history files have 0 to length."""

    source: str
    lineage: str
    start: int
    end: int
    sha256: str
    putting_run: str = ""

    def __str__(self) -> str:
        tail = f".{self.putting_run}" if self.putting_run else ""
        return f"logs/{self.source}/{self.lineage}/{self.start:016X}-{self.end:016X}.{self.sha256}{tail}"


class SnapshotName(NamedTuple):
    """A manifest."""

    source: str
    ulid: str
    sha256: str

    def __str__(self) -> str:
        return f"snapshots/{self.source}/{self.ulid}.{self.sha256}"


class LogKeyName(NamedTuple):
    """The sealed run key of a log writer."""

    source: str
    run: str
    sha256: str

    def __str__(self) -> str:
        return f"logs/{self.source}/keys/{self.run}.{self.sha256}"


class RecordName(NamedTuple):
    """A record. Of a fence and a verdict the ULID is the one of the run they are about."""

    source: str
    ulid: str
    kind: str
    sha256: str

    def __str__(self) -> str:
        return f"records/{self.source}/{self.ulid}.{self.kind}.{self.sha256}"


class RunName(NamedTuple):
    """The start or the end of a run; ``part`` is ``start`` or ``end``."""

    source: str
    run: str
    part: str

    def __str__(self) -> str:
        return f"runs/{self.source}/{self.run}.{self.part}"


class ConfigName(NamedTuple):
    """A configuration."""

    ulid: str
    sha256: str

    def __str__(self) -> str:
        return f"config/{self.ulid}.{self.sha256}"


class KeyName(NamedTuple):
    """An epoch key (or the signing key) sealed to one slot."""

    epoch: str
    slot: str
    sha256: str

    def __str__(self) -> str:
        return f"keys/{self.epoch}/{self.slot}.{self.sha256}"


class RescueName(NamedTuple):
    """What reads the repository without the product: a script (``py``) and the text of the format (``md``)."""

    stem: str
    sha256: str
    suffix: str

    def __str__(self) -> str:
        return f"rescue/{self.stem}.{self.sha256}.{self.suffix}"


def pack(name: str) -> PackName | None:
    """*name* as a pack's, or ``None``."""
    m = _PACK.fullmatch(name)
    return PackName(m[1], m[2], int(m[3]), m[4], m[5] or "") if m else None


def log(name: str) -> LogName | None:
    """*name* as a log container's, or ``None``."""
    m = _LOG.fullmatch(name)
    return LogName(m[1], m[2], int(m[3], 16), int(m[4], 16), m[5], m[6] or "") if m else None


def snapshot(name: str) -> SnapshotName | None:
    """*name* as a manifest's, or ``None``."""
    m = _SNAPSHOT.fullmatch(name)
    return SnapshotName(*m.groups()) if m else None


def log_key(name: str) -> LogKeyName | None:
    """*name* as a log key's, or ``None``."""
    m = _LOG_KEY.fullmatch(name)
    return LogKeyName(*m.groups()) if m else None


def record(name: str) -> RecordName | None:
    """*name* as a record's, or ``None``."""
    m = _RECORD.fullmatch(name)
    return RecordName(*m.groups()) if m else None


def run(name: str) -> RunName | None:
    """*name* as the start or end of a run, or ``None``."""
    m = _RUN.fullmatch(name)
    return RunName(*m.groups()) if m else None


def config(name: str) -> ConfigName | None:
    """*name* as a configuration's, or ``None``."""
    m = _CONFIG.fullmatch(name)
    return ConfigName(*m.groups()) if m else None


def key(name: str) -> KeyName | None:
    """*name* as a sealed key's, or ``None``."""
    m = _KEY.fullmatch(name)
    return KeyName(*m.groups()) if m else None


def rescue(name: str) -> RescueName | None:
    """*name* as a rescue object's, or ``None``."""
    m = _RESCUE.fullmatch(name)
    return RescueName(*m.groups()) if m else None


def wal_lineage(system_id: int, timeline: int, lsn: int) -> str:
    """The lineage that holds *lsn*: ``<system id>/<timeline>/<high 32 bits of the LSN>``; at most 4 GiB a folder."""
    return f"{system_id}/{timeline}/{lsn >> 32:08X}"


def history_lineage(system_id: int, timeline: int) -> str:
    """The lineage of the ``.history`` file of *timeline*."""
    return f"{system_id}/{timeline}/history"


def stored_sha256(name: str) -> str | None:
    """The SHA-256 that *name* promises, or ``None`` where names of its kind carry none."""
    for parse in (pack, log, snapshot, record, log_key, config, key, rescue):
        parsed = parse(name)
        if parsed is not None:
            return str(parsed.sha256)
    return None
