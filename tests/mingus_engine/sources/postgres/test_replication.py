"""The replication transport: both ways to read a link, the server's own list of files, and its errors."""

import dataclasses
import json
import random
import socket
import struct
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mingus_engine.errors import BackupBroken, SourceUnsupported
from mingus_engine.postgres import backup_manifest
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.postgres import link as links
from mingus_engine.sources.postgres import open_backup, replication
from mingus_engine.sources.postgres.connection import connect_replication
from mingus_engine.sources.postgres.link import LibpqLink, RawLink, Rows, ServerFailure, take_over
from tests.mingus_engine.sources.postgres.collecting import collect, connection, source
from tests.support.directories import give_tree
from tests.support.fixtures import MakeCluster
from tests.support.postgres import PgCluster
from tests.support.processes import run, unprivileged_user

NEVER = threading.Event()
COMMAND = "BASE_BACKUP (LABEL 'x', CHECKPOINT 'fast', WAIT 0, MANIFEST 'no')"


def ignore(_: str) -> None:
    """Notices."""


@pytest.mark.parametrize("make", [RawLink, LibpqLink])
def test_both_links_give_the_same_events(pg: PgCluster, make: Callable[..., links.Link]) -> None:
    link = make(connect_replication(connection(pg)), NEVER, ignore)
    identity = list(link.run("IDENTIFY_SYSTEM"))
    assert isinstance(identity[0], Rows)
    assert identity[0].rows[0][0] == str(pg.value("select system_identifier from pg_control_system()")).encode()
    assert identity[0].rows[0][3] == b"postgres"
    with pytest.raises(ServerFailure) as caught:
        list(link.run("NONSENSE"))
    assert caught.value.sqlstate == "42601"
    kinds: dict[str, int] = {}
    for event in link.run(COMMAND):
        key = "rows" if isinstance(event, Rows) else chr(event[0])
        kinds[key] = kinds.get(key, 0) + (1 if isinstance(event, Rows) else len(event))
    assert kinds["rows"] == 3
    assert kinds["n"] > 0
    assert kinds["d"] > 20_000_000
    link.close()
    link.close()


def test_a_tls_link_is_left_to_libpq(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15, start=False)
    data = cluster.data_directory
    run(["openssl", "req", "-new", "-x509", "-days", "1", "-nodes", "-subj", "/CN=localhost",
         "-out", data / "server.crt", "-keyout", data / "server.key"])  # fmt: skip
    (data / "server.key").chmod(0o600)
    give_tree(data, unprivileged_user())
    with (data / "postgresql.conf").open("a") as conf:
        conf.write("ssl = on\n")
    cluster.start()
    plain = take_over(connect_replication(connection(cluster, tcp=True)), NEVER, ignore)
    assert isinstance(plain, RawLink)
    plain.close()
    secure = dataclasses.replace(connection(cluster, tcp=True), sslmode="require")
    link = take_over(connect_replication(secure), NEVER, ignore)
    assert isinstance(link, LibpqLink)
    link.close()
    trusting = dataclasses.replace(secure, sslmode="verify-ca", sslrootcert=str(data / "server.crt"))
    got = collect(source(cluster, "replication", connection=trusting))
    assert got.contents[b"PG_VERSION"] == b"15\n"
    distrustful = dataclasses.replace(secure, sslmode="verify-ca", sslrootcert=__file__)
    with pytest.raises(SourceUnsupported):
        connect_replication(distrustful)


def test_the_servers_manifest_is_kept_and_matches(pg: PgCluster) -> None:
    got = collect(source(pg, "replication"))
    manifest = backup_manifest.parse(got.contents[b"mingus-origin/backup_manifest"])
    listed = {file.path: file for file in manifest.files}
    files = {p for p, e in got.entries.items() if e.kind == FileKind.FILE and not p.startswith(b"mingus-")}
    assert set(listed) == files
    for path, file in listed.items():
        assert file.size == len(got.contents[path])
    assert got.check("files as listed by the server").ok
    assert [(r.start, r.end) for r in manifest.wal_ranges] == [(got.start_lsn, got.stop_lsn)]
    json.dumps(dict(got.finished.facts))


def test_a_file_that_does_not_arrive_breaks_the_backup(pg15: PgCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    member = replication.ReplicationBackup._member

    def forgetful(self: Any, file: Any) -> None:
        if file.path != b"PG_VERSION":
            member(self, file)

    monkeypatch.setattr(replication.ReplicationBackup, "_member", forgetful)
    with pytest.raises(BackupBroken, match="backup_manifest lists"):
        collect(source(pg15, "replication"))


def test_a_huge_manifest_is_checked_but_not_kept(pg15: PgCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replication, "MANIFEST_KEPT_MAX_BYTES", 1000)
    got = collect(source(pg15, "replication"))
    assert b"mingus-origin/backup_manifest" not in got.contents
    assert got.check("files as listed by the server").ok


def test_finish_before_the_end_of_the_stream_is_refused(pg15: PgCluster) -> None:
    with open_backup(source(pg15, "replication"), label="x", cancel=threading.Event()) as backup:
        next(backup.items())
        with pytest.raises(BackupBroken, match="has not ended"):
            backup.finish()


def test_labels_are_quoted(pg: PgCluster) -> None:
    got = collect(source(pg, "replication"), label="it's ''quoted'' \\ \"so\"")
    assert b"LABEL: it's ''quoted'' \\ \"so\"\n" in got.contents[b"backup_label"]


@pytest.mark.parametrize(
    ("rate", "expected"),
    [(0, ""), (1, "MAX_RATE 32"), (1 << 20, "MAX_RATE 1024"), (1 << 30, "MAX_RATE 1048576"), (1 << 31, "")],
)
def test_rates_are_cut_to_what_the_server_takes(rate: int, expected: str) -> None:
    command = replication._command("x", verify=True, max_rate=rate)
    assert ("MAX_RATE" in command) == bool(expected)
    assert expected in command


@pytest.mark.parametrize(
    "message",
    [
        'checksum verification failed in file "./base/5/16384", block 12: calculated 1A2B but expected 3C4D',
        'Prüfsummenprüfung fehlgeschlagen in Datei "base/5/16384", Block 12: berechnet 1A2B, erwartet 3C4D',
    ],
)
def test_the_servers_warnings_are_read(message: str) -> None:
    found = replication._BAD_PAGE.search(message)
    assert found is not None
    assert (found[1], found[2]) == ("base/5/16384", "12")


@pytest.mark.parametrize(
    "message",
    [
        'file "base/5/16384" has a total of 9 checksum verification failures',
        'further checksum verification failures in file "base/5/1" will not be reported',
        "2 total checksum verification failures",
    ],
)
def test_summaries_are_not_taken_for_pages(message: str) -> None:
    assert replication._BAD_PAGE.search(message) is None


@pytest.mark.parametrize("size", [4096, 20480])
@pytest.mark.parametrize(
    "message",
    [
        'could not verify checksum in file "./base/5/16384", block 12: read buffer size {} and page size 8192 differ',
        'konnte Prüfsumme in "./base/5/16384", Block 12, nicht prüfen: gelesen {}, Seitengröße 8192 ist anders',
    ],
)
def test_a_page_that_was_cut_off_is_not_taken_for_a_bad_one(message: str, size: int) -> None:
    found = replication._CUT_PAGE.search(message.format(size))
    assert found is not None
    assert int(found[1]) == size
    bad = 'checksum verification failed in file "./base/5/16384", block 12: calculated 1A2B but expected 8192'
    assert replication._CUT_PAGE.search(bad) is None


class FakeServer:
    """The far end of a link: says what the test wants, byte by byte."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.socket = self.ours.fileno()

    def finish(self) -> None:
        self.ours.close()


def message(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">cI", kind, len(body) + 4) + body


def say(*parts: bytes, close: bool = True) -> list[Any]:
    """What a RawLink makes of the bytes, which come in the given portions."""
    fake = FakeServer()
    link = RawLink(fake, NEVER, ignore)  # type: ignore[arg-type]

    def speak() -> None:
        fake.theirs.recv(1000)
        for part in parts:
            fake.theirs.sendall(part)
        if close:
            fake.theirs.close()

    thread = threading.Thread(target=speak)
    thread.start()
    try:
        return [event if isinstance(event, Rows) else bytes(event) for event in link.run("X")]
    finally:
        link.close()
        fake.theirs.close()
        thread.join()


@pytest.mark.parametrize("size", [1, 3, 7, 1000, 40_000])
def test_messages_are_put_together_from_any_portions(size: int) -> None:
    payloads = [bytes([i % 256]) * (i * 997 % 33_000) for i in range(60)]
    stream = b"".join(message(b"d", p) for p in payloads) + message(b"C", b"X\0") + message(b"Z", b"I")
    if size < 10:
        payloads, stream = payloads[:1], message(b"d", payloads[0]) + message(b"C", b"X\0") + message(b"Z", b"I")
    assert say(*(stream[i : i + size] for i in range(0, len(stream), size))) == payloads


def test_a_message_larger_than_the_buffer_is_taken() -> None:
    big = b"x" * (links.RECEIVE_BYTES * 2 + 5)
    assert say(message(b"d", b"a"), message(b"d", big), message(b"d", b"b"), message(b"Z", b"I")) == [b"a", big, b"b"]


@pytest.mark.parametrize(
    "parts",
    [
        (b"",),
        (message(b"d", b"abc")[:-1],),
        (struct.pack(">cI", b"d", 3),),
        (struct.pack(">cI", b"d", 0xFFFFFFFF),),
        (message(b"E", b"SFATAL\0VFATAL\0C57P01\0Mterminating\0\0"),),
    ],
)
def test_a_broken_stream_is_an_error(parts: tuple[bytes, ...]) -> None:
    with pytest.raises(ServerFailure):
        say(*parts)


def test_an_error_ends_the_command_and_says_why() -> None:
    with pytest.raises(ServerFailure, match="no room") as caught:
        say(message(b"d", b"a"), message(b"E", b"SERROR\0VERROR\0C53100\0Mno room\0\0"), message(b"Z", b"I"))
    assert caught.value.sqlstate == "53100"


@pytest.mark.parametrize("portion", [5, 4000, 32_774, 100_000, 10_000_000])
@pytest.mark.parametrize("progress_every", [1, 3, 8, 11, 1000])
def test_contents_are_received_where_they_belong_whatever_comes_in_between(portion: int, progress_every: int) -> None:
    count = 3 if portion == 5 else 40
    content = random.Random(portion).randbytes(count * links.PIECE_BYTES + 1234)
    stream = b""
    for number, at in enumerate(range(0, len(content), links.PIECE_BYTES)):
        if number % progress_every == progress_every - 1:
            stream += message(b"d", b"p" + bytes(8))
        stream += message(b"d", b"d" + content[at : at + links.PIECE_BYTES])
    stream += message(b"C", b"X\0") + message(b"Z", b"I")
    fake = FakeServer()
    link = RawLink(fake, NEVER, ignore)  # type: ignore[arg-type]

    def speak() -> None:
        fake.theirs.recv(1000)
        for at in range(0, len(stream), portion):
            fake.theirs.sendall(stream[at : at + portion])
        fake.theirs.close()

    thread = threading.Thread(target=speak)
    thread.start()
    target, filled, seen = memoryview(bytearray(len(content))), 0, 0
    for event in link.run("X"):
        assert not isinstance(event, Rows)
        if event[:1] == b"d":
            target[filled : filled + len(event) - 1] = event[1:]
            filled += len(event) - 1
        else:
            seen += 1
        while received := link.fill(target[filled:]):
            filled += received
    thread.join()
    link.close()
    assert target == content
    assert seen == (count + 1) // progress_every


def test_a_connection_that_ends_amid_contents_is_an_error() -> None:
    fake = FakeServer()
    link = RawLink(fake, NEVER, ignore)  # type: ignore[arg-type]
    piece = message(b"d", b"d" + bytes(links.PIECE_BYTES))
    fake.theirs.sendall(piece + piece[:-1])
    fake.theirs.close()
    target = memoryview(bytearray(4 * links.PIECE_BYTES))
    with pytest.raises(ServerFailure, match="closed the connection"):
        link.fill(target)
    link.close()
