"""``kill -9`` around every call of a store and in every phase of every job: nothing is lost, nothing is left behind."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mingus_engine.repository import names, packs
from tests.integration import killing, ledger
from tests.integration.conftest import QUIET
from tests.integration.killing import PACK_BYTES, Outcome, Step
from tests.support import directories
from tests.support.installation import FIRST, SECOND, Installation, running
from tests.support.pg_versions import PgVersion
from tests.support.postgres import PgCluster
from tests.support.processes import wait_until

WORKERS = 2
KILLED = -9
_PARSERS = (
    names.pack, names.log, names.log_key, names.snapshot, names.run, names.record, names.config, names.key,
    names.rescue,
)  # fmt: skip


@pytest.fixture(scope="module")
def books(pg_versions: dict[int, PgVersion], module_directory: Path) -> Iterator[PgCluster]:
    """A quiet cluster with six megabytes that do not compress: some 30 small packs."""
    with PgCluster.create(pg_versions[15], module_directory / "books", conf=QUIET) as cluster:
        cluster.start()
        ledger.furnish(cluster, postings=1000)
        cluster.execute(
            "create table noise (n int, t bytea)",
            "alter table noise alter t set storage external",
            "insert into noise select g, decode(string_agg(md5(g::text || h::text), ''), 'hex')"
            " from generate_series(1, 1500) g, generate_series(1, 256) h group by g",
            "vacuum freeze",
            "checkpoint",
        )
        yield cluster


@pytest.fixture(params=["local", "replication"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def installation(
    books: PgCluster, workspace: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[Installation]:
    monkeypatch.setattr(packs, "_CONTENT_MAX_BYTES", PACK_BYTES)
    transport = request.getfixturevalue("transport") if "transport" in request.fixturenames else "local"
    with Installation.make(workspace / "i", books, transport=transport, workers=WORKERS) as made:
        yield made


# -- what must hold after any death -----------------------------------------------------------------------------------


def _check_nothing_is_left(installation: Installation, books: PgCluster) -> None:
    """No slot, no session; no file but objects under their names; nothing readable in spool or temporary folder."""
    left = "select count(*) from pg_stat_activity where application_name = 'mingus'"
    wait_until(
        lambda: not books.value("select count(*) from pg_replication_slots") and not books.value(left),
        "the server has let go of the dead backup's slot and sessions",
    )
    assert _files(installation.root / "tmp") == []
    assert _files(installation.root / "spool") == []
    assert [p.name for p in _files(installation.root / "state") if "scratch" not in p.parts] == ["installation"]
    for repository in (FIRST, SECOND):
        root = installation.path(repository)
        for path in installation.files(repository):
            name = path.relative_to(root).as_posix()
            assert any(parse(name) for parse in _PARSERS), f"{name} in {repository} is no object"


def _check_repositories(installation: Installation) -> None:
    """Everything that is listed can be read to the last byte."""
    for repository in (FIRST, SECOND):
        for snapshot in installation.snapshots(repository):
            assert installation.verify("L2", repository, snapshot).ok


def _files(root: Path) -> list[Path]:
    return [p for p in root.rglob("*") if not p.is_dir()]


def _empty(installation: Installation, *repositories: str) -> None:
    """As just made: nothing but keys and configuration."""
    for repository in repositories:
        for path in installation.path(repository).iterdir():
            if path.name not in {"config", "keys"}:
                shutil.rmtree(path)


def _check_died(outcome: Outcome, step: Step) -> None:
    # Threads race: the last call of a kind may not come in every run. Then the job is simply done.
    assert outcome.status in {KILLED, 0}, f"{step}: ended with {outcome.status}"


# -- backing up -------------------------------------------------------------------------------------------------------


def _kill_backups(installation: Installation, books: PgCluster, *, keep: int | None) -> None:
    whole = killing.run(installation, "back_up", Step())
    assert whole.status == 0
    _empty(installation, FIRST)
    reference = installation.back_up().bytes_stored
    died = 0
    every = killing.steps(whole, every=keep is None)
    chosen = every if keep is None else list(killing.sampled(every, keep=keep))
    for step in chosen:
        _empty(installation, FIRST)
        outcome = killing.run(installation, "back_up", step)
        _check_died(outcome, step)
        died += outcome.status == KILLED
        try:
            _check_nothing_is_left(installation, books)
            committed = installation.snapshots()
            ended = {path.stem for path in installation.files(FIRST, "runs") if path.suffix == ".end"}
            _check_repositories(installation)
            retried = installation.back_up()
            assert installation.snapshots() == sorted([*committed, retried.snapshot])
            _check_repositories(installation)
            if not ended:  # a run that has ended is not resumed
                _check_resumed(outcome, retried.bytes_stored, reference)
        except AssertionError as error:
            raise AssertionError(f"killed at {step}: {error}") from error
    assert died >= 0.8 * len(chosen), "the steps no longer meet the calls"


def _check_resumed(outcome: Outcome, stored: int, reference: int) -> None:
    """A retry stores again less than 5 % or one open pack a worker."""
    again = outcome.sealed_bytes + stored - reference
    limit = max(reference // 20, WORKERS * PACK_BYTES)
    assert again <= limit, f"stored {again} bytes again, {limit} are allowed"


def test_a_killed_backup_leaves_a_valid_repository_and_is_resumed(
    installation: Installation, books: PgCluster, transport: str
) -> None:
    _kill_backups(installation, books, keep=16 if transport == "local" else 8)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_backup_may_be_killed_around_every_single_call(
    installation: Installation, books: PgCluster, transport: str
) -> None:
    _kill_backups(installation, books, keep=None)


def test_what_a_killed_backup_left_restores_in_the_next_one(
    installation: Installation, books: PgCluster, workspace: Path
) -> None:
    died = killing.run(installation, "back_up", Step(FIRST, killing.Fault("put", "die", name="snapshots/*")))
    assert died.status == KILLED
    assert installation.snapshots() == []
    report = installation.back_up()
    assert report.bytes_reused > 0.9 * report.bytes_read
    installation.restore(workspace / "restored")
    with running(workspace, workspace / "restored", books) as server:
        assert ledger.turnover(server) == ledger.turnover(books)
        assert server.value("select count(*) from noise where length(t) = 4096") == 1500


# -- shipping ---------------------------------------------------------------------------------------------------------


def _kill_shipments(installation: Installation, books: PgCluster, *, keep: int | None) -> None:
    places = {"origin": FIRST, "destination": SECOND}
    installation.back_up()
    whole = killing.run(installation, "ship", Step(), **places)
    assert whole.status == 0
    size = sum(p.stat().st_size for p in installation.files(SECOND, "packs"))
    died = 0
    every = killing.steps(whole, every=keep is None)
    chosen = every if keep is None else list(killing.sampled(every, keep=keep))
    for step in chosen:
        _empty(installation, SECOND)
        outcome = killing.run(installation, "ship", step, **places)
        _check_died(outcome, step)
        died += outcome.status == KILLED
        try:
            _check_nothing_is_left(installation, books)
            _check_repositories(installation)
            before = sum(p.stat().st_size for p in installation.files(SECOND, "packs"))
            retried = installation.ship()
            assert installation.snapshots(SECOND) == installation.snapshots(FIRST)
            if not retried.snapshots_present:
                assert installation.verify("L2", SECOND).ok
            after = sum(p.stat().st_size for p in installation.files(SECOND, "packs"))
            # What is there is never put again.
            assert after == size, f"{after - size} bytes were put twice, {before} were there"
        except AssertionError as error:
            raise AssertionError(f"killed at {step}: {error}") from error
    assert died >= 0.8 * len(chosen), "the steps no longer meet the calls"


def test_a_killed_shipment_leaves_both_repositories_valid_and_is_resumed(
    installation: Installation, books: PgCluster
) -> None:
    _kill_shipments(installation, books, keep=14)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_a_shipment_may_be_killed_around_every_single_call(installation: Installation, books: PgCluster) -> None:
    _kill_shipments(installation, books, keep=None)


# -- restoring and verifying ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", [None, "latest"])
def test_a_killed_restore_leaves_nothing_that_could_start_and_a_delta_goes_on(
    installation: Installation, books: PgCluster, workspace: Path, to: str | None
) -> None:
    installation.back_up()
    target = workspace / "restored"
    whole = killing.run(installation, "restore", Step(), directory=target, to=to)
    assert whole.status == 0
    chosen = list(killing.sampled(killing.steps(whole), keep=8 if to is None else 4))
    died = 0
    for step in chosen:
        directories.remove(target)
        outcome = killing.run(installation, "restore", step, directory=target, to=to)
        _check_died(outcome, step)
        died += outcome.status == KILLED
        _check_nothing_is_left(installation, books)
        complete = (target / "global" / "pg_control").exists()
        # The only call after the last file is the one that tells cleaners that the reading is over.
        assert not complete or outcome.status == 0 or ".end" in str(step), f"killed at {step}: it could start"
    assert died >= 0.7 * len(chosen)
    directories.remove(target)
    killing.run(installation, "restore", Step(phase="restore"), directory=target, to=to)
    assert target.exists()
    installation.restore(target, to=to, delta=True)
    with running(workspace, target, books) as server:
        assert ledger.turnover(server) == ledger.turnover(books)


def test_a_killed_verification_is_wiped_by_the_next_one(installation: Installation, books: PgCluster) -> None:
    installation.back_up()
    scratch = installation.settings.state_path / "scratch"
    whole = killing.run(installation, "verify", Step(), level="L4", repository=FIRST)
    assert whole.status == 0
    assert _files(scratch) == []
    wanted = ("restore", "verify L3", "verify L4 invariants", "verify L4 pg_amcheck", "verify L4 page checksums")
    assert set(wanted) <= set(whole.phases)
    left = 0
    for phase in wanted:
        outcome = killing.run(installation, "verify", Step(phase=phase), level="L4", repository=FIRST)
        assert outcome.status == KILLED, phase
        left += bool(_files(scratch))
        wait_until(lambda: _servers_on(scratch) == [], f"the server of the dead test ends after {phase}")
        _check_nothing_is_left(installation, books)
        assert installation.verify("L3").ok
        assert _files(scratch) == [], f"decrypted files of a test that was killed at {phase} are still there"
    assert left == len(wanted), "no test was killed while it had something to leave"


def _servers_on(directory: Path) -> list[int]:
    """Processes whose arguments or working directory are below *directory*."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (
                os.fsencode(directory) in (entry / "cmdline").read_bytes()
                or str(directory) in str((entry / "cwd").readlink())
            ):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found
