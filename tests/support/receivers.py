"""Who is told: a real SMTP server and a local HTTP server that keep what they get."""

from __future__ import annotations

import email
import email.policy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller

from tests.support.processes import free_port


class Mailbox:
    """Mails that came in, oldest first."""

    def __init__(self) -> None:
        self.port = free_port()
        self.mails: list[EmailMessage] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        """Keep a mail."""
        self.mails.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 kept"

    def texts(self) -> list[tuple[str, str]]:
        """Subject and plain text of each mail."""
        bodies = [(str(mail["Subject"]), mail.get_body(("plain",))) for mail in list(self.mails)]
        return [(subject, str(body.get_content()) if body is not None else "") for subject, body in bodies]


@contextmanager
def mailbox() -> Iterator[Mailbox]:
    """An SMTP server without TLS or login, for the time of the context."""
    box = Mailbox()
    controller = Controller(box, hostname="127.0.0.1", port=box.port)
    controller.start()
    try:
        yield box
    finally:
        controller.stop()


class Posts:
    """An HTTP server that keeps the bodies of what is posted to it."""

    def __init__(self) -> None:
        self.bodies: list[tuple[str, str]] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                bodies.append((self.path, body))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"ok")

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - the base class' name
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"

    def to(self, path: str) -> list[str]:
        """The bodies posted to a path."""
        return [body for where, body in self.bodies if where == path]


@contextmanager
def posts() -> Iterator[Posts]:
    """A running one."""
    found = Posts()
    thread = threading.Thread(target=found.server.serve_forever, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()
        thread.join(10)
