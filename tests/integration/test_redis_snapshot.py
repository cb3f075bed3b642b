"""Snapshots of real servers: what is stored is what they held, and nothing that is not whole is ever committed."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.errors import (
    SettingsError,
    SourceDenied,
    SourceEmpty,
)
from mingus_engine.jobs.back_up import back_up
from mingus_engine.redis import sample
from mingus_engine.settings import Secret, SourceSettings
from tests.support.fixtures import MakeRedis
from tests.support.redis import BACKUP_RIGHTS, RedisServer
from tests.support.redis_installation import SOURCE, RedisInstallation, digest, installations, snapshot

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "#!lua name=money\nredis.register_function('cents', function(keys, args) return 100 end)"


@pytest.fixture
def install(workspace: Path) -> Iterator[Any]:
    """``install(server, …)`` as ``RedisInstallation.make``."""
    with installations(workspace) as make:
        yield make


def stored(mingus: RedisInstallation) -> dict[str, bytes]:
    """The files of the newest snapshot."""
    return mingus.files(mingus.manifests()[-1])


def loaded(make_redis: MakeRedis, rdb: bytes, **config: Any) -> RedisServer:
    """A server that loaded *rdb*."""
    server = make_redis(start=False, **config)
    (server.directory / "dump.rdb").write_bytes(rdb)
    return server.start()


def furnish(server: RedisServer) -> None:
    """Several databases and types, TTLs, a function."""
    server.fill(500, ttl_s=3600)
    server.fill(50, prefix="cart:", database=5)
    with server.client() as client:
        client.hset("hash", mapping={f"f{i}": i for i in range(200)})
        client.zadd("zset", {"a": 1, "b": 2.5})
        client.rpush("list", *range(200))
        client.xadd("stream", {"a": 1})
        client.xgroup_create("stream", "readers", 0)
        client.function_load(LIBRARY)


TRANSPORTS = pytest.mark.parametrize("transport", ["replication", "bgsave"])


@TRANSPORTS
def test_a_snapshot_holds_what_the_server_held_and_what_explains_it(
    make_redis: MakeRedis, install: Any, transport: str
) -> None:
    server = make_redis(requirepass="not-for-anybodys-eyes", maxmemory="100mb")
    furnish(server)
    mingus = install(server, transport=transport, data_directory=str(server.directory))
    report = snapshot(mingus)
    assert (report.kind, report.flagged, report.keys) == ("redis full", False, 554)
    files = stored(mingus)
    assert sorted(files) == [
        "dump.rdb", "mingus-config/config.json", "mingus-config/functions.bin", "mingus-config/redis.conf",
        "mingus-config/users.acl", "mingus-origin/info.json", "mingus-origin/modules.json", "mingus-origin/sample.json",
    ]  # fmt: skip
    assert digest(loaded(make_redis, files["dump.rdb"])) == digest(server)
    assert json.loads(files["mingus-config/config.json"])["maxmemory"] == str(100 << 20)
    assert b"user default on" in files["mingus-config/users.acl"]
    assert json.loads(files["mingus-origin/info.json"])["server"]["redis_mode"] == "standalone"
    taken = sample.decode(files["mingus-origin/sample.json"], "sample")
    assert taken.unsteady == 0
    assert len(taken.keys) == 554
    assert set(taken.functions or {}) == {"money"}
    facts = mingus.facts(mingus.manifests()[-1])
    (shard,) = facts["shards"]
    assert (facts["engine"], facts["version"][:2], facts["form"]) == ("redis", "7.", "rdb")
    assert shard["quiet"] is (transport == "replication")  # a save resets the count of changes
    assert shard["databases_by"] == "rdb"
    assert {n: (d["keys"], d["expires"]) for n, d in shard["databases"].items()} == {"0": (504, 500), "5": (50, 0)}
    assert shard["rdb"]["bytes"] == len(files["dump.rdb"])
    told = json.dumps([report.as_dict(), facts]) + "".join(mingus.messages)
    assert "not-for-anybodys-eyes" not in told
    if transport == "replication":
        assert (shard["replid"], shard["offset"]) == (server.info()["master_replid"], mingus.manifests()[-1].position)


@pytest.mark.parametrize("diskless", ["yes", "no"])
def test_a_writer_at_work_does_not_disturb_a_snapshot(make_redis: MakeRedis, install: Any, diskless: str) -> None:
    server = make_redis(repl_diskless_sync=diskless)
    server.fill(20000, size=200)
    stop = threading.Event()

    def write() -> None:
        with server.client() as client:
            n = 0
            while not stop.is_set():
                n += 1
                client.set(f"session:{n % 20000}", f"new {n}")
                client.incr("counter")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        mingus = install(server)
        report = snapshot(mingus)
    finally:
        stop.set()
        writer.join()
    files = stored(mingus)
    copy = loaded(make_redis, files["dump.rdb"])
    assert copy.execute("DBSIZE") == report.keys
    assert mingus.facts(mingus.manifests()[-1])["shards"][0]["quiet"] is False
    taken = sample.decode(files["mingus-origin/sample.json"], "sample")
    with copy.client() as client:
        assert all(check.ok for check in sample.compare(taken, sample.again(client, taken), 0))


@TRANSPORTS
def test_an_empty_server_fails_unless_it_may_be_empty(make_redis: MakeRedis, install: Any, transport: str) -> None:
    server = make_redis()
    directory = str(server.directory)
    mingus = install(server, transport=transport, data_directory=directory)
    with pytest.raises(SourceEmpty):
        snapshot(mingus)
    assert mingus.manifests() == []
    allowed = install(server, transport=transport, data_directory=directory, may_be_empty=True)
    report = snapshot(allowed)
    assert not report.flagged
    assert any("which the settings allow" in check["detail"] for check in report.checks)


def test_a_server_that_was_flushed_flags_its_snapshot(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis()
    mingus = install(server)
    client = server.client()
    client.mset({f"session:{i}": "x" for i in range(200)})
    assert not snapshot(mingus).flagged
    client.flushall()
    client.mset({f"session:{i}": "x" for i in range(19)})
    report = snapshot(mingus)
    assert report.flagged
    (size,) = [check for check in report.checks if check["name"] == "size"]
    assert (size["ok"], size["data"]) == (False, {"keys": 19, "before": 200})
    assert not snapshot(mingus).flagged  # nothing was lost since


def test_a_server_that_lost_its_data_between_the_question_and_the_fork_fails(
    make_redis: MakeRedis, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = make_redis()
    server.fill(10)
    mingus = install(server)
    real = sample.take

    def take(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        server.execute("FLUSHALL")
        return found

    monkeypatch.setattr(sample, "take", take)
    with pytest.raises(SourceEmpty):
        snapshot(mingus)
    assert mingus.manifests() == []


def test_a_server_without_checksums_is_walked_and_says_so(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis(rdbchecksum="no")
    furnish(server)
    mingus = install(server)
    report = snapshot(mingus)
    assert any("walked from end to end" in check["detail"] for check in report.checks)
    assert mingus.facts(mingus.manifests()[-1])["shards"][0]["rdb"]["checksum"] is False


def test_an_increment_is_refused(make_redis: MakeRedis, install: Any) -> None:
    mingus = install(make_redis())
    with pytest.raises(SettingsError, match="always a full one"):
        back_up(mingus.settings, SOURCE, context=mingus.context(), incremental=True)


def test_missing_rights_beside_the_rdb_are_said_and_cost_nothing_else(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis(requirepass="root-password")
    server.fill(10)
    server.execute("ACL", "SETUSER", "few", "on", "nopass", "+psync", "+replconf", "+ping", "+info")
    mingus = install(server, connection={**server.connection(), "user": "few", "password_env": ""})
    server.execute("ACL", "SETUSER", "few", ">x")
    mingus.settings = mingus.settings.with_source(_with_password(mingus, "x"))
    report = snapshot(mingus)
    assert not report.flagged
    (lacking,) = [check for check in report.checks if check["name"] == "what is stored beside the RDB"]
    assert all(name in lacking["detail"] for name in ("CONFIG GET", "ACL LIST", "FUNCTION DUMP", "MODULE LIST"))
    assert [name for name in stored(mingus) if name.startswith("mingus-config/")] == ["mingus-config/redis.conf"]
    server.execute("ACL", "SETUSER", "few", "-psync")
    with pytest.raises(SourceDenied):
        snapshot(mingus)


def test_the_documented_rights_are_enough_for_a_whole_snapshot(make_redis: MakeRedis, install: Any) -> None:
    server = make_redis()
    furnish(server)
    server.execute("ACL", "SETUSER", "backup", "on", ">x", *BACKUP_RIGHTS.split())
    mingus = install(server, connection={**server.tcp(), "user": "backup", "password_env": "NOT_SET"})
    mingus.settings = mingus.settings.with_source(_with_password(mingus, "x"))
    report = snapshot(mingus)
    assert not [check for check in report.checks if check["name"] == "what is stored beside the RDB"]
    assert mingus.facts(mingus.manifests()[-1])["shards"][0]["sample"]["keys"] == 554
    text = " ".join((ROOT / "docs" / "OPERATIONS.md").read_text().split())
    assert all(right in text for right in BACKUP_RIGHTS.split())


def _with_password(mingus: RedisInstallation, word: str) -> SourceSettings:
    source = mingus.settings.source(SOURCE)
    connection = replace(source.redis.connection, password=Secret(word))
    return replace(source, redis=replace(source.redis, connection=connection))


def test_no_key_or_password_of_redis_rests_anywhere_in_plain_text(make_redis: MakeRedis, install: Any) -> None:
    word, marker = "a-word-that-nobody-may-see", b"session-marker-8d1f"
    server = make_redis(requirepass=word, masterauth="another-word-like-it", rdbcompression="no")
    server.fill(2000, prefix=marker.decode() + ":")
    mingus = install(server)
    snapshot(mingus)
    needles = (word.encode(), b"another-word-like-it", marker)
    files = [path for path in mingus.root.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert [path for path in files if any(needle in path.read_bytes() for needle in needles)] == []
    assert any(marker in content for content in stored(mingus).values())
