"""Connecting: every way in, every refusal as the error a person understands, no password in any text."""

import dataclasses
import socket
import ssl
import threading
from pathlib import Path

import pytest
import redis

from mingus_engine.errors import Cancelled, SourceDenied, SourceError, SourceUnreachable, SourceUnsupported
from mingus_engine.redis.client import client_error, connected, mapped, place
from mingus_engine.redis.link import Link
from mingus_engine.settings import RedisConnection, Secret
from tests.support.fixtures import MakeRedis
from tests.support.processes import free_port, run

WORD = "a-word-that-nobody-may-see"
NEVER = threading.Event()


def both_fail(conn: RedisConnection, kind: type[Exception]) -> list[str]:
    """Both kinds of connections fail by *kind*; their messages."""
    with pytest.raises(kind) as of_client, connected(conn) as client, mapped(conn, "asking"):
        client.ping()
    with pytest.raises(kind) as of_link, Link(conn, NEVER) as link:
        link.command("PING")
    return [str(of_client.value), str(of_link.value)]


def both_answer(conn: RedisConnection) -> None:
    with connected(conn) as client:
        assert client.ping() is True
    with Link(conn, NEVER) as link:
        assert link.command("PING") == "PONG"


def test_a_server_answers_by_socket_by_tcp_and_to_an_acl_user(make_redis: MakeRedis) -> None:
    server = make_redis(user=f"backup on >{WORD} +ping", requirepass="other")
    for way in (server.connection(), server.tcp()):
        both_answer(RedisConnection(**way, password=Secret("other")))
        both_answer(RedisConnection(**{**way, "user": "backup"}, password=Secret(WORD)))


def test_a_wrong_or_missing_password_is_denied_and_shown_by_nobody(make_redis: MakeRedis) -> None:
    server = make_redis(requirepass="other")
    wrong = RedisConnection(**server.tcp(), password=Secret(WORD))
    messages = [
        *both_fail(wrong, SourceDenied),
        *both_fail(dataclasses.replace(wrong, user="nobody"), SourceDenied),
        *both_fail(RedisConnection(**server.tcp(), password_env="NOT_SET"), SourceDenied),
    ]
    assert not any(WORD in text for text in messages)
    assert all(f"Redis at 127.0.0.1:{server.port}" in text for text in messages)


def test_a_server_that_repeats_a_renamed_auth_shows_no_password(make_redis: MakeRedis) -> None:
    server = make_redis(rename_command='AUTH ""')
    messages = both_fail(RedisConnection(**server.tcp(), password=Secret(WORD)), SourceUnsupported)
    assert all("unknown command" in text and WORD not in text for text in messages)


def test_nobody_listening_is_unreachable(workspace: Path) -> None:
    both_fail(RedisConnection(host="127.0.0.1", port=free_port(), user=""), SourceUnreachable)
    both_fail(RedisConnection(socket=str(workspace / "none"), user=""), SourceUnreachable)


def test_a_server_without_a_free_connection_is_unreachable(make_redis: MakeRedis) -> None:
    server = make_redis(maxclients=2)
    held = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2)]
    with held[0], held[1]:
        for one in held:
            one.sendall(b"PING\r\n")
            assert one.recv(7) == b"+PONG\r\n"
        both_fail(RedisConnection(**server.tcp()), SourceUnreachable)


def test_tls_verifies_the_certificate_and_its_name(make_redis: MakeRedis, workspace: Path) -> None:
    for name in ("localhost", "elsewhere"):
        run(["openssl", "req", "-new", "-x509", "-days", "1", "-nodes", "-subj", f"/CN={name}",
             "-addext", f"subjectAltName=DNS:{name}",
             "-out", workspace / f"{name}.crt", "-keyout", workspace / f"{name}.key"])  # fmt: skip
    port = free_port()
    server = make_redis(
        tls_port=port, tls_cert_file=workspace / "localhost.crt", tls_key_file=workspace / "localhost.key",
        tls_ca_cert_file=workspace / "localhost.crt", tls_auth_clients="yes", requirepass=WORD,
    )  # fmt: skip
    conn = RedisConnection(
        host="localhost", port=port, tls=True, ca_file=str(workspace / "localhost.crt"), password=Secret(WORD), user="",
        cert_file=str(workspace / "localhost.crt"), key_file=str(workspace / "localhost.key"),
    )  # fmt: skip
    both_answer(conn)
    assert "localhost" in place(conn)
    both_fail(dataclasses.replace(conn, host="127.0.0.1"), SourceUnsupported)  # the certificate names another
    both_fail(dataclasses.replace(conn, ca_file=""), SourceUnsupported)
    both_fail(dataclasses.replace(conn, ca_file=str(workspace / "elsewhere.crt")), SourceUnsupported)
    # Without a password nothing was said before the first command.
    server.execute("CONFIG", "SET", "requirepass", "")
    server.password = None
    both_answer(dataclasses.replace(conn, password=None, password_env=""))
    # The server refuses after the handshake, or cuts the connection first.
    both_fail(dataclasses.replace(conn, cert_file="", key_file=""), SourceError)
    # TLS to a plain port, where the server waits for the end of a command that never ends.
    deaf = dataclasses.replace(conn, port=server.port, connect_timeout_s=1)
    with pytest.raises(SourceUnreachable), connected(deaf, timeout_s=1):
        pass
    with pytest.raises(SourceUnreachable), Link(deaf, NEVER):
        pass
    with pytest.raises(SourceUnreachable), Link(dataclasses.replace(conn, tls=False), NEVER) as link:
        link.command("PING")


def test_a_link_gives_lines_then_bytes_and_nothing_is_lost_between(make_redis: MakeRedis) -> None:
    server = make_redis()
    value = bytes(range(256)) * 1024
    with server.client() as client:
        client.set("k", value)
    with Link(RedisConnection(**server.connection()), NEVER) as link:
        link.send("GET", "k")
        assert link.line(5) == b"$%d" % len(value)
        got = bytearray(len(value) + 2)
        filled = 0
        while filled < len(got):
            filled += link.fill(memoryview(got)[filled:], 5)
        assert bytes(got[:-2]) == value
        assert link.command("PING") == "PONG"


def test_a_silent_server_is_given_up_and_a_cancelled_wait_ends(make_redis: MakeRedis) -> None:
    server = make_redis()
    cancel = threading.Event()
    with Link(RedisConnection(**server.connection()), cancel) as link:
        server.pause()
        link.send("PING")
        with pytest.raises(SourceUnreachable, match="nothing for"):
            link.line(0.3)
        cancel.set()
        with pytest.raises(Cancelled):
            link.line(30)
        server.resume()


def test_a_killed_server_ends_what_waits(make_redis: MakeRedis) -> None:
    server = make_redis()
    with Link(RedisConnection(**server.connection()), NEVER) as link:
        server.kill()
        with pytest.raises(SourceUnreachable):
            link.command("PING")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ssl.SSLError("[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed"), SourceUnreachable),
        (ssl.SSLEOFError("EOF occurred in violation of protocol (_ssl.c:2427)"), SourceUnreachable),
        (ConnectionResetError(104, "Connection reset by peer"), SourceUnreachable),
        (ssl.SSLError("[SSL: TLSV13_ALERT_CERTIFICATE_REQUIRED] tlsv13 alert certificate required"), SourceUnsupported),
        (ssl.SSLCertVerificationError("certificate verify failed: Hostname mismatch"), SourceUnsupported),
        (PermissionError(13, "Permission denied"), SourceDenied),
        (redis.ResponseError("MISCONF Redis is configured to save"), SourceUnsupported),
        (redis.exceptions.MaxConnectionsError("too many"), SourceUnreachable),
    ],
)
def test_what_may_pass_is_told_from_what_somebody_must_change(error: Exception, kind: type[SourceError]) -> None:
    found = client_error(RedisConnection(host="h", port=1, user=""), error, "receiving")
    assert type(found) is kind
    assert found.hint
