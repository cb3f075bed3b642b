"""How a store really behaves, found out by trying; at ``init`` and weekly (DESIGN §4).

A server may accept a checksum, a range or an overwrite and do something else. Nothing here asks what kind of store it
is: it puts, lists, reads and deletes names ``probe/<ulid>`` and compares. Whatever was put is deleted again.

Checksums are proven twice, because a store may take the digest from its caller or compute it itself: bytes put under
another content's digest, and a body that changes between the first reading (hashing) and the second (sending). Either
the store refuses, or what it stored is what was promised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, cast, runtime_checkable

from mingus_engine import bounds, ulids
from mingus_engine.errors import Damaged, MingusError, ObjectMissing
from mingus_engine.store.base import Body, Store
from mingus_engine.store.wrapping import StoreWrapper

PREFIX = "probe/"
# Enough for several ranges and pages of a server, small enough to be sent weekly over any line.
_SAMPLE_BYTES = 256 * bounds.KIB + 17
# A listing that misses an object is often late only now and then.
_ROUNDS = 5
# A store whose listing is later than this is not usable at all; waiting longer would only hold up `init`.
_LISTING_DEADLINE_S = 30.0
_POLL_S = 0.2


@runtime_checkable
class Conditional(Protocol):
    """What a store may be able to tell beyond its contract; only this probe asks."""

    def honours_if_none_match(self, name: str) -> bool:
        """Whether the server refuses a conditional put of a used name. Leaves *name* behind."""


@dataclass(frozen=True)
class ProbeResult:
    """What was found; all of it facts, judged by ``problems``.

    :param checksums_enforced: a put whose bytes are not the promised ones is refused or stores the promised ones.
    :param listing_consistent: what was put or deleted showed in the very next listing, every time.
    :param listing_delay_s: the longest time until a listing showed a put or a delete (τ of DESIGN §4); ``None``: not
        within the deadline.
    :param overwrite: what a put of other bytes under a used name did.
    :param conditional_put: whether ``If-None-Match`` is honoured; ``None`` = not known. Nothing depends on it.
    :param ranges_exact: ranges returned exactly their bytes, and one past the end was an error.
    :param clock_skew_s: the store's clock minus this machine's; positive = the store is ahead.
    :param clock_uncertainty_s: how far off ``clock_skew_s`` may be (length of the call, whole seconds of HTTP dates).
    """

    location: str
    checksums_enforced: bool
    listing_consistent: bool
    listing_delay_s: float | None
    overwrite: Literal["refused", "replaced", "ignored"]
    conditional_put: bool | None
    ranges_exact: bool
    clock_skew_s: float
    clock_uncertainty_s: float

    @property
    def problems(self) -> tuple[str, ...]:
        """What makes the store unfit or needs another setting, for people; empty = none."""
        skew_max = bounds.CLOCK_SKEW_MAX.total_seconds()
        found = (
            (not self.checksums_enforced, "it accepts bytes with a wrong checksum: set s3.checksum to md5 or none"),
            (not self.listing_consistent, "an object is not listed at once after it was put: `sweep` refuses to run"),
            (not self.ranges_exact, "ranges are not answered exactly: it cannot be used"),
            (
                abs(self.clock_skew_s) - self.clock_uncertainty_s > skew_max,
                f"its clock differs by {self.clock_skew_s:.0f} s, at most {skew_max:.0f} are allowed",
            ),
        )
        return tuple(text for wrong, text in found if wrong)

    def as_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return {**dataclasses.asdict(self), "problems": list(self.problems)}


def probe(
    store: Store,
    *,
    sleep: Callable[[float], object] = time.sleep,
    monotonic: Callable[[], float] = time.monotonic,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> ProbeResult:
    """Find out how *store* behaves; some twenty small requests.

    :raises StoreError: the store failed (full, denied, unreachable): then nothing is known.
    """
    tried = _Tried(store)
    try:
        skew, uncertainty = _clock(store, now)
        enforced = _checksums(tried)
        consistent, delay = _listing(tried, sleep, monotonic)
        return ProbeResult(
            location=store.location,
            checksums_enforced=enforced,
            listing_consistent=consistent,
            listing_delay_s=delay,
            overwrite=_overwrite(tried),
            conditional_put=_conditional_put(tried),
            ranges_exact=_ranges(tried),
            clock_skew_s=round(skew, 3),
            clock_uncertainty_s=round(uncertainty, 3),
        )
    finally:
        tried.remove()


class _Tried:
    """The names that were used, to be deleted in the end."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._names: list[str] = []

    def name(self) -> str:
        self._names.append(PREFIX + ulids.new())
        return self._names[-1]

    def put(self, name: str, body: Body, promised: bytes) -> None:
        self.store.put(name, body, size=len(promised), sha256=hashlib.sha256(promised).digest())

    def remove(self) -> None:
        """Delete everything; a failure here must not hide the finding or the error before it."""
        for name in self._names:
            with contextlib.suppress(MingusError):
                self.store.delete(name)


class _Turncoat(io.RawIOBase):
    """A file that holds *first* when it is read through once, and *then* ever after."""

    def __init__(self, first: bytes, then: bytes) -> None:
        super().__init__()
        self._contents = (first, then)
        self._position = 0
        self._turned = False

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._contents[0])}[whence]
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def read(self, size: int = -1) -> bytes:
        content = self._contents[self._turned]
        end = len(content) if size < 0 else self._position + size
        data = content[self._position : end]
        self._position += len(data)
        if self._position >= len(content):
            self._turned = True
        return data


def _checksums(tried: _Tried) -> bool:
    good = os.urandom(1024)
    other = bytes(byte ^ 1 for byte in good)
    for body in (other, cast(Body, _Turncoat(good, other))):
        name = tried.name()
        # Only a refusal of these bytes counts; a store that cannot be reached proves nothing and ends the probe.
        with contextlib.suppress(Damaged):
            tried.put(name, body, good)
        # Refused and yet there, or taken for good: both are seen by what lies there now.
        with contextlib.suppress(ObjectMissing):
            if tried.store.get(name) != good:
                return False
    return True


def _listing(
    tried: _Tried, sleep: Callable[[float], object], monotonic: Callable[[], float]
) -> tuple[bool, float | None]:
    """Whether listings were right at once, and the longest time until one was."""
    delays: list[float | None] = []
    for _ in range(_ROUNDS):
        name, content = tried.name(), os.urandom(16)
        tried.put(name, content, content)
        delays.append(_until_listed(tried.store, name, True, sleep, monotonic))
        tried.store.delete(name)
        delays.append(_until_listed(tried.store, name, False, sleep, monotonic))
        if None in delays:
            return False, None
    longest = max(delay for delay in delays if delay is not None)
    return longest == 0.0, round(longest, 3)


def _until_listed(
    store: Store, name: str, there: bool, sleep: Callable[[float], object], monotonic: Callable[[], float]
) -> float | None:
    """Seconds until a listing has (*there*) or lacks *name*: 0 when the first did, ``None`` after the deadline."""
    began = monotonic()
    first = True
    while True:
        if any(entry.name == name for entry in store.list(PREFIX)) == there:
            return 0.0 if first else monotonic() - began
        if monotonic() - began > _LISTING_DEADLINE_S:
            return None
        first = False
        sleep(_POLL_S)


def _overwrite(tried: _Tried) -> Literal["refused", "replaced", "ignored"]:
    name, before, after = tried.name(), os.urandom(32), os.urandom(32)
    tried.put(name, before, before)
    try:
        tried.put(name, after, after)
    except Damaged:
        return "refused"
    return "replaced" if tried.store.get(name) == after else "ignored"


def _conditional_put(tried: _Tried) -> bool | None:
    store = tried.store
    while isinstance(store, StoreWrapper):
        store = store.inner
    return store.honours_if_none_match(tried.name()) if isinstance(store, Conditional) else None


def _ranges(tried: _Tried) -> bool:
    name, sample = tried.name(), os.urandom(_SAMPLE_BYTES)
    end = _SAMPLE_BYTES
    tried.put(name, sample, sample)
    for offset, length in ((0, 1), (0, end), (1, 4096), (65535, 2), (end - 1, 1), (end, 0)):
        if tried.store.get_range(name, offset, length) != sample[offset : offset + length]:
            return False
    for offset, length in ((end - 1, 2), (end, 1)):
        try:
            tried.store.get_range(name, offset, length)
        except Damaged:
            continue
        return False
    return True


def _clock(store: Store, now: Callable[[], datetime]) -> tuple[float, float]:
    """The store's clock minus this machine's, and how far off that may be, in seconds."""
    before = now()
    theirs = store.now()
    after = now()
    # A date in whole seconds was cut down by half a second on average.
    cut = 0.5 if theirs.microsecond == 0 else 0.0
    middle = before + (after - before) / 2
    return (theirs - middle).total_seconds() + cut, (after - before).total_seconds() / 2 + cut
