"""Replicas, Sentinels and clusters: which server is read, and what happens when it is not the one it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from mingus_engine.errors import BackupBroken, SourceUnreachable, SourceUnsupported
from mingus_engine.jobs.redis.back_up import RedisBackUpReport
from tests.integration.trouble import at_first, raises
from tests.support.fixtures import MakeRedis, MakeRedisCluster
from tests.support.processes import run, wait_until
from tests.support.redis import BACKUP_RIGHTS, RedisServer, free_port
from tests.support.redis_installation import digest, installations, snapshot


@pytest.fixture
def install(workspace: Path) -> Iterator[Any]:
    """``install(server, …)`` as ``RedisInstallation.make``."""
    with installations(workspace) as make:
        yield make


def read_from(report: RedisBackUpReport) -> str:
    (check,) = [check for check in report.checks if check["name"] == "read from"]
    return str(check["detail"])


def following(make_redis: MakeRedis, primary: RedisServer, **config: Any) -> RedisServer:
    """A replica of *primary* that has everything."""
    replica = make_redis(replicaof=primary, **config)
    wait_until(lambda: replica.info()["master_link_status"] == "up", "the replica follows")
    wait_until(lambda: str(primary.info().get("slave0", {}).get("state")) == "online", "the primary knows it")
    return replica


# -- replicas ---------------------------------------------------------------------------------------------------------


def test_a_healthy_replica_is_read_instead_of_the_primary(make_redis: MakeRedis, install: Any) -> None:
    primary = make_redis(requirepass="x", masterauth="x")
    primary.fill(100)
    replica = following(make_redis, primary, requirepass="x", masterauth="x")
    primary.fill(100)
    written = primary.info()["master_repl_offset"]
    wait_until(lambda: replica.info()["slave_repl_offset"] >= written > 0, "the replica has it")
    mingus = install(primary, connection=primary.tcp())
    saves = primary.info()["total_forks"]
    report = snapshot(mingus)
    assert read_from(report).startswith(f"replica 127.0.0.1:{replica.port} of 127.0.0.1:{primary.port}")
    assert primary.info()["total_forks"] == saves
    (shard,) = mingus.facts(mingus.manifests()[-1])["shards"]
    assert (shard["role"], shard["replid"]) == ("replica", primary.info()["master_replid"])
    assert mingus.manifests()[-1].position == shard["offset"] > 0
    choosy = install(primary, connection=primary.tcp(), prefer_replica=False)
    assert read_from(snapshot(choosy)).startswith(f"primary 127.0.0.1:{primary.port}")


def test_a_replica_that_is_not_healthy_is_not_read_and_the_reason_is_said(make_redis: MakeRedis, install: Any) -> None:
    primary = make_redis()
    primary.fill(100)
    replica = following(make_redis, primary)
    mingus = install(primary, connection=primary.tcp())
    replica.execute("CONFIG", "SET", "requirepass", "other")
    report = snapshot(mingus)
    assert read_from(report).startswith(f"primary 127.0.0.1:{primary.port}; replica 127.0.0.1:{replica.port} was not")
    assert any(f"{replica.port} was not read" in message for message in mingus.messages)
    with replica.client(password="other") as client:
        client.config_set("requirepass", "")
        # It follows somebody else now, as after a failover of which the primary has not heard.
        client.replicaof("127.0.0.1", free_port())
    named = install(replica, connection=replica.tcp())
    with raises(SourceUnreachable, 7, "its link to the primary is down", transient=True):
        snapshot(named)


def test_a_replica_that_the_settings_name_is_read_or_its_primary_instead(make_redis: MakeRedis, install: Any) -> None:
    primary = make_redis()
    primary.fill(100)
    replica = following(make_redis, primary)
    mingus = install(replica, connection=replica.tcp())
    assert read_from(snapshot(mingus)).startswith(f"replica 127.0.0.1:{replica.port}")
    # The primary asks for a password that the replica does not know: its link stays down.
    primary.execute("CONFIG", "SET", "requirepass", "unknown")
    primary.password = "unknown"
    primary.execute("CLIENT", "KILL", "TYPE", "replica")
    wait_until(lambda: replica.info()["master_link_status"] == "down", "the link is down")
    with raises(SourceUnreachable, 7, "nor can its primary", transient=True):
        snapshot(mingus)


def test_a_promotion_before_the_fork_is_noticed(
    make_redis: MakeRedis, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mingus_engine.redis import sample

    primary = make_redis()
    primary.fill(100)
    replica = following(make_redis, primary)
    mingus = install(primary, connection=primary.tcp())
    real = sample.take

    def take(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        replica.execute("REPLICAOF", "NO", "ONE")
        return found

    monkeypatch.setattr(sample, "take", take)
    with raises(BackupBroken, 7, "promoted", transient=True):
        snapshot(mingus)
    assert mingus.manifests() == []


def test_an_rdb_that_was_begun_for_another_replica_before_is_not_taken(make_redis: MakeRedis, install: Any) -> None:
    primary = make_redis(repl_diskless_sync="no")
    primary.fill(300)
    following(make_redis, primary)  # from now on offsets count
    primary.execute("CONFIG", "SET", "rdb-key-save-delay", 4000)
    make_redis(replicaof=primary, start=False).start(wait=False)
    wait_until(lambda: primary.info()["rdb_bgsave_in_progress"], "it saves for the other one")
    primary.fill(10, prefix="late:")
    report = snapshot(install(primary, prefer_replica=False))
    assert (report.keys, report.flagged) == (310, False)


def test_a_primary_that_persists_nothing_is_warned_of(make_redis: MakeRedis, install: Any) -> None:
    primary = make_redis()
    primary.fill(10)
    mingus = install(primary)
    warnings = [check for check in snapshot(mingus).checks if check["name"] == "persistence of the primary"]
    assert "restarts by itself, it is empty" in warnings[0]["detail"]
    assert any("WARNING" in message for message in mingus.messages)
    following(make_redis, primary)
    (warning,) = [c for c in snapshot(mingus).checks if c["name"] == "persistence of the primary"]
    assert "its 1 replicas are emptied" in warning["detail"]
    primary.execute("CONFIG", "SET", "save", "3600 1")
    assert not [c for c in snapshot(mingus).checks if c["name"] == "persistence of the primary"]


# -- Sentinels --------------------------------------------------------------------------------------------------------


def promoted(server: RedisServer) -> bool:
    """Whether it is a primary; a Sentinel that promotes a server also cuts everybody's connection to it."""
    try:
        return bool(server.info()["role"] == "master")
    except redis.ConnectionError:
        return False


def test_sentinels_say_which_server_is_the_primary_also_after_a_failover(
    make_redis: MakeRedis, make_sentinel: MakeRedis, install: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    primary = make_redis(requirepass="x", masterauth="x")
    primary.fill(100)
    replica = following(make_redis, primary, requirepass="x", masterauth="x")
    sentinel = make_sentinel(primary, user="asker on >word +sentinel|get-master-addr-by-name +sentinel|replicas +ping")
    wait_until(lambda: len(sentinel.execute("SENTINEL", "REPLICAS", "mymaster", raw=True)) == 1, "it found the replica")
    sentinels = [f"127.0.0.1:{free_port()}", f"127.0.0.1:{sentinel.port}"]  # nobody listens at the first
    monkeypatch.setenv("ASKERS_WORD", "word")
    how = {"sentinels": sentinels, "sentinel_master": "mymaster", "user": "", "sentinel_user": "asker",
           "sentinel_password_env": "ASKERS_WORD"}  # fmt: skip
    mingus = install(primary, connection=how, prefer_replica=False)
    assert read_from(snapshot(mingus)).startswith(f"primary 127.0.0.1:{primary.port}")
    replicating = install(primary, connection=how)
    assert read_from(snapshot(replicating)).startswith(f"replica 127.0.0.1:{replica.port}")
    primary.kill()
    wait_until(lambda: promoted(replica), "failed over")
    wait_until(
        lambda: (
            sentinel.execute("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster", raw=True)[1] == b"%d" % replica.port
        ),
        "the Sentinel knows",
    )
    # It asks often and the snapshot takes a while: a reader of the stream must not be taken for a server.
    sentinel.execute("SENTINEL", "DEBUG", "INFO-PERIOD", 50)
    replica.execute("CONFIG", "SET", "rdb-key-save-delay", 10_000)
    report = snapshot(mingus)
    assert read_from(report).startswith(f"primary 127.0.0.1:{replica.port}")
    known = sentinel.execute("SENTINEL", "REPLICAS", "mymaster", raw=True)
    assert {one[one.index(b"port") + 1] for one in known} <= {b"%d" % primary.port, b"%d" % replica.port}


def test_no_sentinel_that_knows_the_primary_is_unreachable(
    make_redis: MakeRedis, make_sentinel: MakeRedis, install: Any
) -> None:
    primary = make_redis()
    sentinel = make_sentinel(primary)
    how = {"sentinels": [f"127.0.0.1:{sentinel.port}"], "sentinel_master": "another", "user": ""}
    with raises(SourceUnreachable, 7, "knows no 'another'", transient=True):
        snapshot(install(primary, connection=how))


# -- clusters ---------------------------------------------------------------------------------------------------------


def test_every_primary_of_a_cluster_is_backed_up(
    make_redis: MakeRedis, make_redis_cluster: MakeRedisCluster, install: Any
) -> None:
    cluster = make_redis_cluster(3)
    cluster.fill(300, ttl_s=3600)
    mingus = install(cluster.nodes[0], connection=cluster.tcp())
    report = snapshot(mingus)
    assert report.keys == 300
    facts = mingus.facts(mingus.manifests()[-1])
    assert [shard["name"] for shard in facts["shards"]] == ["shard-1", "shard-2", "shard-3"]
    assert [shard["address"] for shard in facts["shards"]] == [f"127.0.0.1:{p.port}" for p in cluster.primaries]
    assert [shard["slots"] for shard in facts["shards"]] == [[[0, 5460]], [[5461, 10921]], [[10922, 16383]]]
    files = mingus.files(mingus.manifests()[-1])
    for n, primary in enumerate(cluster.primaries, 1):
        copy = make_redis(start=False)
        (copy.directory / "dump.rdb").write_bytes(files[f"shard-{n}/dump.rdb"])
        assert digest(copy.start()) == digest(primary)
        assert b"myself,master" in files[f"shard-{n}/nodes.conf"]
        assert json.loads(files[f"shard-{n}/mingus-config/config.json"])["port"] == str(primary.port)


def test_replicas_of_a_cluster_are_read_where_they_are_healthy(
    make_redis_cluster: MakeRedisCluster, install: Any
) -> None:
    cluster = make_redis_cluster(3, replicas=3)
    cluster.fill(300)
    wait_until(lambda: sum(r.execute("DBSIZE") for r in cluster.replicas) == 300, "the replicas have everything")
    mingus = install(cluster.nodes[0], connection=cluster.tcp())
    cluster.replicas[1].kill()
    report = snapshot(mingus)
    assert [shard["role"] for shard in report.shards] == ["replica", "primary", "replica"]
    assert report.keys == 300
    assert all(shard["sample"]["keys"] for shard in mingus.facts(mingus.manifests()[-1])["shards"])


def test_a_cluster_with_slots_of_nobody_or_a_primary_down_is_not_backed_up(
    make_redis_cluster: MakeRedisCluster, install: Any
) -> None:
    cluster = make_redis_cluster(3)
    cluster.fill(30)
    mingus = install(cluster.nodes[0], connection=cluster.tcp())
    cluster.primaries[2].kill()
    with pytest.raises((SourceUnreachable, BackupBroken)):
        snapshot(mingus)
    cluster.nodes[0].execute("CLUSTER", "DELSLOTSRANGE", 0, 9)
    with raises(BackupBroken, 7, "10 of 16384 slots", transient=True):
        snapshot(mingus)
    assert mingus.manifests() == []


def test_slots_that_move_during_a_backup_break_it(make_redis_cluster: MakeRedisCluster, install: Any) -> None:
    cluster = make_redis_cluster(3)
    cluster.fill(300)
    mingus = install(cluster.nodes[0], connection=cluster.tcp())
    target = cluster.primaries[1]

    def move() -> None:
        node = target.execute("CLUSTER", "MYID")
        for one in (cluster.primaries[0], target):
            one.execute("CLUSTER", "SETSLOT", 0, "NODE", node)
        target.execute("CLUSTER", "BUMPEPOCH")

    with raises(BackupBroken, 7, "changed their owners", transient=True):
        snapshot(mingus, on_progress=at_first("back up shard", move))
    assert mingus.manifests() == []


def test_one_server_is_no_cluster_and_a_shard_that_dies_breaks_all(
    make_redis: MakeRedis, make_redis_cluster: MakeRedisCluster, install: Any
) -> None:
    alone = make_redis()
    with raises(SourceUnsupported, 7, "is no cluster"):
        snapshot(install(alone, connection={**alone.tcp(), "cluster": True}))
    cluster = make_redis_cluster(3, rdb_key_save_delay=200)
    cluster.fill(300)
    mingus = install(cluster.nodes[0], connection=cluster.tcp())
    with pytest.raises((BackupBroken, SourceUnreachable)):
        snapshot(mingus, on_progress=at_first("back up", cluster.primaries[2].kill))
    assert mingus.manifests() == []
    for one in cluster.primaries[:2]:
        wait_until(lambda one=one: one.info()["connected_slaves"] == 0, "it has let go")


def _tls_files(directory: Any) -> None:
    run(["openssl", "req", "-new", "-x509", "-days", "1", "-nodes", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
         "-out", directory / "tls.crt", "-keyout", directory / "tls.key"])  # fmt: skip


def test_a_cluster_over_tls_by_an_acl_user(make_redis_cluster: MakeRedisCluster, install: Any, workspace: Any) -> None:
    _tls_files(workspace)
    files = {f"tls_{name}_file": workspace / f"tls.{end}" for name, end in (("cert", "crt"), ("key", "key"))}
    cluster = make_redis_cluster(
        2, **files, tls_ca_cert_file=workspace / "tls.crt", tls_port=free_port, tls_cluster="yes",
        tls_auth_clients="no", user=f"backup on >word {BACKUP_RIGHTS} +cluster|slots +cluster|nodes +readonly",
    )  # fmt: skip
    cluster.fill(100)
    mingus = install(
        cluster.nodes[0],
        connection={"host": "localhost", "port": cluster.nodes[0].tls_port, "user": "backup", "cluster": True,
                    "tls": True, "ca_file": str(workspace / "tls.crt"), "password_env": "A_WORD"},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("A_WORD", "word")
        report = snapshot(mingus)
    assert report.keys == 100
    assert not [check for check in report.checks if "not stored" in check["detail"]]
