"""Many commands over one link, sent in batches without waiting for each other's answers.

Answers are small; so the link carries batches one way while the server works on those before. A few batches are under
way at a time: what a cut connection leaves unknown, and what is held in memory, is bounded.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import hiredis

from mingus_engine.errors import SourceUnreachable
from mingus_engine.redis import client
from mingus_engine.redis.link import Link

Done = Callable[[list[Any]], None]

_RECEIVE_BYTES = 64 * 1024


class Pipeline:
    """Batches over *link*. A server's error is an answer like another: ``hiredis.ReplyError``.

    :param under_way: so many batches may be unanswered.
    """

    def __init__(self, link: Link, *, under_way: int = 3) -> None:
        self._link = link
        self._under_way = under_way
        self._reader = hiredis.Reader()
        self._buffer = bytearray(_RECEIVE_BYTES)
        self._pending: deque[tuple[int, Done]] = deque()

    def send(self, parts: Sequence[bytes], answers: int, done: Done) -> None:
        """Send a batch of commands, in pieces. *done* is called with its *answers* when they have come, maybe much
        later.

        :raises SourceUnreachable: the connection is cut. :raises Cancelled:
        """
        while len(self._pending) >= self._under_way:
            self._receive()
        self._pending.append((answers, done))
        for part in parts:
            self._link.write(part)

    def drain(self) -> None:
        """Wait for all answers; errors as of :meth:`send`."""
        while self._pending:
            self._receive()

    def ask(self, encoded: bytes) -> Any:
        """The answer to one command, after those to all before."""
        found: list[Any] = []
        self.send([encoded], 1, found.extend)
        self.drain()
        return found[0]

    def _receive(self) -> None:
        """The answers to the oldest batch."""
        count, done = self._pending[0]
        answers: list[Any] = []
        gets = self._reader.gets
        while len(answers) < count:
            try:
                answer = gets()
            except hiredis.ProtocolError as error:
                raise SourceUnreachable(f"{client.place(self._link.conn)}: sends no Redis protocol: {error}") from None
            if answer is False:
                size = self._link.fill(memoryview(self._buffer), client.COMMAND_TIMEOUT_S)
                if not size:
                    raise SourceUnreachable(f"{client.place(self._link.conn)}: the server closed the connection")
                self._reader.feed(bytes(memoryview(self._buffer)[:size]))
            else:
                answers.append(answer)
        self._pending.popleft()
        done(answers)
