"""An RDB as it arrives, made into items of one file: checked on its way, counted if it is small.

A server that sends it straight from the process it forked knows no length: it says a mark of 40 random bytes first, and
the RDB ends where the mark comes again. Bytes that may be the mark are held back.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mingus_engine.bounds import MIB
from mingus_engine.errors import BackupBroken, Damaged
from mingus_engine.redis.rdb_check import RdbCheck, RdbFacts
from mingus_engine.redis.rdb_statistics import RdbStatistics, statistics
from mingus_engine.sources.base import SourceFile
from mingus_engine.sources.slabs import Slab, SlabItem, SlabPool

#: A smaller RDB is walked: some hundred thousand keys, about a second.
COUNTED_MAX_BYTES = 8 * MIB
MARK_BYTES = 40

#: Receives into the memory given, which is not empty; how much, 0 = there is no more.
Fill = Callable[[memoryview], int]


class TransferCut(BackupBroken):
    """The connection ended before the RDB did."""


@dataclass(frozen=True)
class Framing:
    """How the end is known: by its length, or by a mark."""

    length: int | None = None
    mark: bytes = b""


class RdbStream:
    """See the module.

    :param what: names the server in errors. :param walk: count it whatever its size, and find by that what a checksum
        would show: for a server that writes none.
    :ivar received_bytes: so far. :ivar waited_s: how long the pipeline made the reader wait.
    :ivar facts: of the whole RDB, at the end; ``counted``: if it was walked.
    """

    def __init__(self, file: SourceFile, what: str, pool: SlabPool, fill: Fill, *, walk: bool = False) -> None:
        self._file, self._what, self._pool, self._fill = file, what, pool, fill
        self._check = RdbCheck(what)
        self._walker = _Walker(what) if walk else None
        self._small: list[bytes] | None = [] if not walk else None
        self._offset = 0
        self.received_bytes = 0
        self.waited_s = 0.0
        self.facts: RdbFacts | None = None
        self.counted: RdbStatistics | None = None

    def items(self, framing: Framing) -> Iterator[SlabItem]:
        """The items of the file, the last one once the whole RDB was found to be right.

        :raises TransferCut: it ends too early. :raises BackupBroken: it is not whole. :raises Cancelled:
        :raises SourceUnreachable: what *fill* raises.
        """
        held: Slab | None = None
        slab: Slab | None = None
        ended = False
        try:
            while not ended:
                slab = self._take()
                ended = self._fill_slab(slab, held, framing)
                if held is not None:
                    if not ended or slab.used:
                        yield from self._given(held, last=False)
                        held = None
                    else:
                        # The mark reached back into it.
                        slab.drop()
                        slab = held
                        held = None
                if ended:
                    self._finish(slab)
                    yield from self._given(slab, last=True)
                else:
                    held = slab
                slab = None
        finally:
            for left in (held, slab):
                if left is not None:
                    left.drop()
            if self._walker is not None:
                self._walker.close()

    def _fill_slab(self, slab: Slab, before: Slab | None, framing: Framing) -> bool:
        """Receive until *slab* is full; whether the RDB ends in it, or in *before* if it is empty then."""
        while slab.free:
            room = slab.free
            if framing.length is not None:
                room = min(room, framing.length - self.received_bytes)
                if not room:
                    return True
            count = self._fill(slab.data[slab.used : slab.used + room])
            if not count:
                self._cut_short(framing)
            slab.used += count
            self.received_bytes += count
            if framing.mark and self._marked(slab, before, framing.mark):
                return True
        return framing.length == self.received_bytes

    def _marked(self, slab: Slab, before: Slab | None, mark: bytes) -> bool:
        """Whether the mark has come; it is taken off then."""
        end = bytes(slab.data[max(0, slab.used - MARK_BYTES) : slab.used])
        missing = MARK_BYTES - len(end)
        if missing and before is not None:
            end = bytes(before.data[before.used - missing : before.used]) + end
        if end != mark:
            return False
        if missing and before is not None:
            before.used -= missing
        slab.used -= MARK_BYTES - missing
        self.received_bytes -= MARK_BYTES
        return True

    def _cut_short(self, framing: Framing) -> None:
        whole = f" of {framing.length}" if framing.length is not None else ", before its end mark"
        raise TransferCut(f"{self._what}: the server closed the connection after {self.received_bytes} bytes{whole}")

    def _take(self) -> Slab:
        began = time.monotonic()
        slab = self._pool.take()
        self.waited_s += time.monotonic() - began
        return slab

    def _given(self, slab: Slab, *, last: bool) -> Iterator[SlabItem]:
        """One item of what is in *slab*, which is let go of."""
        data = slab.data[: slab.used]
        if not last:
            self._look_at(data)
        item = SlabItem(self._file, self._offset, data, slab, last=last)
        slab.drop()
        self._offset += len(data)
        began = time.monotonic()
        yield item
        self.waited_s += time.monotonic() - began

    def _look_at(self, data: memoryview) -> None:
        try:
            self._check.feed(data)
            if self._walker is not None:
                self._walker.feed(bytes(data))
        except Damaged as error:
            raise self._not_whole(error) from None
        if self._small is not None:
            self._small = [*self._small, bytes(data)] if self._offset + len(data) <= COUNTED_MAX_BYTES else None

    def _finish(self, last: Slab) -> None:
        self._look_at(last.data[: last.used])
        try:
            self.facts = self._check.finish()
            if self.facts.bytes != self.received_bytes:
                raise Damaged(f"{self._what}: sent {self.received_bytes - self.facts.bytes} bytes behind its RDB")
            if self._walker is not None:
                self.counted = self._walker.finish()
            elif self._small is not None:
                self.counted = statistics(self._small, self._what)
            elif not self.facts.checksum:
                raise Damaged(f"{self._what}: its RDB has no checksum, although rdbchecksum was on when it was asked")
        except Damaged as error:
            raise self._not_whole(error) from None

    def _not_whole(self, error: Damaged) -> BackupBroken:
        return BackupBroken(f"{error.message}; nothing was committed", hint=error.hint or BackupBroken.hint)


class _Walker:
    """The walk in a thread of its own, beside the stream; fed with copies, two at a time."""

    def __init__(self, what: str) -> None:
        self._queue: queue.Queue[bytes] = queue.Queue(2)
        self._failure: BaseException | None = None
        self._found: RdbStatistics | None = None
        self._thread = threading.Thread(target=self._walk, args=(what,), name="mingus-rdb-walk")
        self._thread.start()

    def feed(self, data: bytes) -> None:
        """The next bytes, not empty. :raises Damaged: what was before is no RDB."""
        while data and self._thread.is_alive():
            try:
                self._queue.put(data, timeout=0.2)
                break
            except queue.Full:
                continue
        self._refuse()

    def finish(self) -> RdbStatistics:
        """After the last bytes. :raises Damaged: it is no whole RDB."""
        self.close()
        if self._found is None:
            self._refuse()
            raise Damaged("the walk over the RDB gave nothing")
        return self._found

    def close(self) -> None:
        """End the thread. Idempotent."""
        while self._thread.is_alive():
            try:
                self._queue.put(b"", timeout=0.1)
            except queue.Full:
                continue
            self._thread.join(0.1)

    def _refuse(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _walk(self, what: str) -> None:
        try:
            self._found = statistics(iter(self._queue.get, b""), what)
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: handed to the caller
            self._failure = error
        finally:
            while self._failure is not None and self._queue.get():
                pass  # who feeds must not wait for ever
