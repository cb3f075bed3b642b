"""The canary: a marker that was written into the log is read back from a repository, opened, and found at its LSN."""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from mingus_engine import lsn as lsns
from mingus_engine.bounds import PAGE_BYTES
from mingus_engine.errors import LogMissing, MingusError, SourceError
from mingus_engine.jobs import places
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import log_index, logs, state
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings
from mingus_engine.sources.postgres.archiving import WalSource

# The record's end: marker, padding to 8 bytes, and page headers that may lie within it.
_WINDOW_BYTES = 256
# XLogShortPHD; the first page of a segment has the long one (PostgreSQL: access/xlog_internal.h).
_PAGE_HEADER_BYTES, _SEGMENT_HEADER_BYTES = 24, 40


@dataclass(frozen=True)
class Marker:
    """What was written, and the LSN behind the record that holds it."""

    text: str
    system_id: int
    timeline: int
    lsn: int
    segment_bytes: int


def write(server: WalSource, context: JobContext) -> Marker | None:
    """Write a marker; ``None`` where that cannot be (a standby, no right), which is said."""
    if server.standby:
        context.log("no canary: a standby takes no marker")
        return None
    text = f"mingus canary {secrets.token_hex(16)}"
    try:
        return Marker(text, server.system_id, server.timeline, server.mark(text), server.segment_bytes)
    except SourceError as error:
        context.log(f"no canary: {error.message}")
        return None


def find(settings: Settings, source_id: str, repository: str, marker: Marker, context: JobContext) -> dict[str, object]:
    """Look for *marker* in *repository*: ``{"ok": …, "detail": …}``. What goes wrong is the answer."""
    try:
        with places.opened(settings, repository, context) as opened:
            ok = _holds(opened, source_id, marker)
    except MingusError as error:
        return {"ok": False, "detail": error.message}
    where = lsns.text(marker.lsn)
    return {"ok": ok, "detail": f"read back and found before {where}" if ok else f"is not before {where}"}


def _holds(repository: Repository, source_id: str, marker: Marker) -> bool:
    planned = state.look(repository, source_id, snapshots=False).planned
    index = log_index.list_logs(repository, source_id, planned).timeline(marker.system_id, marker.timeline)
    start = marker.lsn - _WINDOW_BYTES
    try:
        found = index.covering(start, marker.lsn)
    except LogMissing:  # archiving began right before it
        start = lsns.segment_start(marker.lsn - 1, marker.segment_bytes)
        found = index.covering(start, marker.lsn)
    data = bytearray(marker.lsn - start)
    for log in found:
        at = log.name.start
        for chunk in logs.LogReader(repository, source_id, logs.reference(repository, *log)).chunks():
            low, high = max(at, start), min(at + len(chunk), marker.lsn)
            if low < high:
                data[low - start : high - start] = chunk[low - at : high - at]
            at += len(chunk)
    return marker.text.encode() in without_page_headers(bytes(data), start, marker.segment_bytes)


def without_page_headers(data: bytes, start: int, segment_bytes: int) -> bytes:
    """The log *data* from the LSN *start* on, without the headers of the pages that begin in it."""
    kept, at = [], 0
    while at < len(data):
        lsn = start + at
        to_page = -lsn % PAGE_BYTES
        if to_page == 0:
            at += _SEGMENT_HEADER_BYTES if lsn % segment_bytes == 0 else _PAGE_HEADER_BYTES
            to_page = -(start + at) % PAGE_BYTES
        kept.append(data[at : at + to_page])
        at += to_page
    return b"".join(kept)
