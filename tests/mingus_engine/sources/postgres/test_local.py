"""The local transport: whose directory it reads, what it may not read, and sessions that end."""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.errors import BackupBroken, Cancelled, SourceDenied, SourceError
from mingus_engine.settings import Measurement
from mingus_engine.sources.postgres import low_level, open_backup
from tests.mingus_engine.sources.postgres.collecting import collect, connection, leftovers, source
from tests.support.directories import give_tree
from tests.support.fixtures import MakeCluster
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user, wait_until

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


@contextmanager
def as_user(uid: int) -> Iterator[None]:
    """File access with the rights of another user."""
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)


def test_another_clusters_directory_is_refused(pg15: PgCluster, pg16: PgCluster) -> None:
    settings = source(pg15, "local", data_directory=str(pg16.data_directory))
    with pytest.raises(SourceDenied, match="holds cluster") as caught:
        open_backup(settings, label="x", cancel=threading.Event())
    assert str(pg16.data_directory) in caught.value.message
    wait_until(lambda: not leftovers(pg15), "nothing is left")


@pytest.mark.parametrize("kind", ["standby", "copy"])
def test_the_directory_of_another_server_of_the_same_cluster_is_refused(make_cluster: MakeCluster, kind: str) -> None:
    cluster = make_cluster(15)
    if kind == "standby":
        with PgCluster.standby_of(cluster, cluster.data_directory.parent / "standby") as standby:
            standby.start()
            for server, other in ((cluster, standby), (standby, cluster)):
                with pytest.raises(SourceDenied, match="not the server's own"):
                    collect(source(server, "local", data_directory=str(other.data_directory)))
    else:
        copy = cluster.data_directory.parent / "copy"
        shutil.copytree(cluster.data_directory, copy)
        with pytest.raises(SourceDenied, match="not the server's own"):
            collect(source(cluster, "local", data_directory=str(copy)))


def test_a_directory_that_is_not_there_is_denied(pg15: PgCluster, tmp_path: Path) -> None:
    with pytest.raises(SourceDenied, match="gone") as caught:
        collect(source(pg15, "local", data_directory=str(tmp_path / "gone")))
    assert "data_directory" in caught.value.hint


@as_root
def test_an_unreadable_data_directory_is_denied_and_named(pg15: PgCluster) -> None:
    with as_user(NOBODY), pytest.raises(SourceDenied, match="Permission denied") as caught:
        collect(source(pg15, "local"))
    assert str(pg15.data_directory) in caught.value.message
    wait_until(lambda: not leftovers(pg15), "nothing is left")


@as_root
@pytest.mark.parametrize("kind", ["directory", "file"])
def test_one_unreadable_directory_or_file_is_denied_and_named(make_cluster: MakeCluster, kind: str) -> None:
    cluster = make_cluster(15)
    path = cluster.data_directory / "base" / "of-another-user"
    path.mkdir(0o700) if kind == "directory" else path.write_text("x")
    path.chmod(0)
    user = unprivileged_user()
    assert user is not None
    with as_user(user.uid), pytest.raises(SourceDenied, match="Permission denied") as caught:
        collect(source(cluster, "local"))
    assert str(path) in caught.value.message
    assert "operating-system user" in caught.value.hint
    wait_until(lambda: not leftovers(cluster), "nothing is left")


def test_a_role_that_may_not_ask_for_the_directory_is_told_what_to_do(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cluster.create_role("bk", options="REPLICATION")
    with pytest.raises(SourceDenied, match="data_directory") as caught:
        collect(source(cluster, "local", connection=connection(cluster, "bk", tcp=True)))
    assert "pg_read_all_settings" in caught.value.hint


def test_a_role_without_the_functions_is_denied(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cluster.create_role("bk", options="REPLICATION")
    settings = source(
        cluster, "local", connection=connection(cluster, "bk", tcp=True), data_directory=str(cluster.data_directory)
    )
    with pytest.raises(SourceDenied, match="pg_backup_start"):
        collect(settings)


def test_the_loss_of_the_session_is_noticed_at_once(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    reads = 0

    def strike(number: int, _: Any) -> None:
        nonlocal reads
        reads = number
        if number == 10:
            cluster.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'mingus' and backend_type = 'client backend'"
            )
            wait_until(
                lambda: (
                    not cluster.value(
                        "select count(*) from pg_stat_activity"
                        " where application_name = 'mingus' and backend_type = 'client backend'"
                    )
                ),
                "the session is gone",
            )
            time.sleep(low_level._LOOK_S)  # looked at that often, not at every item

    with pytest.raises(BackupBroken, match="session"):
        collect(source(cluster, "local"), before_item=strike)
    assert reads == 10, "not one item more"


def test_a_session_lost_after_the_last_file_breaks_the_backup(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    with pytest.raises(BackupBroken):
        collect(source(cluster, "local"), before_finish=cluster.kill)


def test_links_and_fifos_in_the_data_directory_are_not_followed(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    data = cluster.data_directory
    secret = data.parent / "secret"
    secret.write_text("not yours")
    (data / "planted").symlink_to(secret)
    os.mkfifo(data / "fifo")
    (data / "swapped").write_text("x" * 9)

    def swap(number: int, item: Any) -> None:
        if item.file.path == b"swapped":
            (data / "swapped").unlink()
            (data / "swapped").symlink_to(secret)

    with pytest.raises(SourceError, match="swapped"):
        collect(source(cluster, "local"), before_item=swap)
    (data / "swapped").unlink()
    got = collect(source(cluster, "local"))
    assert not {b"planted", b"fifo"} & set(got.entries)


def test_a_linked_pg_wal_is_an_empty_directory(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cluster.stop()
    elsewhere = cluster.data_directory.parent / "wal"
    shutil.move(cluster.data_directory / "pg_wal", elsewhere)
    (cluster.data_directory / "pg_wal").symlink_to(elsewhere)
    give_tree(elsewhere, unprivileged_user())
    cluster.start()
    got = collect(source(cluster, "local"))
    assert got.entries[b"pg_wal"].target == b""
    assert [p for p in got.entries if p.startswith(b"pg_wal/")] == [b"pg_wal/archive_status"]


def test_a_file_that_shrinks_while_it_is_read_gives_what_is_left(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    note = cluster.data_directory / "note"
    note.write_bytes(b"x" * (SLAB_BYTES + 1000))
    lengths: list[int] = []

    def cut(number: int, item: Any) -> None:
        if item.file.path == b"note":
            lengths.append(item.length)
            if item.offset:
                os.truncate(note, SLAB_BYTES + 10)

    got = collect(source(cluster, "local"), before_item=cut)
    assert lengths == [SLAB_BYTES, 1000]
    assert got.contents[b"note"] == b"x" * (SLAB_BYTES + 10)


def test_a_file_that_grows_gives_what_was_promised(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    note = cluster.data_directory / "note"
    note.write_bytes(b"x" * 10)

    def grow(number: int, item: Any) -> None:
        if item.file.path == b"note":
            note.write_bytes(b"x" * 99)

    assert collect(source(cluster, "local"), before_item=grow).contents[b"note"] == b"x" * 10


def test_a_file_that_vanishes_is_left_out(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    (cluster.data_directory / "note").write_bytes(b"x")

    def vanish(number: int, item: Any) -> None:
        if item.file.path == b"note":
            (cluster.data_directory / "note").unlink()

    assert collect(source(cluster, "local"), before_item=vanish).vanished == {b"note"}


def test_pg_control_is_read_after_everything_else(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    before = (cluster.data_directory / "global/pg_control").read_bytes()
    got = collect(source(cluster, "local"), before_finish=lambda: cluster.execute("checkpoint"))
    assert got.contents[b"global/pg_control"] == (cluster.data_directory / "global/pg_control").read_bytes() != before
    assert b"global/pg_control" in {entry.path for entry, _ in got.finished.files}


def test_a_long_measurement_is_cancelled(make_cluster: MakeCluster) -> None:
    cluster = make_cluster(15)
    cancel = threading.Event()
    slow = Measurement("slow", "select pg_sleep(100)")
    with pytest.raises(Cancelled):
        collect(
            source(cluster, "local", measurements=(slow,)),
            cancel=cancel,
            before_finish=lambda: threading.Timer(0.3, cancel.set).start(),
        )
    wait_until(lambda: not leftovers(cluster), "nothing is left")
