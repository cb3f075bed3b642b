"""``mingus wal push %p``, called by a real archiver and by hand with everything that it must refuse."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.errors import Damaged, LogDiverged, MingusError, SettingsError, StoreUnreachable
from mingus_engine.jobs.postgres.push_wal import PushWalReport, push_wal
from mingus_engine.store.faulty import Fault
from tests.integration.archives import archived, compare, index_of, system_id, write_wal
from tests.support.directories import make_directory
from tests.support.fixtures import MakeCluster
from tests.support.installation import SOURCE, Installation
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user, wait_until

MIB = 1 << 20


def push(mingus: Installation, path: Path) -> PushWalReport:
    return push_wal(mingus.settings, SOURCE, path, context=mingus.context())


def finished_segment(cluster: PgCluster) -> Path:
    """A segment that will not change any more."""
    write_wal(cluster, 1)
    name = cluster.value("select pg_walfile_name(pg_switch_wal())")
    write_wal(cluster, 1)
    return cluster.data_directory / "pg_wal" / str(name)


@contextmanager
def archiver(mingus: Installation, directory: Path) -> Iterator[str]:
    """An ``archive_command`` that has this process run the push: the server's account may not run the tests' Python.

    It gives the command line's own exit code back to the server.
    """
    make_directory(directory, owner=unprivileged_user(), mode=0o777)
    ended = threading.Event()

    def serve() -> None:
        while not ended.wait(0.02):
            for asked in sorted(directory.glob("*.asked")):
                try:
                    push(mingus, Path(asked.read_text().strip()))
                    code = 0
                except MingusError as error:
                    mingus.messages.append(error.message)
                    code = error.exit_code
                asked.rename(asked.with_suffix(f".{code}"))

    server = threading.Thread(target=serve)
    server.start()
    base = f"{directory}/%f.$$"
    try:
        yield (
            f'echo "$PWD/%p" > {base}.new && mv {base}.new {base}.asked &&'
            f" while [ -e {base}.asked ]; do sleep 0.02; done; [ -e {base}.0 ]"
        )
    finally:
        ended.set()
        server.join()


@pytest.mark.parametrize("major", [15, 18])
def test_the_servers_own_archiver_archives_across_a_promotion(
    make_cluster: MakeCluster, workspace: Path, major: int
) -> None:
    primary = make_cluster(major, wal_segment_mib=1, conf={"archive_mode": "on", "archive_command": "false"})
    standby = PgCluster.standby_of(primary, workspace / "standby")
    with (
        standby.start(),
        Installation.make(workspace / "m", standby) as mingus,
        archiver(mingus, workspace / "asked") as command,
    ):
        for cluster in (primary, standby):
            with (cluster.data_directory / "postgresql.auto.conf").open("a") as file:
                file.write(f"archive_command = '{command}'\n")
            cluster.reload()
            wait_until(lambda c=cluster: c.value("show archive_command") == command, "the command is known")
        write_wal(primary, 3)
        primary.execute("select pg_switch_wal()")
        write_wal(primary, 1)
        target = primary.flush_lsn()
        wait_until(lambda: standby.value(f"select pg_last_wal_replay_lsn() >= '{target}'"), "standby has it")
        standby.promote()
        write_wal(standby, 2)
        last = str(standby.value("select pg_walfile_name(pg_switch_wal() - 1)"))

        def done(cluster: PgCluster, name: str) -> bool:
            status = cluster.data_directory / "pg_wal" / "archive_status"
            return (status / f"{name}.done").exists() and not any(status.glob("*.ready"))

        wait_until(lambda: done(standby, last), "the new primary's archiver has caught up")
        wait_until(lambda: not any((primary.data_directory / "pg_wal/archive_status").glob("*.ready")), "the old one's")
        assert mingus.messages == [m for m in mingus.messages if "does not exist" in m]
        system = system_id(standby)
        index = index_of(mingus)
        assert (system, 2) in index.histories
        (old,) = archived(mingus, standby, 1).items()
        (new,) = archived(mingus, standby, 2).items()
        switch = old[0] + len(old[1])
        assert new[0] == lsns.segment_start(switch, MIB)
        assert new[1][: switch - new[0]] == old[1][new[0] - old[0] :]  # a partial segment: only what is valid of it
        compare(mingus, standby, 2)


def test_the_same_bytes_are_a_success_and_other_bytes_are_refused(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(16, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        segment = finished_segment(cluster)
        copy = workspace / segment.name
        copy.write_bytes(segment.read_bytes())
        assert [push(mingus, path).outcome for path in (segment, segment, copy)] == ["stored", "there", "there"]
        data = bytearray(segment.read_bytes())
        data[-1] ^= 1
        copy.write_bytes(data)
        with pytest.raises(LogDiverged, match="another log"):
            push(mingus, copy)
        assert len(mingus.files(below=f"logs/{SOURCE}/{system_id(cluster)}")) == 1
        compare(mingus, cluster)


def test_it_agrees_with_what_the_slot_archived(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        mingus.archive_wal()
        segment = finished_segment(cluster)
        mingus.archive_wal()
        assert push(mingus, segment).outcome == "there"


def test_a_segment_of_another_cluster_is_refused(make_cluster: MakeCluster, workspace: Path) -> None:
    ours, theirs = make_cluster(16, wal_segment_mib=1), make_cluster(16, wal_segment_mib=1)
    with Installation.make(workspace / "m", ours) as mingus:
        push(mingus, finished_segment(ours))
        foreign = finished_segment(theirs)
        with pytest.raises(LogDiverged, match="is of cluster"):
            push(mingus, foreign)
        mingus.back_up()
        with pytest.raises(LogDiverged, match="is of cluster"):
            push(mingus, foreign)
        push(mingus, finished_segment(ours))


@pytest.mark.parametrize("change", ["short", "long", "renamed", "zeros", "text"])
def test_what_is_not_the_segment_that_its_name_says_is_refused(
    make_cluster: MakeCluster, workspace: Path, change: str
) -> None:
    cluster = make_cluster(15, wal_segment_mib=1)
    with Installation.make(workspace / "m", cluster) as mingus:
        segment = finished_segment(cluster)
        data = segment.read_bytes()
        wrong = workspace / segment.name
        if change == "renamed":
            wrong = workspace / f"{segment.name[:-2]}{int(segment.name[-2:], 16) + 1:02X}"
        wrong.write_bytes({
            "short": data[:-1], "long": data + b"x", "renamed": data, "zeros": bytes(len(data)), "text": b"hello"
        }[change])  # fmt: skip
        with pytest.raises(Damaged):
            push(mingus, wrong)
        with pytest.raises(SettingsError, match="not a file of pg_wal"):
            push(mingus, cluster.data_directory / "PG_VERSION")
        assert mingus.files(below=f"logs/{SOURCE}/{system_id(cluster)}") == []


def test_backup_files_are_taken_without_being_stored(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18)
    with Installation.make(workspace / "m", cluster) as mingus:
        assert push(mingus, workspace / "000000010000000000000002.00000028.backup").outcome == "ignored"


def test_a_store_that_fails_is_a_failure(make_cluster: MakeCluster, workspace: Path) -> None:
    cluster = make_cluster(18, wal_segment_mib=1)
    only = {"first": None}
    with Installation.make(workspace / "m", cluster, repositories=only, repository_options={"attempts": 1}) as mingus:
        segment = finished_segment(cluster)
        with mingus.faults(Fault("put", "raise", name=f"logs/{SOURCE}/[0-9]*")), pytest.raises(StoreUnreachable):
            push(mingus, segment)
        mingus.path().rename(workspace / "away")
        with pytest.raises(MingusError):
            push(mingus, segment)
