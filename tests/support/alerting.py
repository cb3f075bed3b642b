"""Servers that take alerts: a real SMTP server (plain, STARTTLS, with login), and HTTP in the place of Slack."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import email
import ipaddress
import json
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, LoginPassword
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.processes import free_port


@dataclass
class MailServer:
    """What it took, and how it answers.

    :param refuse: an answer to every mail instead of taking it, as ``451 busy``; empty = take it.
    :param gate: clear = it does not answer to DATA until it is set.
    """

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[list[str]] = field(default_factory=list)
    refuse: str = ""
    gate: threading.Event = field(default_factory=threading.Event)
    logins: list[str] = field(default_factory=list)

    def handle_message(self, data: bytes, to: list[str]) -> str:
        """Take a mail, or refuse it."""
        if self.refuse:
            return self.refuse
        self.recipients.append(to)
        self.mails.append(email.message_from_bytes(data, policy=default))
        return "250 taken"


class _Handler:
    def __init__(self, server: MailServer) -> None:
        self._server = server

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        await asyncio.get_running_loop().run_in_executor(None, self._server.gate.wait, 60)
        return self._server.handle_message(envelope.content, list(envelope.rcpt_tos))


@contextlib.contextmanager
def mail_server(
    *, certificate: tuple[Path, Path] | None = None, user: str = "", password: str = ""
) -> Iterator[MailServer]:
    """An SMTP server on loopback.

    :param certificate: PEM files of certificate and key: STARTTLS is offered and demanded. :param user: login is
        demanded.
    """
    server = MailServer()
    server.gate.set()
    options: dict[str, Any] = {}
    if certificate:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate)
        options |= {"tls_context": context, "require_starttls": True}
    if user:

        def authenticate(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
            ok = isinstance(data, LoginPassword) and (data.login, data.password) == (user.encode(), password.encode())
            server.logins.append(user if ok else "refused")
            return AuthResult(success=ok, handled=False)

        options |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": bool(certificate)}
    controller = Controller(_Handler(server), hostname="127.0.0.1", port=free_port(), **options)
    controller.start()
    server.port = controller.port
    try:
        yield server
    finally:
        server.gate.set()
        controller.stop()


@dataclass
class HttpAnswer:
    """What an HTTP request is answered with. ``after``: waited for before."""

    status: int = 200
    body: str = "ok"
    headers: dict[str, str] = field(default_factory=dict)
    after: threading.Event | None = None


@dataclass
class SlackServer:
    """HTTP in the place of Slack; ``answers`` are given in turn, the last one again and again."""

    url: str = ""
    posts: list[dict[str, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    answers: list[HttpAnswer] = field(default_factory=lambda: [HttpAnswer()])

    def next(self) -> HttpAnswer:
        """The next answer."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextlib.contextmanager
def slack_server() -> Iterator[SlackServer]:
    """An HTTP server on loopback that notes what is posted."""
    slack = SlackServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            slack.posts.append(json.loads(body))
            slack.paths.append(self.path)
            slack.tokens.append(self.headers.get("Authorization", ""))
            answer = slack.next()
            if answer.after is not None:
                answer.after.wait(60)
            with contextlib.suppress(OSError):
                self.send_response(answer.status)
                for name, value in answer.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the signature of http.server
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    slack.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield slack
    finally:
        for answer in slack.answers:
            if answer.after is not None:
                answer.after.set()
        server.shutdown()
        server.server_close()
        thread.join()


def certificate_of(directory: Path, *, name: str = "127.0.0.1") -> tuple[Path, Path]:
    """A certificate signed by itself for an address, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = directory / "certificate.pem", directory / "key.pem"
    paths[0].write_bytes(built.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
