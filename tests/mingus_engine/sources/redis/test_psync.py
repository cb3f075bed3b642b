"""What servers answer to a reader of the stream, also the strange ones, as errors that people understand."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from mingus_engine.errors import BackupBroken, MingusError, SourceDenied, SourceUnreachable, SourceUnsupported
from mingus_engine.redis.link import Link
from mingus_engine.settings import RedisConnection
from mingus_engine.sources.redis import psync
from mingus_engine.sources.redis.rdb_stream import Framing

REPLID = "ab" * 20
MARK = "0123456789" * 4
OK = (b"+OK\r\n",) * 3  # capa, listening-port, rdb-only
FULL = f"+FULLRESYNC {REPLID} 4711\r\n".encode()


@contextmanager
def answering(*answers: bytes) -> Iterator[Link]:
    """A link to a server that gives one answer to each command, and then waits."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        done = threading.Event()

        def serve() -> None:
            one, _ = listener.accept()
            with one:
                for answer in answers:
                    one.recv(4096)
                    one.sendall(answer)
                done.wait(10)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            conn = RedisConnection(host="127.0.0.1", port=listener.getsockname()[1], user="", password_env="")
            with Link(conn, threading.Event()) as link:
                yield link
        finally:
            done.set()
            thread.join()


def answered(*answers: bytes) -> psync.FullSync:
    with answering(*answers) as link:
        return psync.full_sync(link, 1.0)


def test_a_length_or_a_mark_says_how_the_rdb_ends() -> None:
    found = answered(*OK, FULL + b"\n\n$12345\r\n")
    assert found == psync.FullSync(REPLID, 4711, Framing(length=12345), rdb_only=True)
    found = answered(*OK, b"\n" + FULL + f"$EOF:{MARK}\r\n".encode())
    assert found.framing == Framing(mark=MARK.encode())


def test_an_old_server_knows_neither_no_port_nor_rdb_only() -> None:
    unknown = b"-ERR Unrecognized REPLCONF option: rdb-only\r\n"
    assert not answered(OK[0], unknown, unknown, FULL + b"$9\r\n").rdb_only


@pytest.mark.parametrize(
    ("answers", "kind"),
    [
        ((b"-NOPERM this user has no permissions to run the 'replconf' command\r\n",), SourceDenied),
        ((b"-NOAUTH Authentication required.\r\n",), SourceDenied),
        ((b"-ERR unknown command 'REPLCONF'\r\n",), SourceUnsupported),
        ((*OK, b"-NOPERM this user has no permissions to run the 'psync' command\r\n"), SourceDenied),
        ((*OK, b"-NOMASTERLINK Can't SYNC while not connected with my master\r\n"), SourceUnreachable),
        ((*OK, b"-LOADING Redis is loading the dataset in memory\r\n"), SourceUnreachable),
        ((*OK, b"-ERR BGSAVE failed, replication can't continue\r\n"), BackupBroken),
        ((*OK, b"-MISCONF Errors writing to the AOF file\r\n"), BackupBroken),
        ((*OK, b"-ERR unknown command 'PSYNC'\r\n"), SourceUnsupported),
        ((*OK, b"+CONTINUE\r\n"), SourceUnsupported),
        ((*OK, b"+FULLRESYNC nonsense 1\r\n"), SourceUnsupported),
        ((*OK, FULL + b"-ERR could not fork\r\n"), BackupBroken),
        ((*OK, FULL + b"$-1\r\n"), SourceUnsupported),
        ((*OK, FULL + b"$EOF:short\r\n"), SourceUnsupported),
        ((*OK, FULL + b"REDIS0010"), BackupBroken),  # no line's end ever comes
        ((*OK, FULL), BackupBroken),
        ((*OK, b"\n\n\n"), BackupBroken),
        ((*OK, b"x" * 70_000), SourceUnreachable),
    ],
)
def test_every_other_answer_is_an_error(answers: Sequence[bytes], kind: type[MingusError]) -> None:
    with pytest.raises(kind):
        answered(*answers)
