"""Where a recovery shall end, and what that takes: snapshot, timelines, write-ahead log, settings.

Everything is decided before anything is written. A target that PostgreSQL would miss, pass, or meet with a FATAL after
hours of replay is refused here, with the windows that there are (TRAPS "PostgreSQL" 4, 5, 6).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from mingus_engine import lsn as lsns
from mingus_engine.bounds import PAGE_BYTES
from mingus_engine.errors import NotRestorable, SettingsError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.postgres.windows import BasePoint, Recoverable, Window, compute
from mingus_engine.jobs.surveying import random_second
from mingus_engine.postgres import timelines
from mingus_engine.postgres.wal_records import Event, EventKind, WalScanner, scan
from mingus_engine.repository.wal_path import WalPath

Kind = Literal["latest", "immediate", "time", "lsn", "xid", "name"]
FORMS = "latest, immediate, time:2026-11-23T14:29:59+01:00, lsn:16/B374D848, xid:12345 or name:before-release"
_EPOCH_2000 = datetime(2000, 1, 1, tzinfo=UTC)
_NAME_MAX_BYTES = 63
# Settings of a recovery; whatever a snapshot's postgresql.auto.conf says of them is of an earlier recovery.
TARGET_SETTINGS = tuple(f"recovery_target{end}" for end in ("", "_time", "_lsn", "_xid", "_name"))


@dataclass(frozen=True)
class Target:
    """Where to end. ``text`` as it was asked for; ``moment``, ``number``, ``name`` as its kind needs."""

    kind: Kind
    text: str
    moment: datetime | None = None
    number: int = 0
    name: str = ""


@dataclass(frozen=True)
class Recovery:
    """How a target is reached.

    :param reason: why this snapshot. :param start, end: log that is needed (LSNs), inside ``window``.
    :param settings: recovery settings of the server.
    :param redo: LSN of the last record that the server will read; ``None``: not known beforehand (``immediate``).
    :param stopping: ``before`` that record, ``after`` it, ``at`` a restore point; empty: at the end of the log.
    :param note: what a person should know of how the target was found.
    """

    target: Target
    point: BasePoint
    reason: str
    window: Window
    path: WalPath
    start: int
    end: int
    settings: dict[str, str]
    redo: int | None
    stopping: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        """JSON types."""
        return {
            "target": self.target.text,
            "snapshot_reason": self.reason,
            "window": self.window.as_dict(),
            "timelines": timelines.shown(self.path.steps),
            "wal_start": lsns.text(self.start),
            "wal_end": lsns.text(self.end),
            "settings": self.settings,
            "last_record": lsns.text(self.redo) if self.redo is not None else None,
            "note": self.note,
        }


def parse(text: str) -> Target:
    """``latest``, ``immediate``, ``time:…``, ``lsn:…``, ``xid:…`` or ``name:…``. A time without offset is UTC.

    :raises SettingsError: none of these.
    """
    kind, _, value = text.strip().partition(":")
    value = value.strip()
    try:
        if kind == "latest" and not value:
            return Target("latest", kind)
        if kind == "immediate" and not value:
            return Target("immediate", kind)
        if kind == "time":
            moment = datetime.fromisoformat(value)
            moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
            return Target("time", f"time:{moment.isoformat()}", moment=moment)
        if kind == "lsn":
            return Target("lsn", f"lsn:{lsns.text(lsns.parse(value))}", number=lsns.parse(value))
        if kind == "xid" and re.fullmatch(r"[0-9]{1,20}", value) and 3 <= int(value) < 1 << 64:
            # The log has the lower 32 bits; pg_current_xact_id() counts on beyond them.
            return Target("xid", f"xid:{value}", number=int(value) & 0xFFFFFFFF)
        if kind == "name" and 0 < len(value.encode()) <= _NAME_MAX_BYTES and value.isprintable():
            return Target("name", f"name:{value}", name=value)
    except (ValueError, OverflowError):
        pass
    raise SettingsError(f"{text!r} is not a recovery target", hint=f"one of: {FORMS}")


def random_moment(found: Recoverable, seed: int, timeline: int | None = None) -> Target:
    """A second inside the newest window whose times are known; the same one for the same *seed* and window.

    :raises NotRestorable: there is none.
    """
    moment = random_second((w for w in found.found().windows if timeline in (None, w.timeline)), seed)
    return Target("time", f"time:{moment.isoformat()}", moment=moment)


def resolve(
    found: Recoverable,
    target: Target,
    *,
    context: JobContext,
    timeline: int | None = None,
    inclusive: bool = True,
    snapshot: str | None = None,
) -> Recovery:
    """How *target* is reached; reads log where that has to be searched.

    :param timeline: to follow; default: the newest one that can be restored. :param inclusive: of an LSN, time or
        transaction: also replay what is exactly there. :param snapshot: ULID to begin with; default: the newest usable.
    :raises NotRestorable: it cannot be reached; the message has the windows.
    """
    return _Resolution(found, target, context, timeline=timeline, inclusive=inclusive, snapshot=snapshot).run()


class _Resolution:
    def __init__(
        self,
        found: Recoverable,
        target: Target,
        context: JobContext,
        *,
        timeline: int | None,
        inclusive: bool,
        snapshot: str | None,
    ) -> None:
        self._found, self._target, self._context = found, target, context
        self._inclusive, self._snapshot = inclusive, snapshot
        everything = found.found()
        self._all = everything.windows
        self._unusable = everything.unusable
        points = [p for p in found.points if snapshot in (None, p.snapshot)]
        self._path = self._choose_path(points, timeline)
        windows = compute(points, [self._path], {}).windows
        times = {(w.timeline, w.end): w.end_time for w in self._all if w.system_id == self._path.system_id}
        self._windows = [
            Window(**{**w.__dict__, "end_time": times.get((w.timeline, w.end)),
                      "start_time": found.point(w.snapshots[0]).stopped_at})
            for w in windows
        ]  # fmt: skip
        if not self._windows:
            raise self._refused(f"nothing leads to timeline {self._path.timeline}")

    def run(self) -> Recovery:
        """By the target's kind."""
        steps = {
            "latest": self._latest, "immediate": self._immediate, "time": self._time, "lsn": self._lsn,
            "xid": self._named, "name": self._named,
        }  # fmt: skip
        return steps[self._target.kind]()

    def _choose_path(self, points: Sequence[BasePoint], timeline: int | None) -> WalPath:
        if not points:
            raise self._refused("there is no usable snapshot" if self._snapshot is None else "it is not usable")
        system_id = points[-1].system_id
        usable = {point.snapshot for point in points}
        known = [w.timeline for w in self._all if w.system_id == system_id and not usable.isdisjoint(w.snapshots)]
        if timeline is None:
            if not known:
                raise self._refused("no snapshot opens a window")
            timeline = max(known)
        elif timeline not in known:
            raise self._refused(f"nothing leads to timeline {timeline}")
        return self._found.path(system_id, timeline)

    # -- kinds --------------------------------------------------------------------------------------------------------

    def _latest(self) -> Recovery:
        window = self._windows[-1]
        last = self._last_record(window.end, self._first_start(window))
        return self._recovery(
            window, self._newest(window), end=window.end, settings={}, redo=last, note="to the end of the stored log"
        )

    def _immediate(self) -> Recovery:
        window = self._windows[-1]
        point = self._newest(window)
        return self._recovery(
            window, point, end=point.stop, settings={"recovery_target": "immediate"}, redo=None,
            note="to the snapshot's own end",
        )  # fmt: skip

    def _lsn(self) -> Recovery:
        lsn = self._target.number
        window = next((w for w in self._windows if w.start <= lsn <= w.end), None)
        if window is None:
            raise self._refused(f"{lsns.text(lsn)} is not inside a window")
        point = self._newest(window, lsn)
        end, note = window.end, ""
        record = self._record_at(lsn, window.end)
        if record is not None:
            redo, end, _ = record
            settings = self._setting("lsn", lsns.text(lsn))
        else:
            # PostgreSQL stops at a record that begins at or behind the LSN; there is none, so at the last one before.
            redo = self._last_record(window.end, self._first_start(window))
            settings = {"recovery_target_lsn": lsns.text(redo), "recovery_target_inclusive": "on"}
            note = "no record begins behind it: to the end of the stored log"
        return self._recovery(window, point, end=end, settings=settings, redo=redo, note=note)

    def _time(self) -> Recovery:
        moment = self._target.moment or _EPOCH_2000
        candidates = [w for w in self._windows if w.start_time is not None and w.start_time <= moment]
        for window in reversed(candidates):
            points = [self._found.point(ulid) for ulid in window.snapshots]
            for point in reversed([p for p in points if p.stopped_at <= moment]):
                sample = self._found.wal.sample_before(self._path, point.start, window.end, moment)
                begin = max(point.start, sample.flush if sample else 0)
                later = self._first(begin, window.end, self._later_than(moment))
                if later is None:
                    if window.end_time is None or window.end_time < moment:
                        raise self._refused("it lies behind the newest moment that is stored, or in a gap")
                    return self._at_the_end(window, point)
                if later.lsn >= point.stop:
                    settings = self._setting("time", moment.strftime("%Y-%m-%d %H:%M:%S.%f+00"))
                    note = f"ends before the transaction that ended at {_at(later):%Y-%m-%d %H:%M:%S.%f}Z"
                    return self._recovery(window, point, end=later.end, settings=settings, redo=later.lsn, note=note)
        raise self._refused("it lies before the first moment that can be restored, or in a gap")

    def _named(self) -> Recovery:
        """A transaction or a restore point, the newest of that number or name: newest snapshot first."""
        for window in reversed(self._windows):
            end = window.end
            for ulid in reversed(window.snapshots):
                point = self._found.point(ulid)
                # A server that begins with this snapshot stops at the first one, if it is consistent by then.
                event = next(filter(self._is_meant, self._events(point.start, end)), None)
                if event is not None and event.lsn >= point.stop:
                    return self._at_event(window, point, event)
                end = min(window.end, point.stop)
        raise self._refused(f"no such {'restore point' if self._target.kind == 'name' else 'transaction'} in the log")

    # -- parts --------------------------------------------------------------------------------------------------------

    def _at_event(self, window: Window, point: BasePoint, event: Event) -> Recovery:
        if self._target.kind == "name":
            settings = {"recovery_target_name": self._target.name}
        else:
            settings = self._setting("xid", str(self._target.number))
        where = f"{event.kind.value} at {lsns.text(event.lsn)}, {_at(event):%Y-%m-%d %H:%M:%S.%f}Z"
        note = f"found by reading the log: {where}"
        return self._recovery(window, point, end=event.end, settings=settings, redo=event.lsn, note=note)

    def _at_the_end(self, window: Window, point: BasePoint) -> Recovery:
        redo = self._last_record(window.end, self._first_start(window))
        return self._recovery(
            window, point, end=window.end, redo=redo,
            settings={"recovery_target_lsn": lsns.text(redo), "recovery_target_inclusive": "on"},
            note="nothing was committed later and everything until then is stored: to the end of the stored log",
        )  # fmt: skip

    def _recovery(
        self, window: Window, point: BasePoint, *, end: int, settings: dict[str, str], redo: int | None, note: str
    ) -> Recovery:
        newer = window.snapshots[window.snapshots.index(point.snapshot) + 1 :]
        if self._snapshot is not None:
            reason = "asked for"
        elif newer:
            reason = f"the newest that ends before the target ({len(newer)} newer)"
        else:
            reason = "the newest usable one"
        if left_out := [u for u in self._unusable if u > point.snapshot]:
            reason += f"; not usable: {', '.join(left_out)}"
        # To the end of the segment: what is stored anyway costs nothing and spares the server a look for it.
        upto = -(-end // self._path.segment_bytes) * self._path.segment_bytes
        return Recovery(
            target=self._target,
            point=point,
            reason=reason,
            window=window,
            path=self._path,
            start=point.start,
            end=min(window.end, upto),
            settings={"recovery_target_timeline": str(self._path.timeline), **settings},
            redo=redo,
            stopping=self._stopping(settings),
            note=note,
        )

    def _stopping(self, settings: dict[str, str]) -> str:
        if "recovery_target_time" in settings:
            return "before"  # the first transaction that ended later
        if "recovery_target_name" in settings:
            return "at"
        if "recovery_target_inclusive" in settings:
            return "after" if settings["recovery_target_inclusive"] == "on" else "before"
        return "after" if settings else ""

    def _setting(self, name: str, value: str) -> dict[str, str]:
        return {
            f"recovery_target_{name}": value, "recovery_target_inclusive": "on" if self._inclusive else "off"
        }  # fmt: skip

    def _newest(self, window: Window, lsn: int | None = None) -> BasePoint:
        points = [self._found.point(ulid) for ulid in window.snapshots]
        return [p for p in points if lsn is None or p.stop <= lsn][-1]

    def _first_start(self, window: Window) -> int:
        return min(self._found.point(ulid).start for ulid in window.snapshots)

    def _later_than(self, moment: datetime) -> int:
        """Microseconds of the first moment that stops a recovery to *moment*."""
        return (moment - _EPOCH_2000) // timedelta(microseconds=1) + (1 if self._inclusive else 0)

    def _is_meant(self, event: Event) -> bool:
        if self._target.kind == "name":
            return event.kind is EventKind.RESTORE_POINT and event.name == self._target.name
        return event.kind in (EventKind.COMMIT, EventKind.ABORT) and event.xid == self._target.number

    # -- reading the log ----------------------------------------------------------------------------------------------

    def _first(self, start: int, end: int, time_us: int) -> Event | None:
        """The first end of a transaction at *time_us* or later; a recovery to a time stops before it."""
        ends = (e for e in self._events(start, end) if e.kind in (EventKind.COMMIT, EventKind.ABORT))
        return next((event for event in ends if event.time_us >= time_us), None)

    def _record_at(self, lsn: int, end: int) -> tuple[int, int, int] | None:
        """The first whole record at *lsn* or behind it: where it begins, where it ends, and the one before."""
        scanner = self._scanner(lsn)
        scanner.watch = lsn
        for chunk in self._chunks(scanner.start, end) if lsn < end else ():
            scanner.feed(chunk)
            if scanner.watched is not None or scanner.ended:
                break
        else:
            scanner.finish()
        return scanner.watched

    def _last_record(self, end: int, first: int) -> int:
        """Where the last whole record before *end* begins."""
        segment_bytes = self._path.segment_bytes
        start = lsns.segment_start(end - 1, segment_bytes)
        while True:
            scanner = self._scan(max(start, first), end)
            if scanner.last is not None:
                return scanner.last
            if start <= first:
                raise self._refused(f"the log before {lsns.text(end)} cannot be read: {scanner.ended}")
            start -= segment_bytes

    def _scan(self, start: int, end: int) -> WalScanner:
        scanner = self._scanner(start)
        for _ in scan(scanner, self._chunks(scanner.start, end)):
            pass
        return scanner

    def _events(self, start: int, end: int) -> Iterator[Event]:
        """What ends behind *start*."""
        if start >= end:
            return
        scanner = self._scanner(start)
        yield from (event for event in scan(scanner, self._chunks(scanner.start, end)) if event.end > start)
        if scanner.ended:
            raise self._refused(f"the log cannot be read: {scanner.ended}")

    def _scanner(self, start: int) -> WalScanner:
        return WalScanner(start - start % PAGE_BYTES, self._path.segment_bytes)

    def _chunks(self, start: int, end: int) -> Iterator[bytes]:
        at = start
        for chunk in self._found.wal.chunks(self._path.pieces(start, end)):
            self._context.checkpoint()
            self._context.progress("search the log", at - start, end - start, lsns.text(at))
            at += len(chunk)
            yield chunk

    def _refused(self, why: str) -> NotRestorable:
        timeline = getattr(self, "_path", None)
        followed = f" on timeline {timeline.timeline}" if timeline else ""
        shown = "; ".join(window.shown() for window in self._all) or "none"
        which = f" from snapshot {self._snapshot}" if self._snapshot else ""
        return NotRestorable(f"cannot restore to {self._target.text}{followed}{which}: {why}; windows: {shown}")


def _at(event: Event) -> datetime:
    return _EPOCH_2000 + timedelta(microseconds=event.time_us)
