"""One socket to a server, for what is no command and answer: replication.

A server sends there what it wants when it wants: newlines while it forks, an RDB of unknown length, the command stream.
So this gives bytes as they come, into memory of the caller. Source: Redis documentation "Redis serialization protocol
specification", ``replication.c``.
"""

from __future__ import annotations

import socket
import ssl
import threading
import time
from types import TracebackType
from typing import Self

from mingus_engine.errors import Cancelled, SourceError, SourceUnreachable
from mingus_engine.redis import client
from mingus_engine.settings import RedisConnection

_POLL_S = 0.25
# Of lines; what comes with them stays for ``fill``. Redis' own protocol lines are at most 64 KiB.
_BUFFER_BYTES = 64 * 1024
_KEEPALIVE = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))


class Link:
    """An authenticated socket; a context manager. Used by one thread, except ``send``, which any may call.

    :param cancel: ends whatever waits soon after it is set, by :class:`Cancelled`.
    :raises SourceUnreachable, SourceDenied, SourceUnsupported: it could not be made.
    """

    def __init__(self, conn: RedisConnection, cancel: threading.Event) -> None:
        self.conn, self._cancel = conn, cancel
        self._buffer = bytearray(_BUFFER_BYTES)
        self._begin = self._end = 0
        self._sending = threading.Lock()
        self._socket = _connected(conn)
        try:
            self._socket.settimeout(_POLL_S)
            self._authenticate()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """The server sees the end of the connection and lets go of what it kept for it. Idempotent."""
        self._socket.close()

    def fileno(self) -> int:
        """For ``select``. With TLS, bytes may be there already that it does not see."""
        return self._socket.fileno()

    def send(self, *parts: bytes | str | int) -> None:
        """Send one command, without waiting for an answer.

        :raises SourceUnreachable: the connection is cut. :raises Cancelled:
        """
        self.write(command_bytes(*parts))

    def write(self, encoded: bytes) -> None:
        """Send commands as they go over the wire, see :func:`command_bytes`; errors as of :meth:`send`."""
        left = memoryview(encoded)
        deadline = time.monotonic() + client.COMMAND_TIMEOUT_S
        with self._sending:
            while left:
                try:
                    left = left[self._socket.send(left) :]
                    deadline = time.monotonic() + client.COMMAND_TIMEOUT_S
                except TimeoutError:
                    self._wait(deadline, client.COMMAND_TIMEOUT_S, "sending")
                except OSError as error:
                    raise client.client_error(self.conn, error, "sending") from None

    def command(self, *parts: bytes | str | int, timeout_s: float = client.COMMAND_TIMEOUT_S) -> str:
        """Send a command and return its answer of one line, without the type byte.

        :raises SourceError: the server's error, see ``client.reply_error``; or no answer.
        """
        self.send(*parts)
        text = self.line(timeout_s).decode("utf-8", "replace")
        if text.startswith("-"):
            raise client.reply_error(self.conn, text[1:], str(parts[0]))
        return text[1:]

    def line(self, timeout_s: float) -> bytes:
        r"""The next line, without ``\r\n``; may be empty, which is how a server says that it is still at work.

        :raises SourceUnreachable: none within *timeout_s*, or the connection is cut. :raises Cancelled:
        """
        line = bytearray()
        while True:
            found = self._buffer.find(b"\n", self._begin, self._end)
            behind = found + 1 if found >= 0 else self._end
            line += self._buffer[self._begin : behind]
            self._begin = behind
            if found >= 0:
                return bytes(line).rstrip(b"\r\n")
            if len(line) > _BUFFER_BYTES:
                raise SourceUnreachable(f"{client.place(self.conn)}: sends no Redis protocol")
            self._begin, self._end = 0, 0
            self._end = self._receive(memoryview(self._buffer), timeout_s)
            if not self._end:
                raise SourceUnreachable(f"{client.place(self.conn)}: the server closed the connection")

    def fill(self, target: memoryview, timeout_s: float) -> int:
        """Receive what is there into *target*, which is not empty; how much, 0 = the server closed the connection.

        :raises SourceUnreachable: nothing within *timeout_s*, or the connection is cut. :raises Cancelled:
        """
        held = min(self._end - self._begin, len(target))
        if held:
            target[:held] = self._buffer[self._begin : self._begin + held]
            self._begin += held
            return held
        return self._receive(target, timeout_s)

    def _receive(self, target: memoryview, timeout_s: float) -> int:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                return self._socket.recv_into(target)
            except TimeoutError:
                self._wait(deadline, timeout_s, "waiting for bytes")
            except ssl.SSLEOFError:
                return 0
            except OSError as error:
                raise client.client_error(self.conn, error, "receiving") from None

    def _wait(self, deadline: float, timeout_s: float, doing: str) -> None:
        if self._cancel.is_set():
            raise Cancelled("the backup was cancelled")
        if time.monotonic() > deadline:
            raise SourceUnreachable(f"{client.place(self.conn)}: {doing}: nothing for {timeout_s:g} s")

    def _authenticate(self) -> None:
        secret = client.password_of(self.conn)
        if secret is not None:
            user = (self.conn.user,) if self.conn.user else ()
            self.command("AUTH", *user, secret.reveal(), timeout_s=self.conn.connect_timeout_s)


def command_bytes(*parts: bytes | str | int) -> bytes:
    """One command as it goes over the wire."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in encoded)


def _connected(conn: RedisConnection) -> socket.socket:
    try:
        if conn.socket:
            plain = socket.socket(socket.AF_UNIX)
            plain.settimeout(conn.connect_timeout_s)
            try:
                plain.connect(conn.socket)
            except BaseException:
                plain.close()
                raise
            return plain
        plain = socket.create_connection((conn.host, int(conn.port)), conn.connect_timeout_s)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE:
            if hasattr(socket, name):
                plain.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
        if not conn.tls:
            return plain
        try:
            return client.tls_context(conn).wrap_socket(plain, server_hostname=conn.host)
        except BaseException:
            plain.close()
            raise
    except OSError as error:
        raise _connect_error(conn, error) from None


def _connect_error(conn: RedisConnection, error: OSError) -> SourceError:
    return client.client_error(conn, error, "connecting")
