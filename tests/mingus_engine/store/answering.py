"""A tiny HTTP(S) server on loopback that answers every request as a test says."""

import datetime as dt
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mingus_engine.settings import S3Settings
from mingus_engine.store.s3 import S3Store

SECRET = "the-secret-key-of-this-test"
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "the-key-id-of-this-test", "AWS_SECRET_ACCESS_KEY": SECRET}


@dataclass
class Request:
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass
class Answer:
    """``cut``: send only so many bytes of the body, then close; ``wait_for``: answer only when it is set."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    wait_for: threading.Event | None = None


def error(status: int, code: str, message: str = "no reason given") -> Answer:
    text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
    return Answer(status, text.encode())


@dataclass
class Server:
    url: str
    requests: list[Request]


@contextmanager
def answering(reply: Callable[[Request], Answer], tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    requests: list[Request] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            request = Request(self.command, self.path, dict(self.headers), body)
            requests.append(request)
            said = reply(request)
            if said.wait_for is not None:
                said.wait_for.wait(60)
            self.send_response_only(said.status)
            usual = {"Content-Length": str(len(said.body)), "Date": self.date_time_string()}
            for name, value in {**usual, **said.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said.body[: said.cut])
            if said.cut is not None:
                self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = answer  # noqa: N815 - names given by http.server

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    server.handle_error = lambda *arguments: None  # type: ignore[method-assign]  # clients that hang up are the test
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield Server(f"http{'s' if tls else ''}://127.0.0.1:{server.server_port}", requests)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def store_of(url: str, **changes: object) -> Iterator[S3Store]:
    """A store of the bucket ``bucket`` at a server of this module."""
    values = {"bucket": "bucket", "endpoint": url, "tls": url.startswith("https"), "checksum": "none"}
    store = S3Store(S3Settings(**{**values, **changes}), ENVIRONMENT)  # type: ignore[arg-type]
    try:
        yield store
    finally:
        store.close()


@contextmanager
def serving(reply: Callable[[Request], Answer], **changes: object) -> Iterator[tuple[Server, S3Store]]:
    """A server and a store of it, both ended after the test."""
    with answering(reply) as server, store_of(server.url, **changes) as store:
        yield server, store


def self_signed(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS context with a certificate of its own for 127.0.0.1, and the PEM file that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    present = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(present - dt.timedelta(days=1))
        .not_valid_after(present + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    public = directory / "certificate.pem"
    public.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private = directory / "key.pem"
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(public, private)
    return context, public
