"""A TCP proxy in front of a Redis that harms the connection on which a snapshot is sent, and no other."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

_PIECE_BYTES = 64 * 1024


@dataclass
class Proxy:
    """Passes everything on, except on connections that have sent ``PSYNC``: there the server's bytes are harmed.

    Bytes are counted from the server's answer to PSYNC on.

    :ivar cut_at: close the connection there. :ivar flip_at: change a bit of the byte there. :ivar stall_at: pass
        nothing on from there. :ivar snapshots: connections that sent PSYNC. :ivar reached: a harm was done.
    """

    target: int
    cut_at: int | None = None
    flip_at: int | None = None
    stall_at: int | None = None
    snapshots: int = 0
    port: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    _closing: threading.Event = field(default_factory=threading.Event)

    def connection(self) -> dict[str, Any]:
        """How it is reached, as fields of ``RedisConnection``."""
        return {"host": "127.0.0.1", "port": self.port, "user": ""}

    def _serve(self, listener: socket.socket) -> None:
        while not self._closing.is_set():
            try:
                near, _ = listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            asked = threading.Event()
            for source, sink, down in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pass, args=(source, sink, asked, down), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, asked: threading.Event, down: bool) -> None:
        passed = 0
        source.settimeout(0.2)
        with suppress(OSError):
            while not self._closing.is_set():
                try:
                    data = source.recv(_PIECE_BYTES)
                except TimeoutError:
                    continue
                if not data:
                    break
                if not down and b"PSYNC" in data:
                    asked.set()
                    self.snapshots += 1
                if not down and sink.fileno() < 0:
                    continue  # cut: what the reader still says goes nowhere
                kept: bytes | None = data
                if down and asked.is_set():
                    kept, passed = self._harmed(data, passed), passed + len(data)
                if kept is None:
                    # All that was passed on arrives, then the end; the other direction closes when the reader does.
                    source.close()
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(kept)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _harmed(self, data: bytes, passed: int) -> bytes | None:
        """*data*, which comes after *passed* bytes, as it arrives; ``None``: cut."""

        def here(at: int | None) -> bool:
            return at is not None and passed <= at < passed + len(data)

        if here(self.cut_at):
            self.reached.set()
            return None
        if self.stall_at is not None and passed + len(data) > self.stall_at:
            self.reached.set()
            self._closing.wait()
            return None
        if self.flip_at is not None and here(self.flip_at):
            self.reached.set()
            changed = bytearray(data)
            changed[self.flip_at - passed] ^= 0x10
            return bytes(changed)
        return data


@contextmanager
def proxied(target: int, **harm: Any) -> Iterator[Proxy]:
    """A proxy to the loopback port *target*, closed at the end; *harm* as fields of :class:`Proxy`."""
    proxy = Proxy(target, **harm)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.2)
        proxy.port = listener.getsockname()[1]
        thread = threading.Thread(target=proxy._serve, args=(listener,))
        thread.start()
        try:
            yield proxy
        finally:
            proxy._closing.set()
            thread.join()
