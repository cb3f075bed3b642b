"""Stores, servers, targets and keys that fail: the right error, nothing lost, nothing left, and the retry works."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mingus_engine.errors import (
    BackupBroken,
    Cancelled,
    Damaged,
    KeyUnavailable,
    NoSuchSnapshot,
    SettingsError,
    SourceDenied,
    SourceError,
    SourceUnreachable,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreUnreachable,
    TargetNotEmpty,
    TargetTooSmall,
)
from mingus_engine.jobs.backing_up import BackUpRun
from mingus_engine.jobs.postgres import back_up as back_up_job
from mingus_engine.jobs.verify import VerificationRefuted
from mingus_engine.repository.manifests import LogRef
from mingus_engine.settings import Settings
from mingus_engine.sources.postgres.backup import PostgresBackup
from mingus_engine.store.faulty import Fault
from tests.integration import ledger
from tests.integration.conftest import QUIET, Install
from tests.integration.trouble import at_first, moody, raises, remount, small_disk
from tests.support.installation import FIRST, SECOND, SOURCE, Installation, running
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until
from tests.support.s3 import S3Bucket

MakeCluster = Callable[..., PgCluster]
ONE_TRY = {"attempts": 1}
TRANSPORTS = pytest.mark.parametrize("transport", ["local", "replication", "sql"])


def _check_server_is_free(cluster: PgCluster) -> None:
    left = "select count(*) from pg_stat_activity where application_name = 'mingus'"
    wait_until(
        lambda: not cluster.value("select count(*) from pg_replication_slots") and not cluster.value(left),
        "the server has let go of the backup",
    )


def _check_committed_nothing(installation: Installation, repository: str = FIRST) -> None:
    assert installation.snapshots(repository) == []
    assert list((installation.root / "spool").rglob("*")) == []


def _check_restores(installation: Installation, place: Path, repository: str = FIRST) -> None:
    installation.restore(place, repository)
    with running(place.parent, place, installation.cluster) as server:
        assert ledger.turnover(server) == ledger.turnover(installation.cluster)


# -- stores -----------------------------------------------------------------------------------------------------------


def test_a_full_disk_ends_a_backup_and_more_space_resumes_it(
    books: PgCluster, install: Install, workspace: Path
) -> None:
    with small_disk(workspace / "disk", 3 << 20) as disk:
        installation = install(books, repositories={FIRST: disk / "repository"})
        with raises(StoreFull, 5, "disk/repository"):
            installation.back_up()
        _check_committed_nothing(installation)
        _check_server_is_free(books)
        remount(disk, "size=64m")
        installation.back_up()
        _check_restores(installation, workspace / "restored")


def test_a_full_spool_ends_a_backup_and_says_so(books: PgCluster, install: Install, workspace: Path) -> None:
    with small_disk(workspace / "disk", 1 << 20) as disk:
        installation = install(books)
        spool = installation.root / "spool"
        spool.rmdir()
        spool.symlink_to(disk)
        with raises(StoreFull, 5, "spool"):
            installation.back_up()
        _check_committed_nothing(installation)
        _check_server_is_free(books)
        remount(disk, "size=64m")
        installation.back_up()


def test_a_read_only_store_is_named_and_can_still_be_read(books: PgCluster, install: Install, workspace: Path) -> None:
    with small_disk(workspace / "disk", 64 << 20) as disk:
        installation = install(books, repositories={FIRST: disk / "repository", SECOND: None})
        installation.back_up()
        remount(disk, "ro")
        with raises(StoreDenied, 4, "disk/repository", transient=False):
            installation.back_up()
        _check_server_is_free(books)
        # A reader needs no right to write: it only cannot tell cleaners that it reads.
        _check_restores(installation, workspace / "restored")
        assert any("cannot announce the read" in message for message in installation.messages)
        installation.ship()
        assert installation.verify("L2", SECOND).ok


def test_a_store_whose_disk_is_not_mounted_is_replaced_by_the_next_of_the_chain(
    books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books)
    installation.path(FIRST).rename(workspace / "away")
    report = installation.back_up()
    assert report.repository == SECOND
    assert any(FIRST in message and "not reachable" in message for message in installation.messages)
    _check_restores(installation, workspace / "restored", SECOND)
    installation.path(SECOND).rename(workspace / "away too")
    with raises(StoreError, 4, str(installation.path(FIRST))):
        installation.back_up()


def test_an_s3_service_that_is_down_is_replaced_by_the_next_of_the_chain(
    books: PgCluster, install: Install, rclone_s3: S3Bucket
) -> None:
    with moody(rclone_s3) as (bucket, mood):
        installation = install(books, repositories={"cloud": bucket, "here": None}, repository_options=ONE_TRY)
        mood.answer = lambda method, path, n: 503
        report = installation.back_up()
        assert report.repository == "here"
        assert any("cloud is not reachable" in message for message in installation.messages)


@pytest.mark.parametrize("status", [500, 503])
def test_sporadic_failures_of_an_s3_service_are_tried_again(
    status: int, books: PgCluster, install: Install, rclone_s3: S3Bucket
) -> None:
    with moody(rclone_s3) as (bucket, mood):
        installation = install(books, repositories={"cloud": bucket})
        mood.answer = lambda method, path, n: status if n % 7 == 0 else None
        installation.back_up()
        mood.answer = lambda method, path, n: None
        assert installation.verify("L1", "cloud").ok


@pytest.mark.parametrize(("status", "kind"), [(500, StoreUnreachable), (503, StoreUnreachable), (403, StoreDenied)])
def test_an_s3_service_that_refuses_packs_for_good_ends_the_backup(
    status: int, kind: type[StoreError], books: PgCluster, install: Install, rclone_s3: S3Bucket
) -> None:
    with moody(rclone_s3) as (bucket, mood):
        installation = install(books, repositories={"cloud": bucket}, repository_options=ONE_TRY)
        mood.answer = lambda method, path, n: status if method == "PUT" and "/packs/" in path else None
        with raises(kind, 4, bucket.name, str(status), transient=status >= 500):
            installation.back_up()
        mood.answer = lambda method, path, n: None
        _check_committed_nothing(installation, "cloud")
        _check_server_is_free(books)
        installation.back_up()
        assert installation.verify("L1", "cloud").ok


def test_an_s3_service_that_does_not_answer_in_time_is_unreachable(
    books: PgCluster, install: Install, rclone_s3: S3Bucket
) -> None:
    with moody(rclone_s3) as (bucket, mood):
        installation = install(books, repositories={"cloud": bucket}, repository_options=ONE_TRY)
        _edit_settings(installation, "read_timeout_s", 1)
        mood.answer = lambda method, path, n: 0 if method == "PUT" and "/snapshots/" in path else None
        with raises(StoreUnreachable, 4, bucket.name, transient=True):
            installation.back_up()
        mood.answer = lambda method, path, n: None
        _check_committed_nothing(installation, "cloud")


def _edit_settings(installation: Installation, key: str, value: float) -> None:
    (repository,) = installation.settings.repositories
    s3 = replace(repository.s3, **{key: value})
    installation.settings = replace(installation.settings, repositories=(replace(repository, s3=s3),))


@pytest.mark.parametrize("operation", ["put", "get", "get_range", "list", "now"])
def test_a_call_that_fails_for_good_ends_a_backup_without_a_commit(
    operation: str, books: PgCluster, install: Install
) -> None:
    installation = install(books, repository_options=ONE_TRY)
    name = "logs/*" if operation == "put" else "*"
    everything = installation.settings
    installation.settings = _without(everything, SECOND)  # nobody else is there to take over
    with (
        installation.faults(Fault(operation, "raise", name=name, times=None), repository=FIRST),
        pytest.raises(StoreUnreachable, match="injected"),
    ):
        installation.back_up()
    _check_committed_nothing(installation)
    _check_server_is_free(books)
    installation.back_up()
    assert installation.verify("L2").ok


def _without(settings: Settings, name: str) -> Settings:
    kept = tuple(r for r in settings.repositories if r.name != name)
    sources = tuple(replace(s, ship_to=()) for s in settings.sources)
    return replace(settings, repositories=kept, sources=sources)


@pytest.mark.parametrize("action", ["truncate", "flip"])
@pytest.mark.parametrize("name", ["logs/*/*-*", "snapshots/*", "runs/*"])
def test_what_a_store_silently_damages_is_noticed_before_a_backup_succeeds(
    action: str, name: str, books: PgCluster, install: Install
) -> None:
    installation = install(books, repository_options=ONE_TRY)
    with (
        installation.faults(Fault("put", action, name=name, position=-40)),
        raises(Damaged, 6, name.partition("/")[0]),
    ):
        installation.back_up()
    _check_server_is_free(books)


# -- the server -------------------------------------------------------------------------------------------------------


def _terminate(cluster: PgCluster, kind: str) -> Callable[[], None]:
    def deed() -> None:
        cluster.rows(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
            " where application_name = 'mingus' and backend_type = %s",
            kind,
        )

    return deed


@TRANSPORTS
@pytest.mark.parametrize("kind", ["walsender", "client backend"])
def test_a_connection_that_is_cut_ends_a_backup(
    kind: str, transport: str, books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books, transport=transport)
    if (kind, transport) == ("client backend", "replication"):
        # Its SQL session only asks for facts before, and measures by a session of its own afterwards.
        installation.back_up(on_progress=at_first("back up", _terminate(books, kind)))
    else:
        with raises(SourceError, 7, transient=True):
            installation.back_up(on_progress=at_first("back up", _terminate(books, kind)))
        _check_committed_nothing(installation)
        _check_server_is_free(books)
        installation.back_up()
    assert installation.verify("L2").ok


@TRANSPORTS
def test_a_cancelled_statement_ends_a_backup(transport: str, books: PgCluster, install: Install) -> None:
    installation = install(books, transport=transport)

    def deed() -> None:
        books.rows(
            "select pg_cancel_backend(pid) from pg_stat_activity"
            " where application_name = 'mingus' and backend_type = 'walsender'"
        )

    with raises(BackupBroken, 7, transient=True):
        installation.back_up(on_progress=at_first("back up", deed))
    _check_committed_nothing(installation)
    _check_server_is_free(books)
    installation.back_up()


@TRANSPORTS
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_server_that_restarts_ends_a_backup_and_the_retry_works(
    mode: str, transport: str, make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = make_cluster(15, conf=QUIET)
    ledger.furnish(cluster, postings=500)
    installation = install(cluster, transport=transport)
    # Started again by this thread: the server's own parent must not be a thread that ends.
    with raises(SourceError, 7, transient=True):
        installation.back_up(on_progress=at_first("back up", lambda: cluster.stop(mode)))
    with raises(SourceUnreachable, 7, f"{cluster.port}", transient=True):
        installation.back_up()
    cluster.start()
    _check_committed_nothing(installation)
    _check_server_is_free(cluster)
    installation.back_up()
    _check_restores(installation, workspace / "restored")


def test_wal_that_the_server_removed_is_never_called_a_backup(make_cluster: MakeCluster, install: Install) -> None:
    cluster = make_cluster(
        15,
        wal_segment_mib=1,
        conf={
            **QUIET,
            "max_slot_wal_keep_size": "2MB",
            "max_wal_size": "4MB",
            "min_wal_size": "2MB",
            "wal_keep_size": "0",
        },
    )
    ledger.furnish(cluster, postings=100)
    installation = install(cluster)

    def deed() -> None:
        cluster.execute("create table filler as select md5(g::text) from generate_series(1, 200000) g", "checkpoint")
        cluster.execute("checkpoint")

    with (
        # The stream stands still while the first segment cannot be stored.
        installation.faults(Fault("put", "delay", name="logs/*-*", times=None, delay_s=0.3)),
        raises(BackupBroken, 7, transient=True),
    ):
        installation.back_up(on_progress=at_first("back up", deed))
    _check_committed_nothing(installation)
    cluster.execute("drop table filler", "checkpoint")
    installation.back_up()


@pytest.mark.parametrize("lost", [0, 1, -1])
def test_a_segment_that_was_not_stored_is_never_called_a_backup(
    lost: int, make_cluster: MakeCluster, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster = make_cluster(15, wal_segment_mib=1, conf=QUIET)
    installation = install(cluster)
    whole = back_up_job.archive
    stored = []

    def losing(job: BackUpRun, backup: PostgresBackup) -> list[LogRef]:
        refs = whole(job, backup)
        stored.append(len(refs))
        del refs[lost]
        return refs

    def deed() -> None:
        cluster.execute("create table filler as select md5(g::text) from generate_series(1, 30000) g")

    monkeypatch.setattr(back_up_job, "archive", losing)
    with raises(BackupBroken, 7, "the backup needs it up to", transient=True):
        installation.back_up(on_progress=at_first("back up", deed))
    assert stored[0] > 2
    _check_committed_nothing(installation)


def test_missing_rights_are_named(books: PgCluster, install: Install) -> None:
    books.create_role("nobody_special")
    for transport in ("local", "replication"):
        with raises(SourceDenied, 7, "nobody_special"):
            install(books, transport=transport, tcp_user="nobody_special").back_up()
    _check_server_is_free(books)


def test_a_wrong_password_is_refused_without_being_shown(books: PgCluster, install: Install) -> None:
    books.create_role("clerk", options="REPLICATION")
    installation = install(books, tcp_user="clerk")
    (variable,) = [name for name in installation.environment if name.startswith("PG_")]
    os.environ[variable] = "wrong-and-secret"
    with raises(SourceDenied, 7, "clerk") as caught:
        installation.back_up()
    assert "wrong-and-secret" not in str(caught.value)


def test_another_servers_data_directory_is_refused(
    books: PgCluster, make_cluster: MakeCluster, install: Install
) -> None:
    other = make_cluster(15)
    with raises(SourceDenied, 7, str(other.data_directory)):
        install(books, data_directory=str(other.data_directory)).back_up()
    _check_server_is_free(books)


# -- pages ------------------------------------------------------------------------------------------------------------


@TRANSPORTS
def test_a_bad_page_flags_the_snapshot_which_still_restores(
    transport: str, make_cluster: MakeCluster, install: Install, workspace: Path
) -> None:
    cluster = make_cluster(15, conf=QUIET)
    ledger.furnish(cluster)
    path = cluster.value("select pg_relation_filepath('posting')")
    cluster.stop()
    with (cluster.data_directory / path).open("r+b") as file:
        file.seek(3 * 8192 + 4000)
        file.write(b"rotten bits")
    cluster.start()
    installation = install(cluster, transport=transport)
    report = installation.back_up()
    assert report.flagged
    (check,) = [c for c in report.checks if c["name"] == "page checksums"]
    assert not check["ok"]
    assert f"{path} block 3" in check["detail"]
    with installation.opened() as repository:
        (name,) = repository.list_snapshots(SOURCE)
        assert repository.get_manifest(name).flagged
    assert installation.verify("L3").ok
    with pytest.raises(VerificationRefuted) as refuted:
        installation.verify("L4")
    failed = {c["name"] for c in refuted.value.report.checks if not c["ok"]}
    assert {"amcheck", "page_checksums"} <= failed
    installation.restore(workspace / "restored")
    restored = (workspace / "restored" / path).read_bytes()
    assert restored == (cluster.data_directory / path).read_bytes()


# -- targets ----------------------------------------------------------------------------------------------------------


def test_a_directory_that_is_not_empty_is_left_as_it_is(books: PgCluster, install: Install, workspace: Path) -> None:
    installation = install(books)
    installation.back_up()
    target = workspace / "target"
    target.mkdir()
    (target / "precious").write_text("data")
    with raises(TargetNotEmpty, 8, str(target)):
        installation.restore(target)
    assert [p.name for p in target.iterdir()] == ["precious"]


def test_a_target_without_space_is_refused_before_anything_is_written(
    books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books)
    installation.back_up()
    with small_disk(workspace / "disk", 20 << 20) as disk:
        with raises(TargetTooSmall, 8, str(disk)):
            installation.restore(disk / "target")
        assert list(disk.iterdir()) == []


def test_there_is_nothing_to_restore_before_the_first_backup(
    books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books)
    for job in (lambda: installation.restore(workspace / "target"), installation.verify):
        with raises(NoSuchSnapshot, 8):
            job()
    assert not (workspace / "target").exists()


# -- keys and settings ------------------------------------------------------------------------------------------------


def test_a_wrong_or_missing_key_opens_nothing(books: PgCluster, install: Install, workspace: Path) -> None:
    installation = install(books)
    installation.back_up()
    (variable,) = [name for name in installation.environment if name.startswith("MINGUS_KEY_")]
    for key in ("ab" * 32, "a passphrase that is wrong", None):
        if key is None:
            del os.environ[variable]
        else:
            os.environ[variable] = key
        for job in (
            installation.back_up,
            installation.ship,
            installation.verify,
            lambda: installation.restore(workspace / "target"),
        ):
            with raises(KeyUnavailable, 3) as caught:
                job()
            assert key is None or key not in str(caught.value)
    os.environ.update(installation.environment)
    assert installation.verify("L2").ok


def test_the_escrow_key_alone_restores(
    books: PgCluster, install: Install, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation = install(books)
    installation.back_up()
    for name in installation.environment:
        if name.startswith("MINGUS_KEY_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MINGUS_ESCROW_KEY", installation.escrow[FIRST])
    _check_restores(installation, workspace / "restored")


def test_two_repositories_at_one_place_are_refused(books: PgCluster, install: Install, workspace: Path) -> None:
    (workspace / "link").symlink_to(workspace / "place")
    with raises(SettingsError, 2, "'one'", "'two'"):
        install(books, repositories={"one": workspace / "place", "two": workspace / "link"})


# -- stopping ---------------------------------------------------------------------------------------------------------


@TRANSPORTS
@pytest.mark.parametrize("moment", ["at once", "while reading", "while proving"])
def test_a_cancelled_backup_leaves_nothing(moment: str, transport: str, books: PgCluster, install: Install) -> None:
    installation = install(books, transport=transport)
    cancel = threading.Event()
    phase = {"while reading": "back up", "while proving": "prove WAL"}.get(moment, "")
    if not phase:
        cancel.set()
    with pytest.raises(Cancelled):
        installation.back_up(cancel=cancel, on_progress=at_first(phase or "never", cancel.set))
    _check_committed_nothing(installation)
    _check_server_is_free(books)
    installation.back_up()


def test_a_cancelled_shipment_can_be_repeated(books: PgCluster, install: Install) -> None:
    installation = install(books)
    installation.back_up()
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        installation.ship(cancel=cancel, on_progress=at_first("ship", cancel.set))
    _check_committed_nothing(installation, SECOND)
    installation.ship()
    assert installation.verify("L2", SECOND).ok


def test_a_cancelled_restore_leaves_no_directory(books: PgCluster, install: Install, workspace: Path) -> None:
    installation = install(books)
    installation.back_up()
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        installation.restore(workspace / "target", cancel=cancel, on_progress=at_first("restore", cancel.set))
    assert not (workspace / "target").exists() or list((workspace / "target").iterdir()) == []
    _check_restores(installation, workspace / "target")


@pytest.mark.parametrize("phase", ["verify L1", "restore", "verify L3", "verify L4 pg_amcheck", "verify L4 invariants"])
def test_a_cancelled_verification_leaves_no_server_no_files_and_no_proof(
    phase: str, books: PgCluster, install: Install
) -> None:
    installation = install(books)
    installation.back_up()
    cancel = threading.Event()
    with pytest.raises(Cancelled):
        installation.verify("L4", cancel=cancel, on_progress=at_first(phase, cancel.set))
    assert list((installation.settings.state_path / "scratch").rglob("*")) == []
    assert [p for p in installation.files(FIRST, "records") if ".proof." in p.name] == []


def test_a_lost_session_of_the_invariants_is_an_error_of_the_source(books: PgCluster, install: Install) -> None:
    installation = install(
        books, predicates=[{"name": "suicide", "sql": "select pg_terminate_backend(pg_backend_pid())"}]
    )
    with raises(SourceError, 7):
        installation.back_up()
    _check_committed_nothing(installation)
    _check_server_is_free(books)


def test_a_false_predicate_flags_the_snapshot(books: PgCluster, install: Install) -> None:
    installation = install(
        books, predicates=[{"name": "never", "sql": "select false"}, {"name": "broken", "sql": "select 1/0"}]
    )
    report = installation.back_up()
    assert report.flagged
    assert {c["name"] for c in report.checks if not c["ok"]} == {"invariant never", "invariant broken"}
    with pytest.raises(VerificationRefuted):
        installation.verify("L4")
