"""Things that go wrong, made to order: small disks, S3 services in a bad mood, deeds at a moment of a job."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mingus_engine.errors import MingusError
from mingus_engine.jobs.context import Progress
from tests.support import processes
from tests.support.s3 import S3Bucket, S3Server

_HOP = {"connection", "transfer-encoding", "keep-alive", "content-length", "date", "server"}


@contextmanager
def small_disk(path: Path, size_bytes: int) -> Iterator[Path]:
    """A file system of *size_bytes* at *path* (made here); needs root and the right to mount."""
    path.mkdir()
    mounted = processes.run(["mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=0755", "tmpfs", path], check=False)
    if mounted.returncode:
        pytest.skip(f"may not mount: {mounted.stderr.strip()}")
    try:
        yield path
    finally:
        processes.run(["umount", "-l", path])


def remount(path: Path, options: str) -> None:
    """Change the options of a mounted small disk, e.g. ``ro``."""
    processes.run(["mount", "-o", f"remount,{options}", path])


def at_first(phase: str, deed: Callable[[], object], *, after_bytes: int = 0) -> Callable[[Progress], None]:
    """An ``on_progress`` that does *deed* once, in the phase that begins so; threads that come meanwhile wait."""
    lock = threading.Lock()
    done: list[bool] = []

    def on_progress(progress: Progress) -> None:
        if done or not f"{progress.phase} {progress.detail}".startswith(phase) or progress.done_bytes < after_bytes:
            return
        with lock:
            if not done:
                try:
                    deed()
                finally:
                    done.append(True)

    return on_progress


@contextmanager
def raises(kind: type[MingusError], exit_code: int, *parts: str, transient: bool | None = None) -> Iterator[Any]:
    """The block raises *kind*; the error has this exit code, a hint, and names what the *parts* say."""
    with pytest.raises(kind) as caught:
        yield caught
    error = caught.value
    assert error.exit_code == exit_code
    assert error.hint, f"no advice with: {error.message}"
    for part in parts:
        assert part in error.message
    if transient is not None:
        assert error.transient is transient


@dataclass
class Mood:
    """What a proxy answers instead of the service. ``answer(method, path, n)`` gives a status, 0 = hang, None = none.

    ``n`` counts the requests from 1.
    """

    answer: Callable[[str, str, int], int | None] = lambda method, path, n: None
    requests: list[str] = field(default_factory=list)


@contextmanager
def moody(bucket: S3Bucket) -> Iterator[tuple[S3Bucket, Mood]]:
    """The same bucket through a proxy on loopback that answers as the mood says."""
    mood = Mood()
    ended = threading.Event()
    upstream = urlsplit(bucket.server.endpoint).netloc

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            mood.requests.append(f"{self.command} {self.path}")
            status = mood.answer(self.command, self.path, len(mood.requests))
            if status == 0:
                ended.wait(60)
                self.close_connection = True
            elif status is not None:
                code = {403: "AccessDenied", 503: "SlowDown"}.get(status, "InternalError")
                self._send(status, {}, f"<Error><Code>{code}</Code><Message>mood</Message></Error>".encode())
            else:
                connection = HTTPConnection(upstream, timeout=30)
                try:
                    connection.request(self.command, self.path, body, dict(self.headers))
                    answer = connection.getresponse()
                    self._send(answer.status, dict(answer.getheaders()), answer.read())
                finally:
                    connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = handle_any  # noqa: N815 - the names of http.server

        def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
            self.send_response(status)
            length = len(body)
            for name, value in headers.items():
                if self.command == "HEAD" and name.lower() == "content-length":
                    length = int(value)
                if name.lower() not in _HOP:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        of = bucket.server
        endpoint = f"http://127.0.0.1:{server.server_port}"
        yield S3Bucket(S3Server("proxy", endpoint, of.access_key, of.secret_key, of.region), bucket.name), mood
    finally:
        ended.set()
        server.shutdown()
        thread.join()
        server.server_close()
