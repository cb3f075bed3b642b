"""Restoring Redis into a directory: what a server that is started there has, and when none may start."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest

from mingus_engine.errors import Damaged, NotRestorable, SettingsError, TargetNotEmpty, TargetTooSmall
from mingus_engine.targets.directory import DirectoryTarget
from mingus_engine.targets.places import INCOMPLETE
from mingus_engine.targets.redis.directory import RedisTarget
from tests.mingus_engine.jobs.redis.starting import digest, killed, refusal, started
from tests.support.fixtures import MakeRedis
from tests.support.processes import unprivileged_user
from tests.support.redis import RedisServer
from tests.support.redis_data import fill_every_encoding
from tests.support.redis_snapshots import RedisRepository, append_only_files, flipped, snapshot_of


def digest_of(server: RedisServer) -> str:
    with server.client() as client:
        return digest(client)


def files_in(directory: Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file()}


def test_an_rdb_comes_back_with_every_value_when_started_as_said(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis()
    fill_every_encoding(server)
    repository.take(server)
    report = repository.restore(workspace / "new")
    assert files_in(workspace / "new") == {"dump.rdb"}
    assert "--appendonly no" in report.start_hints[0]
    with started(report.start_hints[0], workspace) as client:
        assert digest(client) == digest_of(server)


def test_a_source_that_appends_comes_back_as_an_append_only_file(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis(appendonly="yes", appenddirname="log", appendfilename='"my.aof"', dbfilename="state.rdb")
    fill_every_encoding(server)
    repository.take(server)
    report = repository.restore(workspace / "new")
    assert "--appendonly yes --appenddirname log --appendfilename my.aof" in report.start_hints[0]
    with started(report.start_hints[0], workspace) as client:
        assert digest(client) == digest_of(server)
        client.set("one more", 1)
    with started(report.start_hints[0], workspace) as client:
        assert client.get("one more") == b"1", "what is written after the start is appended, and found again"
    # The classic disaster: the server would look for an RDB, find none and be empty, without a word.
    assert "Wrong signature" in refusal(f"redis-server --dir {workspace}/new --dbfilename state.rdb", workspace)


def test_the_form_can_be_chosen(make_redis: MakeRedis, repository: RedisRepository, workspace: Path) -> None:
    server = make_redis()
    server.fill(100)
    repository.take(server)
    with started(repository.restore(workspace / "aof", form="aof").start_hints[0], workspace) as client:
        assert digest(client) == digest_of(server)
    repository.take(make_redis_of(make_redis, appendonly="yes"))
    report = repository.restore(workspace / "rdb", form="rdb")
    assert any("appendonly yes" in note and "empty" in note for note in report.notes)
    with pytest.raises(SettingsError, match="'both' is not one of"):
        repository.restore(workspace / "both", form="both")


def make_redis_of(make_redis: MakeRedis, **config: str) -> RedisServer:
    server = make_redis(**config)
    server.fill(10)
    return server


def test_names_are_those_of_the_server(make_redis: MakeRedis, repository: RedisRepository, workspace: Path) -> None:
    server = make_redis(dbfilename="state.rdb", databases="20")
    server.fill(10, database=19)
    repository.take(server)
    report = repository.restore(workspace / "new")
    assert files_in(workspace / "new") == {"state.rdb"}
    with started(report.start_hints[0], workspace) as client:
        assert digest(client) == digest_of(server)


@pytest.mark.parametrize("name", ["../evil", "a/b", ".", ".."])
def test_a_name_that_leaves_the_directory_is_refused(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path, name: str
) -> None:
    server = make_redis_of(make_redis)
    repository.take(server, shard={"settings": {"dbfilename": name}})
    with pytest.raises(Damaged, match="is not the name of a file"):
        repository.restore(workspace / "new")
    assert not (workspace / "new").exists()


def test_an_append_only_file_comes_back_as_it_was(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis(appendonly="yes")
    server.fill(100)
    server.execute("BGREWRITEAOF")
    files = append_only_files(server)
    server.fill(50, prefix="later:")
    files = append_only_files(server)
    repository.take(server, {b"dump.rdb": None, **files}, form="aof")
    report = repository.restore(workspace / "new")
    assert files_in(workspace / "new") == {"dump.rdb", *(path.decode() for path in files)}
    with started(report.start_hints[0], workspace) as client:
        assert client.dbsize() == 150
        assert digest(client) == digest_of(server)
    with pytest.raises(SettingsError, match="restored as one"):
        repository.restore(workspace / "rdb", form="rdb")


def test_a_target_that_holds_something_is_left_alone(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    repository.take(make_redis_of(make_redis))
    target = workspace / "new"
    target.mkdir()
    (target / "dump.rdb").write_bytes(b"precious")
    for dry_run in (True, False):
        with pytest.raises(TargetNotEmpty, match=r"is not empty: it holds 'dump\.rdb'"):
            repository.restore(target, dry_run=dry_run)
    assert files_in(target) == {"dump.rdb"}
    assert (target / "dump.rdb").read_bytes() == b"precious"


def test_a_dry_run_says_everything_and_writes_nothing(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis(appendonly="yes")
    server.fill(10)
    manifest = repository.take(server)
    report = repository.restore(workspace / "new", dry_run=True, configuration=True)
    assert not (workspace / "new").exists()
    assert report.plan["snapshot"] == manifest.ulid
    assert re.fullmatch(r"Redis 7\.\d+\.\d+", report.plan["version"])
    (planned,) = report.plan["servers"]
    assert (planned["form"], planned["rdb_version"]) == ("aof", 10)
    assert planned["files"] == ["appendonlydir/appendonly.aof.1.base.rdb"]
    assert report.plan["on_request"] == ["config.json", "redis.conf"]
    assert report.plan["bytes"] > 0
    assert report.start_hints == []


def test_a_server_too_old_is_refused_before_anything_is_written(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis_of(make_redis)
    files, _ = snapshot_of(server)
    newer = b"REDIS0099" + files[b"dump.rdb"][9:]
    repository.take(server, {b"dump.rdb": newer}, version="99.9.1", rdb_version=99)
    with pytest.raises(NotRestorable, match=r"RDB version 99 \(Redis 99\.9\.1\).*Redis 7\.0\.\d+ .*up to version 10"):
        repository.restore(workspace / "new")
    assert not (workspace / "new").exists()


def test_configuration_and_users_come_only_when_asked_for(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis(requirepass="hunter2")
    server.fill(10)
    repository.take(server)
    repository.restore(workspace / "plain")
    assert files_in(workspace / "plain") == {"dump.rdb"}
    report = repository.restore(workspace / "asked", configuration=True, acl=True)
    assert files_in(workspace / "asked") == {"dump.rdb", "redis.conf", "config.json", "users.acl"}
    assert "hunter2" in (workspace / "asked" / "redis.conf").read_text()
    assert json.loads((workspace / "asked" / "config.json").read_text())["requirepass"] == "hunter2"
    for name in ("redis.conf", "config.json", "users.acl"):
        assert stat.S_IMODE((workspace / "asked" / name).stat().st_mode) == 0o600
    assert "hunter2" not in repr(report)
    repository.take(server, {b"mingus-config/users.acl": None})
    with pytest.raises(NotRestorable, match=r"has no users\.acl"):
        repository.restore(workspace / "none", acl=True)


def test_owner_and_modes_are_those_a_server_wants(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis(appendonly="yes")
    server.fill(10)
    repository.take(server)
    repository.restore(workspace / "new")
    user = unprivileged_user()
    for path in [workspace / "new", *(workspace / "new").rglob("*")]:
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == (0o750 if path.is_dir() else 0o640), path
        assert status.st_uid == (user.uid if user else os.geteuid()), path


def test_a_cluster_is_restored_whole_or_one_shard(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    servers = {f"shard-{n}": make_redis() for n in (1, 2)}
    files: dict[bytes, bytes] = {}
    shards = []
    for n, (name, server) in enumerate(servers.items()):
        server.fill(10 * (n + 1))
        found, facts = snapshot_of(server, name)
        files |= {**found, f"{name}/nodes.conf".encode(): b"nodes\n"}
        shards += facts["shards"]
    repository.put(files, {**facts, "shards": shards})
    report = repository.restore(workspace / "all")
    assert files_in(workspace / "all") == {"shard-1/dump.rdb", "shard-2/dump.rdb"}
    for hint, server in zip(report.start_hints, servers.values(), strict=True):
        with started(hint, workspace) as client:
            assert digest(client) == digest_of(server)
    repository.restore(workspace / "one", shard="2", configuration=True)
    assert files_in(workspace / "one") == {"dump.rdb", "nodes.conf", "redis.conf", "config.json"}
    with pytest.raises(SettingsError, match=r"no shard '3' in this snapshot; it has: shard-1, shard-2"):
        repository.restore(workspace / "none", shard="3")
    assert repository.verify().ok


@pytest.mark.parametrize("part", ["middle", "checksum", "tail", "cut"])
def test_an_rdb_that_is_not_whole_is_never_restored(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path, part: str
) -> None:
    server = make_redis_of(make_redis)
    files, _ = snapshot_of(server)
    raw = files[b"dump.rdb"]
    damaged = {
        "middle": flipped(raw, len(raw) // 2),
        "checksum": flipped(raw, len(raw) - 1),
        "tail": raw + b"stale tail of an older, larger file",
        "cut": raw[:-100],
    }[part]
    repository.take(server, {b"dump.rdb": damaged})
    with pytest.raises(Damaged, match=r"RDB dump\.rdb: is not whole"):
        repository.restore(workspace / "new")
    assert not (workspace / "new").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda m: b"", "is empty"),
        (lambda m: m.replace(b"type b", b"type i"), "names 0 base files instead of one"),
        (lambda m: b"\n".join(m.split(b"\n")[:1]) + b"\n", "names no incremental file"),
        (lambda m: m.replace(b"1.incr", b"2.incr"), "lacks appendonly.aof.2.incr.aof"),
        (lambda m: m + b"file appendonly.aof.3.incr.aof seq 3 type i\n", "lacks appendonly.aof.3.incr.aof"),
        (lambda m: m.replace(b"appendonly.aof.1.base.rdb", b"../base.rdb"), "is not the name of a file"),
        (lambda m: None, "neither an RDB nor an append-only file"),
    ],
)
def test_an_append_only_file_that_would_start_with_less_is_refused(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path, change: object, says: str
) -> None:
    server = make_redis(appendonly="yes")
    server.fill(10)
    files = append_only_files(server)
    name = b"appendonlydir/appendonly.aof.manifest"
    changed = change(files[name])  # type: ignore[operator]
    repository.take(server, {b"dump.rdb": None, **files, name: changed} if changed is not None else {b"dump.rdb": None})
    with pytest.raises(Damaged, match=re.escape(says)):
        repository.restore(workspace / "new")
    assert not (workspace / "new").exists()


# What a restore is killed in front of.
_STEPS: dict[str, tuple[type, str]] = {
    "nothing is made": (RedisTarget, "make_directory"),
    "the first file": (RedisTarget, "open_file"),
    "commands": (RedisTarget, "write_commands"),
    "the end": (RedisTarget, "finish"),
    "the names": (DirectoryTarget, "rename"),
    "the mark goes": (DirectoryTarget, "unmark"),
}


@pytest.mark.parametrize("form", ["rdb", "aof"])
def test_no_server_starts_on_a_restore_that_was_killed(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path, form: str
) -> None:
    server = make_redis()
    server.fill(1000)
    repository.take(server)
    for step, (owner, name) in _STEPS.items():
        if form == "rdb" and step in {"nothing is made", "commands"}:
            continue  # not of this form
        target = workspace / step.replace(" ", "-")
        killed(owner, name, lambda: repository.restore(target, form=form))  # noqa: B023
        assert (target / os.fsdecode(INCOMPLETE)).exists(), step
        with pytest.raises(TargetNotEmpty, match="interrupted"):
            repository.restore(target)
        target.chmod(0o777)
        for appends in ("yes", "no"):
            command = f"redis-server --dir {target} --appendonly {appends}"
            if step == "the mark goes" and appends == ("yes" if form == "aof" else "no"):
                with started(command, workspace) as client:
                    assert digest(client) == digest_of(server), "all is there, and durable; only the mark is left"
            elif step != "nothing is made" and not (form == "rdb" and appends == "yes"):
                refusal(command, workspace)


def test_a_disk_that_is_full_leaves_nothing(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis(rdbcompression="no")
    server.fill(100, size=40000)
    repository.take(server)
    place = workspace / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m,mode=0755", "tmpfs", place], check=False)
    if mounted.returncode:
        pytest.skip("no mounts here")
    try:
        with pytest.raises(TargetTooSmall, match="bytes free"):
            repository.restore(place / "new")
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", place], check=True)
