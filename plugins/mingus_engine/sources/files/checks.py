"""What a backup of files found out, judged: which findings are alarms, and which fail the backup."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingus_engine.checks import Check
from mingus_engine.errors import SourceError
from mingus_engine.settings import FileSetSettings
from mingus_engine.sources.files.findings import Findings

# A burst of fewer files than this is none: somebody zipped a folder.
_BURST_MIN_FILES = 10


@dataclass(frozen=True)
class Figures:
    """What was counted. ``previous``: figures of the snapshot before (``facts["files"]``), empty = there is none.

    ``dense``: files that were replaced by content that looks encrypted: changed ones, and new ones as far as others
    went.
    """

    files: int
    bytes: int
    dense: int
    previous: Mapping[str, Any]


def refuse_unreadable(findings: Findings, files: int, limit: float) -> None:
    """:raises SourceError: more of the files than the share *limit* could not be read."""
    failed = findings.counts["unreadable"] + findings.counts["unreadable directory"]
    if failed and failed > limit * (files + failed):
        named = [*findings.named.get("unreadable directory", ()), *findings.named.get("unreadable", ())]
        raise SourceError(
            f"{failed} of {files + failed} files cannot be read: {'; '.join(named[:3])}",
            hint="give the engine's user the right to read them, exclude them, or set unreadable_max_share",
        )


def judge(findings: Findings, figures: Figures, settings: FileSetSettings) -> list[Check]:
    """The checks of a backup. One that is not ``ok`` flags the snapshot."""
    checks = [
        _noted(findings, "changed", "files that changed while they were read: each is a mix of what it was", ok=True),
        _noted(findings, "vanished", "files that went away before they were read", ok=True),
        _noted(findings, "unreadable", "files that could not be read and are not in the snapshot", ok=True),
        _noted(findings, "unreadable directory", "directories that could not be listed: what is below is missing"),
        _noted(findings, "silent", "files whose content changed although nothing else did: is the disk failing?"),
        _noted(findings, "attributes", "files with more extended attributes than can be stored: they have none"),
        _noted(findings, "too large", "files over file_max_bytes, left out", ok=True),
        _noted(findings, "socket", "sockets, left out", ok=True),
        _noted(findings, "loop", "links that lead back to where they are, not followed", ok=True),
    ]
    return [check for check in checks if check is not None] + [_size(figures, settings), _burst(figures, settings)]


def _noted(findings: Findings, sort: str, what: str, *, ok: bool = False) -> Check | None:
    count = findings.counts[sort]
    return Check(sort, ok, f"{count} {what}", findings.data(sort)) if count else None


def _size(figures: Figures, settings: FileSetSettings) -> Check:
    data = {"files": figures.files, "bytes": figures.bytes}
    if not figures.files and not settings.may_be_empty:
        return Check("size", False, "there is no file at all: is a disk not mounted?", data)
    for what, now in data.items():
        before = figures.previous.get(what)
        if isinstance(before, int) and now < settings.shrink_alarm_share * before:
            return Check("size", False, f"{now} {what}, {before} the time before", {**data, "before": before})
    return Check("size", True, f"{figures.files} files, {figures.bytes} bytes", data)


def _burst(figures: Figures, settings: FileSetSettings) -> Check:
    before = figures.previous.get("files")
    count, share = figures.dense, settings.burst_alarm_share
    alarm = bool(share) and isinstance(before, int) and count >= max(_BURST_MIN_FILES, share * before)
    detail = f"{count} files were replaced by content that looks encrypted"
    return Check("replaced", not alarm, detail, {"count": count})
