"""Restore tests of Redis: what is proven, and what refutes a snapshot on which rung."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.checks import Check
from mingus_engine.errors import ComponentMissing, SettingsError, TargetTooSmall
from mingus_engine.jobs.redis import restore_test
from mingus_engine.jobs.verify import VerificationRefuted, VerifyReport
from mingus_engine.redis import sample
from mingus_engine.redis.rdb_format import crc64
from mingus_engine.redis.sample import Sample
from mingus_engine.targets.redis.server import ThrowAwayRedis
from tests.mingus_engine.jobs.redis.starting import killed
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_data import fill_every_encoding
from tests.support.redis_snapshots import RedisRepository, append_only_files, flipped, snapshot_of

RDB = b"dump.rdb"


def check_of(report: VerifyReport, name: str) -> Check:
    """The check *name*."""
    (found,) = (check for check in report.checks if check["name"] == name)
    return Check(**found)


def refuted(repository: RedisRepository, level: str = "L4", **values: Any) -> dict[str, str]:
    """Name → detail of the checks that failed; the scratch directory must be gone."""
    with pytest.raises(VerificationRefuted) as failure:
        repository.verify(level, **values)
    assert list((repository.root / "state" / "scratch").glob("*")) == [] or level < "L3"
    return {check["name"]: check["detail"] for check in failure.value.report.checks if not check["ok"]}


@pytest.fixture
def server(make_redis: MakeRedis) -> RedisServer:
    """Sessions that expire, and what does not."""
    server = make_redis()
    server.fill(300, ttl_s=3600)
    server.fill(200, prefix="account:", database=2)
    server.execute("XADD", "payments", "1-1", "amount", "5")
    server.execute("XGROUP", "CREATE", "payments", "ledger", "0")
    server.execute("FUNCTION", "LOAD", "#!lua name=lib\nredis.register_function('f', function() return 1 end)")
    return server


def test_every_encoding_is_proven(make_redis: MakeRedis, repository: RedisRepository) -> None:
    server = make_redis()
    keys = fill_every_encoding(server)
    repository.take(server)
    report = repository.verify()
    assert report.ok
    assert sum(check_of(report, "L4 keys").data["databases"].values()) == keys
    assert check_of(report, "L4 sampled keys").data == {"keys": keys, "missing": 0, "changed": 0, "expired": 0}
    assert check_of(report, "L4 function libraries").ok
    assert report.rto_s is not None
    assert report.rpo_s is not None


def test_keys_that_have_expired_since_are_counted_apart(make_redis: MakeRedis, repository: RedisRepository) -> None:
    server = make_redis()
    server.fill(10)
    server.execute("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    with server.client() as client:
        for n in range(20):
            client.set(f"short:{n}", n, px=300)
        due = client.pexpiretime("short:19")
    repository.take(server)
    wait_until(lambda: time.time() * 1000 > due, "the last of them has expired")
    report = repository.verify()
    assert check_of(report, "L4 keys").data == {"databases": {"0": 10}, "expired": 20}
    assert check_of(report, "L4 sampled keys").data["expired"] == 20


@pytest.mark.parametrize("place", [9, 60, -200, -1])
def test_a_flipped_bit_that_was_stored_is_refuted_on_the_second_rung(
    server: RedisServer, repository: RedisRepository, place: int
) -> None:
    files, _ = snapshot_of(server)
    raw = files[RDB]
    repository.take(server, {RDB: flipped(raw, place % len(raw))})
    assert repository.verify("L1").ok
    assert set(refuted(repository, "L2")) == {"L2 content"}
    assert set(refuted(repository, "L3")) == {"L3 restore"}


def test_a_stale_tail_that_redis_check_rdb_accepts_is_refuted(
    server: RedisServer, repository: RedisRepository, workspace: Path
) -> None:
    files, _ = snapshot_of(server)
    longer = files[RDB] + files[RDB][-1000:]
    (workspace / "dump.rdb").write_bytes(longer)
    subprocess.run(["redis-check-rdb", workspace / "dump.rdb"], check=True, capture_output=True)
    repository.take(server, {RDB: longer})
    assert set(refuted(repository, "L2")) == {"L2 content"}
    assert "is not whole" in refuted(repository)["L3 restore"]


def test_a_flip_in_a_pack_is_refuted_by_its_name(server: RedisServer, repository: RedisRepository) -> None:
    repository.take(server)
    (name, *_) = repository.made.names("packs/")
    path = repository.made.path(name)
    path.chmod(0o600)
    path.write_bytes(flipped(path.read_bytes(), path.stat().st_size // 2))
    assert name in refuted(repository, "L1")["L1 stored SHA-256"]


def with_sample(server: RedisServer, change: Callable[[Sample], Sample]) -> dict[bytes, bytes]:
    files, _ = snapshot_of(server)
    return {sample.SAMPLE_PATH: change(sample.decode(files[sample.SAMPLE_PATH], "sample")).encode()}


def _other_digest(found: Sample) -> Sample:
    first = next(key for key in found.keys if key.digest)
    return Sample([first._replace(digest="00" * 16), *found.keys[1:]], found.functions)


def _more_keys(found: Sample) -> Sample:
    return Sample([*found.keys, found.keys[0]._replace(key=b"was there", expires_at_ms=-1)], found.functions)


def _other_expiry(found: Sample) -> Sample:
    return Sample([key._replace(expires_at_ms=key.expires_at_ms + 1) for key in found.keys], found.functions)


def _other_function(found: Sample) -> Sample:
    return Sample(found.keys, {**(found.functions or {}), "lost": "00" * 32})


@pytest.mark.parametrize(
    ("change", "check", "says"),
    [
        (_other_digest, "L4 sampled keys", "1 different"),
        (_more_keys, "L4 sampled keys", "1 missing"),
        (_other_expiry, "L4 sampled keys", "different"),
        (_other_function, "L4 functions", "differ: lost"),
    ],
)
def test_what_was_sampled_must_be_there(
    server: RedisServer, repository: RedisRepository, change: Callable[[Sample], Sample], check: str, says: str
) -> None:
    repository.take(server, with_sample(server, change))
    failed = refuted(repository)
    assert set(failed) == {check}
    assert says in failed[check]


@pytest.mark.parametrize(
    ("databases", "by"),
    [
        ({"0": {"keys": 301, "expires": 300}, "2": {"keys": 201, "expires": 0}}, "info"),
        ({"0": {"keys": 300, "expires": 299}, "2": {"keys": 200, "expires": 0}}, "rdb"),
        ({"0": {"keys": 301, "expires": 300}, "2": {"keys": 200, "expires": 0}, "7": {"keys": 1, "expires": 0}}, "rdb"),
    ],
)
def test_recorded_numbers_of_keys_must_be_in_the_rdb(
    server: RedisServer, repository: RedisRepository, databases: dict[str, Any], by: str
) -> None:
    repository.take(server, shard={"databases": databases, "databases_by": by})
    assert set(refuted(repository, "L3")) == {"L3 recorded keys"}


def test_a_busy_server_may_differ_a_little_from_what_it_counted(
    server: RedisServer, repository: RedisRepository
) -> None:
    counted = {"0": {"keys": 320, "expires": 310}, "2": {"keys": 190, "expires": 0}}
    repository.take(server, shard={"databases": counted, "quiet": False})
    assert repository.verify("L3").ok


def test_another_snapshot_with_the_facts_of_this_one_is_refuted(
    server: RedisServer, make_redis: MakeRedis, repository: RedisRepository
) -> None:
    other, _ = snapshot_of(make_redis())
    repository.take(server, {RDB: other[RDB]})
    assert "0 keys" in refuted(repository, "L3")["L3 recorded keys"]


def test_an_append_only_file_is_proven_command_by_command(make_redis: MakeRedis, repository: RedisRepository) -> None:
    server = make_redis(appendonly="yes")
    server.fill(100)
    files = append_only_files(server)
    repository.take(server, {RDB: None, **files}, form="aof")
    read = repository.verify("L2")
    assert check_of(read, "L2 append-only file").detail.endswith("incr.aof: 101 commands")  # with its SELECT
    assert repository.verify("L3").ok
    report = repository.verify()
    assert check_of(report, "L4 redis-check-aof").ok
    assert check_of(report, "L4 keys").detail.startswith("100 keys")
    assert check_of(report, "L4 sampled keys").data["keys"] == 100


@pytest.mark.parametrize("cut", [1, 20, 5000])
def test_an_append_only_file_that_ends_within_a_command_is_refuted(
    make_redis: MakeRedis, repository: RedisRepository, cut: int
) -> None:
    server = make_redis(appendonly="yes")
    server.fill(100)
    files = append_only_files(server)
    name = b"appendonlydir/appendonly.aof.1.incr.aof"
    repository.take(server, {RDB: None, **files, name: files[name][:-cut]}, form="aof")
    assert "ends within a command" in refuted(repository, "L2")["L2 content"]
    assert {"L4 redis-check-aof", "L4 start"} <= set(refuted(repository))


def test_an_append_only_file_that_lacks_a_file_is_refuted(make_redis: MakeRedis, repository: RedisRepository) -> None:
    server = make_redis(appendonly="yes")
    server.fill(100)
    files = append_only_files(server)
    del files[b"appendonlydir/appendonly.aof.1.incr.aof"]
    repository.take(server, {RDB: None, **files}, form="aof")
    assert "lacks appendonly.aof.1.incr.aof" in refuted(repository, "L2")["L2 contents"]
    assert "lacks appendonly.aof.1.incr.aof" in refuted(repository)["L3 restore"]


def test_an_append_only_file_that_comes_up_empty_is_refuted(make_redis: MakeRedis, repository: RedisRepository) -> None:
    """Base and increments of a server without a key, facts of one with keys: it starts, and is good for nothing."""
    server = make_redis(appendonly="yes")
    files = append_only_files(server)
    server.fill(100)
    repository.take(server, {RDB: None, **files, sample.SAMPLE_PATH: Sample([]).encode()}, form="aof")
    assert refuted(repository) == {
        "L4 keys": "0 keys; 100 were recorded at the snapshot",
        "L4 recorded keys": "database 0: 0 keys that do not expire, 100 were recorded",
    }


@pytest.mark.parametrize(("recorded", "quiet"), [(99, True), (101, True), (5000, False)])
def test_an_append_only_file_must_have_what_the_server_counted(
    make_redis: MakeRedis, repository: RedisRepository, recorded: int, quiet: bool
) -> None:
    server = make_redis(appendonly="yes")
    server.fill(100)
    counted = {"databases": {"0": {"keys": recorded, "expires": 0}}, "quiet": quiet}
    repository.take(server, {RDB: None, **append_only_files(server)}, form="aof", shard=counted)
    assert set(refuted(repository)) == {"L4 recorded keys"}


def test_an_append_only_file_of_which_all_has_expired_is_not_refuted(
    make_redis: MakeRedis, repository: RedisRepository
) -> None:
    server = make_redis(appendonly="yes")
    server.execute("DEBUG", "SET-ACTIVE-EXPIRE", "0")
    with server.client() as client:
        client.set("short", "1", px=300)
        due = client.pexpiretime("short")
    files = append_only_files(server)
    repository.take(server, {RDB: None, **files}, form="aof", shard={"databases": {"0": {"keys": 1, "expires": 1}}})
    wait_until(lambda: time.time() * 1000 > due, "it has expired")
    report = repository.verify()
    assert check_of(report, "L4 keys").data == {"keys": 0, "gone": 1}


INVARIANTS = (
    {"name": "accounts", "database": 2, "pattern": "account:*", "least": 200, "most": 200},
    {"name": "sum", "database": 2, "lua": "return redis.call('DBSIZE') == 200 and 1 or 0"},
)


def test_invariants_are_asked(server: RedisServer, repository: RedisRepository) -> None:
    repository.take(server)
    report = repository.verify(redis={"invariants": list(INVARIANTS)})
    assert check_of(report, "invariant accounts").data == {"keys": 200}
    assert check_of(report, "invariant sum").ok


@pytest.mark.parametrize(
    ("invariant", "says"),
    [
        ({"pattern": "account:*", "database": 2, "least": 201}, "200 keys match 'account:*', must be 201 or more"),
        ({"pattern": "account:*", "database": 2, "least": 0, "most": 10}, "must be 0 to 10"),
        ({"pattern": "account:*"}, "0 keys match"),
        ({"lua": "return 2"}, "the script returned 2, not 1"),
        ({"lua": "return nonsense("}, "the restored server refused"),
        ({"lua": "redis.call('SET', 'a', 1) return 1"}, "the restored server refused: Write commands are not allowed"),
    ],
)
def test_an_invariant_that_does_not_hold_refutes(
    server: RedisServer, repository: RedisRepository, invariant: dict[str, Any], says: str
) -> None:
    repository.take(server)
    failed = refuted(repository, redis={"invariants": [{"name": "x", **invariant}]})
    assert says in failed["invariant x"]


def test_what_would_not_fit_into_memory_is_refused_before_a_server_starts(
    server: RedisServer, repository: RedisRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.take(server)
    monkeypatch.setattr(restore_test.memory, "available_bytes", lambda: 1000)
    monkeypatch.setattr(ThrowAwayRedis, "start", lambda _: pytest.fail("it was started"))
    with pytest.raises(TargetTooSmall, match=r"needs \d+ bytes of memory, 1000 are available here"):
        repository.verify()
    assert repository.verify("L3").ok


def test_a_server_of_another_major_version_proves_nothing(server: RedisServer, repository: RedisRepository) -> None:
    repository.take(server, version="8.2.1")
    with pytest.raises(ComponentMissing, match=r"no server of Redis 8 that reads RDB version 10.*found: Redis 7\.0"):
        repository.verify()
    repository.take(server, engine="valkey", version="8.0.1")
    with pytest.raises(ComponentMissing, match=r"no server of Valkey 8 "):
        repository.verify()


def test_a_program_that_is_missing_is_said_and_proves_nothing(
    server: RedisServer, repository: RedisRepository, workspace: Path
) -> None:
    folder = workspace / "bin"
    folder.mkdir()
    shutil.copy(shutil.which("redis-server") or "", folder)
    document = repository.document()
    document["sources"][0]["bin_directory"] = str(folder)
    repository.take(server)
    report = repository.verify(document=document)
    assert report.ok
    assert report.not_available == ["L4 redis-check-rdb"]


def test_what_is_of_postgresql_is_refused(server: RedisServer, repository: RedisRepository) -> None:
    repository.take(server)
    with pytest.raises(SettingsError, match=re.escape("Redis has none")):
        repository.verify(timeline=1)


def test_no_password_of_the_source_gets_into_a_report(make_redis: MakeRedis, repository: RedisRepository) -> None:
    server = make_redis(requirepass="hunter2")
    server.fill(10)
    repository.take(server)
    assert "hunter2" not in json.dumps(repository.verify().as_dict())


def test_values_of_modules_cannot_be_proven_without_the_module(
    make_redis: MakeRedis, repository: RedisRepository
) -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    module = 1
    for at, letter in enumerate("ReJSON-RL"):
        module |= letters.index(letter) << (58 - 6 * at)
    # Type 7 is a value of a module: its name, then parts until 0.
    body = b"REDIS0010\xfe\x00\x07\x01k\x81" + module.to_bytes(8, "big") + b"\x00\xff"
    rdb = body + crc64(body).to_bytes(8, "little")
    facts = {"databases": {"0": {"keys": 1, "expires": 0}}}
    repository.take(make_redis(), {RDB: rdb, sample.SAMPLE_PATH: None}, shard=facts)
    assert repository.verify("L3").ok
    with pytest.raises(ComponentMissing, match=r"values of modules .*: ReJSON-RL"):
        repository.verify()


def test_a_killed_test_leaves_no_server_and_the_next_one_wipes_its_data(
    server: RedisServer, repository: RedisRepository
) -> None:
    repository.take(server)
    scratch = repository.root / "state" / "scratch"
    killed(ThrowAwayRedis, "_has_loaded", repository.verify)
    assert [path for path in scratch.iterdir() if path.is_dir()], "its data is still there"
    wait_until(lambda: not serving(scratch), "its server is gone")
    assert repository.verify().ok
    assert list(scratch.iterdir()) == []


def serving(directory: Path) -> list[str]:
    """Processes that were started with a path below *directory*."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(directory).encode() in path.read_bytes():
                found.append(path.parent.name)
    return found
