"""Jobs that meet: other jobs of the same source, and cleaners that put fences and verdicts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mingus_engine.errors import CommitRefused, ObjectRemoved, StoreUnreachable
from mingus_engine.repository import names, packs, records, writer
from mingus_engine.store.faulty import Fault
from tests.integration import ledger
from tests.integration.conftest import Install
from tests.integration.trouble import at_first, raises
from tests.support import directories
from tests.support.installation import FIRST, SECOND, SOURCE, Installation, running
from tests.support.postgres import PgCluster

DEADLINE_S = 60.0


@pytest.fixture(autouse=True)
def _small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", 512 * 1024)


def _both(*jobs: Callable[[], object]) -> list[object]:
    """Run the jobs at the same time; their results, or the first error."""
    results: list[object] = [None] * len(jobs)
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            results[number] = jobs[number]()
        except BaseException as error:  # noqa: BLE001 - the edge of a thread: raised below
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), "a job does not end"
    if errors:
        raise errors[0]
    return results


@pytest.mark.parametrize("transport", ["local", "replication"])
def test_two_backups_of_one_source_at_once_both_commit_and_restore(
    transport: str, books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books, transport=transport)
    met = threading.Barrier(2, timeout=DEADLINE_S)
    one, other = _both(*[lambda: installation.back_up(on_progress=at_first("back up", met.wait))] * 2)
    assert installation.snapshots() == sorted([one.snapshot, other.snapshot])
    for snapshot in installation.snapshots():
        place = directories.make_directory(workspace / snapshot)
        installation.restore(place / "data", snapshot=snapshot)
        with running(place, place / "data", books) as server:
            assert ledger.turnover(server) == ledger.turnover(books)
    assert books.value("select count(*) from pg_replication_slots") == 0


def test_two_shipments_at_once_leave_one_good_snapshot_each(books: PgCluster, install: Install) -> None:
    installation = install(books)
    installation.back_up()
    installation.back_up()
    met = threading.Barrier(2, timeout=DEADLINE_S)
    _both(*[lambda: installation.ship(on_progress=at_first("ship", met.wait))] * 2)
    assert set(installation.snapshots(SECOND)) == set(installation.snapshots(FIRST))
    for snapshot in installation.snapshots(FIRST):
        assert installation.verify("L2", SECOND, snapshot).ok
    again = installation.ship()
    assert (again.objects_put, again.snapshots_present) == (0, 2)


def test_a_backup_and_a_shipment_and_a_verification_do_not_disturb_each_other(
    books: PgCluster, install: Install
) -> None:
    installation = install(books)
    first = installation.back_up()
    met = threading.Barrier(3, timeout=DEADLINE_S)
    _both(
        lambda: installation.back_up(on_progress=at_first("back up", met.wait)),
        lambda: installation.ship(on_progress=at_first("ship", met.wait)),
        lambda: installation.verify("L2", on_progress=at_first("verify", met.wait)),
    )
    assert len(installation.snapshots()) == 2
    assert installation.verify("L2", SECOND, first.snapshot).ok


# -- fences -----------------------------------------------------------------------------------------------------------


def _fence_open_runs(installation: Installation, repository: str) -> None:
    """What a cleaner does that gives a run up."""
    with installation.opened(repository) as place:
        for run in writer.open_runs(place, SOURCE):
            place.put_record(records.FENCE, SOURCE, {}, {}, run=run)


def _put_verdicts(installation: Installation, repository: str) -> None:
    """What a cleaner says that saw no manifest of the runs it fenced."""
    with installation.opened(repository) as place:
        for info in list(place.store.list(f"records/{SOURCE}/")):
            name = names.record(info.name)
            if name is not None and name.kind == records.FENCE:
                place.put_record(records.VERDICT, SOURCE, {"fence": str(name), "manifests": []}, {}, run=name.ulid)


@pytest.mark.parametrize("moment", ["back up", "prove WAL"])
def test_a_fence_refuses_the_commit_and_a_new_run_succeeds(
    moment: str, books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books)
    deed = at_first(moment, lambda: _fence_open_runs(installation, FIRST))
    with raises(CommitRefused, 11, "fenced", transient=True):
        installation.back_up(on_progress=deed)
    assert [p for p in installation.files(FIRST, "runs") if p.suffix == ".end"] == []
    fenced = {p.name.partition(".")[0] for p in installation.files(FIRST, "runs")}
    _put_verdicts(installation, FIRST)
    retried = installation.back_up()
    # Nothing of the fenced run is built upon: a cleaner may delete it at any moment.
    assert retried.bytes_reused == 0
    for path in installation.files(FIRST, "packs"):
        if path.parent.name in fenced:
            path.unlink()
    assert installation.verify("L2").snapshot == retried.snapshot
    installation.restore(workspace / "restored")


def test_a_fence_on_a_dead_run_whose_packs_are_reused_refuses_the_commit(books: PgCluster, install: Install) -> None:
    installation = install(books)
    with raises(CommitRefused, 11):
        installation.back_up(on_progress=at_first("prove WAL", lambda: _fence_open_runs(installation, FIRST)))
    for path in installation.files(FIRST, "records"):
        path.unlink()  # the run is merely dead now
    for path in installation.files(FIRST, "snapshots"):
        path.unlink()
    (dead,) = {p.name.partition(".")[0] for p in installation.files(FIRST, "runs")}

    def fence_the_dead() -> None:
        with installation.opened() as place:
            place.put_record(records.FENCE, SOURCE, {}, {}, run=dead)

    with raises(CommitRefused, 11, dead):
        installation.back_up(on_progress=at_first("prove WAL", fence_the_dead))
    _put_verdicts(installation, FIRST)
    assert installation.back_up().snapshot in installation.snapshots()


def test_what_a_plan_names_of_a_dead_run_is_not_built_upon(books: PgCluster, install: Install) -> None:
    installation = install(books, repository_options={"attempts": 1})
    with installation.faults(Fault("put", "raise", name="snapshots/*")), pytest.raises(StoreUnreachable):
        installation.back_up()
    left = [p.relative_to(installation.path()).as_posix() for p in installation.files(FIRST, "packs")]
    assert len(left) > 3
    with installation.opened() as place:
        place.put_record(records.PLAN, SOURCE, {"names": left}, {})
    assert installation.back_up().bytes_reused == 0
    for name in left:
        (installation.path() / name).unlink()
    assert installation.verify("L2").ok


def test_a_fence_refuses_a_shipment_and_the_next_one_succeeds(books: PgCluster, install: Install) -> None:
    installation = install(books)
    installation.back_up()
    with raises(CommitRefused, 11, "fenced", transient=True):
        installation.ship(on_progress=at_first("ship", lambda: _fence_open_runs(installation, SECOND)))
    _put_verdicts(installation, SECOND)
    installation.ship()
    # As a cleaner would, that follows the verdict: what the fenced run put is gone, the snapshot is whole.
    with installation.opened(SECOND) as place:
        fenced = {n.ulid for i in place.store.list(f"records/{SOURCE}/") if (n := names.record(i.name))}
    for path in installation.files(SECOND, "packs"):
        if path.name.rpartition(".")[2] in fenced:
            path.unlink()
    assert installation.verify("L2", SECOND).ok


def test_a_snapshot_that_a_plan_names_is_removed_not_corrupt(
    books: PgCluster, install: Install, workspace: Path
) -> None:
    installation = install(books)
    doomed = installation.back_up().snapshot

    def plan_and_delete() -> None:
        with installation.opened() as place:
            (manifest,) = [n for n in place.list_snapshots(SOURCE) if n.ulid == doomed]
            place.put_record(records.PLAN, SOURCE, {"names": [str(manifest)]}, {})
        for path in installation.files(FIRST, "packs"):
            path.unlink()

    with raises(ObjectRemoved, 6, doomed):
        installation.restore(workspace / "target", on_progress=at_first("restore", plan_and_delete))
    assert not (workspace / "target" / "global" / "pg_control").exists()
    assert installation.back_up().bytes_reused == 0
    assert installation.verify("L2").ok
