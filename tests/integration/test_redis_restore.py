"""Redis from end to end: backed up while it is written to, proven, restored, by the jobs and by the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from mingus_engine import rescue
from mingus_engine.jobs.back_up import back_up
from tests.mingus_engine.cli.support import Cli
from tests.mingus_engine.jobs.redis.starting import digest, started
from tests.support.directories import give_tree
from tests.support.fixtures import MakeRedis, MakeRedisCluster
from tests.support.processes import unprivileged_user
from tests.support.redis_data import fill_every_encoding
from tests.support.redis_snapshots import KEY_VARIABLE, SOURCE, RedisRepository, append_only_files
from tests.support.repositories import TEST_KEY


@pytest.fixture
def repository(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> RedisRepository:
    return RedisRepository.make(workspace / "i", monkeypatch)


def cli_in(directory: Path, document: dict[str, object]) -> Cli:
    (directory / "mingus.yaml").write_text(yaml.safe_dump(document))
    return Cli(directory, {KEY_VARIABLE: TEST_KEY}, [TEST_KEY])


def test_what_a_busy_server_had_is_proven(make_redis: MakeRedis, repository: RedisRepository) -> None:
    server = make_redis()
    fill_every_encoding(server)
    stop = threading.Event()

    def write() -> None:
        with server.client() as client:
            number = 0
            while not stop.is_set():
                number += 1
                client.set(f"busy:{number % 5000}", number, ex=3600 if number % 2 else None)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        settings = repository.settings(connection=server.connection())
        backed_up = back_up(settings, SOURCE, context=repository.context())
    finally:
        stop.set()
        writer.join()
    assert not backed_up.flagged
    report = repository.verify()
    assert report.snapshot == backed_up.snapshot
    assert report.ok


def test_a_backup_comes_back_by_the_command_line(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis(appendonly="yes", requirepass="hunter2")
    fill_every_encoding(server)
    connection = {**server.connection(), "password_env": "REDIS_TEST_PASSWORD"}
    cli = cli_in(workspace, repository.document(connection=connection))
    cli.environment["REDIS_TEST_PASSWORD"] = "hunter2"
    cli.secrets.append("hunter2")
    for command in (("backup", SOURCE), ("verify", SOURCE), ("list",), ("show", "latest"), ("ls", "latest")):
        done = cli(*command)
        assert done.code == 0, done.err
    assert "redis full" in cli("list").text
    with server.client() as client:
        before = digest(client)
    server.kill()
    planned = cli("restore", SOURCE, str(workspace / "new"), "--dry-run")
    assert "Nothing was written." in planned.text
    assert not (workspace / "new").exists()
    restored = cli("restore", SOURCE, str(workspace / "new"), "--json")
    assert restored.code == 0, restored.err
    with started(restored.document["start_hints"][0], workspace) as client:
        assert digest(client) == before
    again = cli("restore", SOURCE, str(workspace / "new"))
    assert again.code == 8
    foreign = cli("restore", SOURCE, str(workspace / "other"), "--standby")
    assert foreign.code == 2
    assert "--standby is for sources of kind postgres; sessions is redis" in foreign.err


def test_a_cluster_is_proven_and_each_shard_comes_back(
    make_redis_cluster: MakeRedisCluster, repository: RedisRepository, workspace: Path
) -> None:
    cluster = make_redis_cluster()
    cluster.fill(300)
    settings = repository.settings(connection=cluster.tcp())
    backed_up = back_up(settings, SOURCE, context=repository.context())
    assert not backed_up.flagged
    report = repository.verify()
    named = {check["name"] for check in report.checks}
    assert {"L4 keys shard-1", "L4 keys shard-2", "L4 keys shard-3"} <= named
    restored = repository.restore(workspace / "new")
    keys = 0
    for hint in restored.start_hints:
        with started(hint, workspace) as client:
            keys += client.dbsize()
    assert keys == 300


def rescued(repository: RedisRepository, directory: Path) -> str:
    """Restore by the script alone, which cannot see the product; the command that starts the server."""
    done = subprocess.run(
        [sys.executable, "-I", rescue.__file__, str(repository.made.root), "restore", SOURCE, str(directory)],
        env={"PATH": os.environ["PATH"], "MINGUS_ESCROW_KEY": repository.made.escrow},
        cwd="/", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    give_tree(directory, unprivileged_user())
    return done.stdout.partition("start it with: ")[2].strip()


@pytest.mark.parametrize("form", ["rdb", "aof"])
def test_the_rescue_script_brings_it_back_and_says_how_to_start_it(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path, form: str
) -> None:
    server = make_redis(appendonly="yes", appendfilename='"my.aof"')
    server.fill(100)
    repository.take(server, {b"dump.rdb": None, **append_only_files(server)} if form == "aof" else {}, form=form)
    hint = rescued(repository, workspace / "new")
    with started(hint, workspace) as client, server.client() as original:
        assert digest(client) == digest(original)


def test_after_a_disaster_the_kind_is_what_was_stored(
    make_redis: MakeRedis, repository: RedisRepository, workspace: Path
) -> None:
    server = make_redis()
    server.fill(100)
    with server.client() as client:
        before = digest(client)
    back_up(repository.settings(connection=server.connection()), SOURCE, context=repository.context())
    document = repository.document()
    del document["sources"]
    cli = cli_in(workspace, document)
    restored = cli("restore", SOURCE, str(workspace / "new"), "--json")
    assert restored.code == 0, restored.err
    with started(restored.document["start_hints"][0], workspace) as client:
        assert digest(client) == before
    proven = cli("verify", SOURCE, "--level", "L2", "--json")
    assert proven.code == 0, proven.err
    assert json.loads(proven.out)["ok"] is True
