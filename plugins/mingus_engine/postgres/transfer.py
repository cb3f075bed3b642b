"""``pg_dump`` of one server straight into ``pg_restore`` of another: nothing of it rests anywhere.

The bytes pass through the engine, which keeps the last of them back until ``pg_dump`` has ended well: ``pg_restore``
works in a single transaction and cannot commit what a broken dump sent.
"""

from __future__ import annotations

import os
import select
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

from mingus_engine.errors import TargetError, VerificationFailed
from mingus_engine.postgres.programs import Programs
from mingus_engine.programs.accounts import Account
from mingus_engine.programs.running import OUTPUT_MAX_BYTES, Guarded

_CHUNK_BYTES = 1 << 20
# What is kept back; pg_restore reads to the end of the archive's last entry before it commits.
_HELD_BYTES = 4096
_POLL_S = 0.2
_SHOWN_LINES = 4
# A program that is told to end cancels its statement at the server; then it is killed.
_END_GRACE_S = 5.0


@dataclass(frozen=True)
class Side:
    """One of the two programs.

    :param account: runs it when the engine is root; ``None``: the engine's own user. :param environment: what it finds
        besides a clean one; the password goes here.
    """

    programs: Programs
    arguments: Sequence[str]
    account: Account | None
    environment: Mapping[str, str]


def transfer(dump: Side, restore: Side, *, checkpoint: Callable[[], None], progress: Callable[[int], None]) -> int:
    """Run both to their end; the bytes that passed.

    :param checkpoint: called some times a second; what it raises ends both, and nothing is committed.
    :param progress: given the bytes so far.
    :raises VerificationFailed: ``pg_dump`` failed on what was restored. :raises TargetError: ``pg_restore`` failed at
        the destination, which is as it was.
    """
    with ExitStack() as stack:
        dump_errors, restore_errors = (stack.enter_context(tempfile.TemporaryFile()) for _ in range(2))
        source, dump_out = _pipe(stack)
        restore_in, sink = _pipe(stack)
        dumping = _start("pg_dump", dump, output=dump_out, errors=dump_errors)
        stack.callback(_end, dumping)
        restoring = _start("pg_restore", restore, output=restore_errors, given=restore_in.fileno())
        stack.callback(_end, restoring)
        dump_out.close()
        restore_in.close()
        relay = _Relay(source, sink, restoring, checkpoint, progress)
        if relay.run():
            if (code := _wait(dumping, checkpoint)) != 0:
                raise VerificationFailed(
                    f"pg_dump of the restored server failed: {_text(dump_errors, code)}",
                    hint="nothing was committed at the destination",
                )
            relay.finish()
        if (code := _wait(restoring, checkpoint)) != 0 or not relay.complete:
            raise TargetError(
                f"pg_restore failed: {_text(restore_errors, code)}",
                hint="nothing was committed: the destination is as it was",
            )
        return relay.total


class _Relay:
    """Moves the bytes; gives up when nobody reads them any more.

    :ivar total: bytes so far. :ivar complete: all were sent.
    """

    def __init__(
        self,
        source: IO[bytes],
        sink: IO[bytes],
        restoring: Guarded,
        checkpoint: Callable[[], None],
        progress: Callable[[int], None],
    ) -> None:
        self._source, self._sink, self._restoring = source, sink, restoring
        self._checkpoint, self._progress = checkpoint, progress
        self._held = b""
        self.total = 0
        self.complete = False
        os.set_blocking(sink.fileno(), False)

    def run(self) -> bool:
        """All that ``pg_dump`` gives, except the last bytes; ``False``: ``pg_restore`` ended before."""
        while True:
            self._checkpoint()
            if not select.select([self._source], [], [], _POLL_S)[0]:
                if self._restoring.code is not None:
                    return False
                continue
            chunk = os.read(self._source.fileno(), _CHUNK_BYTES)
            if not chunk:
                return True
            self.total += len(chunk)
            data = self._held + chunk
            self._held = data[-_HELD_BYTES:]
            if not self._send(data[:-_HELD_BYTES]):
                return False
            self._progress(self.total)

    def finish(self) -> None:
        """The last bytes, and the end of input."""
        self.complete = self._send(self._held)
        self._sink.close()

    def _send(self, data: bytes) -> bool:
        """``False``: nobody reads any more."""
        view = memoryview(data)
        while view:
            self._checkpoint()
            if not select.select([], [self._sink], [], _POLL_S)[1]:
                continue
            try:
                view = view[os.write(self._sink.fileno(), view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                return False
        return True


def _pipe(stack: ExitStack) -> tuple[IO[bytes], IO[bytes]]:
    read, write = os.pipe()
    return (
        stack.enter_context(os.fdopen(read, "rb", buffering=0)),
        stack.enter_context(os.fdopen(write, "wb", buffering=0)),
    )


def _start(name: str, side: Side, *, output: IO[bytes], errors: IO[bytes] | None = None, given: int = -1) -> Guarded:
    return side.programs.start(
        name,
        side.arguments,
        account=side.account,
        environment=side.environment,
        output=output.fileno(),
        errors=errors.fileno() if errors else None,
        given=given,
    )


def _end(program: Guarded) -> None:
    """End a program that still runs, and all it started."""
    if program.code is None:
        program.order(b"t")
    if not program.wait(_END_GRACE_S):
        program.kill()


def _wait(program: Guarded, checkpoint: Callable[[], None]) -> int:
    while not program.wait(_POLL_S):
        checkpoint()
    return -1 if program.code is None else program.code


def _text(output: IO[bytes], code: int) -> str:
    output.seek(0)
    lines = output.read(OUTPUT_MAX_BYTES).decode(errors="replace").strip().splitlines()
    more = f"; and {len(lines) - _SHOWN_LINES} lines more" if len(lines) > _SHOWN_LINES else ""
    return "; ".join(lines[:_SHOWN_LINES]) + more or f"exit status {code}"
