"""``wal fetch`` as a restore_command: what a real server recovers with it, and what must never look like the end."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from mingus_engine import lsn as lsns
from mingus_engine.jobs.postgres import fetch_wal
from tests.integration.conftest import Install
from tests.integration.journal import Journal, shown
from tests.support import directories
from tests.support.archiving import drain, keep_wal
from tests.support.installation import FIRST, Installation, running
from tests.support.postgres import PgCluster
from tests.support.processes import run, unprivileged_user, wait_until

MakeCluster = Callable[..., PgCluster]
MIB = 1 << 20
PYTHON = sys.executable


@pytest.fixture
def interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that the server's user may run: this one, or Debian's with the libraries of this one."""
    user = unprivileged_user()
    if run(["test", "-x", sys.executable], user=user, check=False).returncode == 0:
        return
    system = f"/usr/bin/python3.{sys.version_info.minor}"
    if not Path(system).exists():
        pytest.skip(f"neither {sys.executable} nor {system} can be run by {user.name if user else 'this user'}")
    paths = os.pathsep.join([str(fetch_wal._package()), sysconfig.get_path("purelib")])
    monkeypatch.setattr(fetch_wal.sys, "executable", system)
    monkeypatch.setattr(fetch_wal, "_package", lambda: paths)


@pytest.fixture
def archived(make_cluster: MakeCluster, install: Install) -> tuple[Installation, Journal, PgCluster]:
    """A snapshot and some twenty segments behind it."""
    cluster = make_cluster(16, wal_segment_mib=1)
    journal = Journal(3)
    journal.prepare(cluster)
    keep_wal(cluster)
    installation = install(cluster)
    installation.back_up()
    for _ in range(4):
        journal.write(cluster, 5)
        cluster.execute("create table if not exists big (x text)")
        cluster.execute("insert into big select repeat(md5(g::text), 30) from generate_series(1, 5000) g")
        cluster.value("select pg_switch_wal()")
    journal.write(cluster, 5)
    drain(installation)
    return installation, journal, cluster


def restored(installation: Installation, place: Path, to: str = "latest") -> Path:
    """A data directory whose server fetches its log by itself; the server's user may read what it needs."""
    target = place / "data"
    installation.restore(target, to=to, wal="fetch", settings_file=installation.root / "mingus.yaml")
    directories.give_tree(installation.root, unprivileged_user())
    return target


def fetched(installation: Installation, target: Path, name: str, *options: str) -> int:
    """Exit status of the command, run as a server would."""
    command = [
        sys.executable,
        "-m",
        "mingus_engine",
        "--config",
        str(installation.root / "mingus.yaml"),
        "wal",
        "fetch",
    ]
    package = str(fetch_wal._package())
    done = run(
        [*command, "--no-prefetch", *options, name, "pg_wal/RECOVERYXLOG"], cwd=target, check=False,
        env={"PYTHONPATH": package},
    )  # fmt: skip
    return done.returncode


@pytest.mark.usefixtures("interpreter")
def test_a_server_recovers_with_log_that_is_fetched_ahead(
    archived: tuple[Installation, Journal, PgCluster], workspace: Path
) -> None:
    installation, journal, cluster = archived
    target = restored(installation, workspace)
    assert (target / fetch_wal.NOTE).exists()
    copied = {path.name for path in (target / "pg_wal").iterdir() if len(path.name) == 24}
    assert len(copied) <= 2
    with running(workspace, target, cluster) as server:
        wait_until(lambda: not server.value("select pg_is_in_recovery()"), "promoted")
        assert shown(server) == journal.entries[-1].n
        log = server.log_tail(400)
    assert log.count("restored log file") > 15
    assert not (target / "pg_wal" / fetch_wal.PREFETCH).exists()


@pytest.mark.usefixtures("interpreter")
def test_a_standby_follows_the_archive(archived: tuple[Installation, Journal, PgCluster], workspace: Path) -> None:
    installation, journal, cluster = archived
    target = workspace / "data"
    installation.restore(
        target, to="latest", wal="fetch", standby=True, settings_file=installation.root / "mingus.yaml"
    )
    directories.give_tree(installation.root, unprivileged_user())
    with running(workspace, target, cluster) as server:
        wait_until(lambda: shown(server) == journal.entries[-1].n, "caught up")
        journal.write(cluster, 5)
        cluster.value("select pg_switch_wal()")
        drain(installation)
        directories.give_tree(installation.root, unprivileged_user())
        wait_until(lambda: shown(server) == journal.entries[-1].n, "followed", timeout_s=60)
        assert server.value("select pg_is_in_recovery()")


def test_only_the_end_of_the_log_looks_like_it(
    archived: tuple[Installation, Journal, PgCluster], workspace: Path
) -> None:
    installation, journal, _ = archived
    target = restored(installation, workspace)
    end = lsns.segment_start(journal.entries[-1].lsn_behind, MIB)
    inside, last, beyond = (lsns.segment_name(1, end + offset, MIB) for offset in (-4 * MIB, 0, MIB))
    assert fetched(installation, target, inside) == 0
    assert (target / "pg_wal/RECOVERYXLOG").stat().st_size == MIB
    assert fetched(installation, target, last) == 0
    assert (target / "pg_wal/RECOVERYXLOG").stat().st_size == MIB  # begun, and filled up
    assert fetched(installation, target, beyond) == 1
    assert fetched(installation, target, beyond, "--missing-status", "99") == 99
    assert fetched(installation, target, "00000002.history") == 1
    assert fetched(installation, target, f"{inside}.00000028.backup") == 1
    # Missing where the log goes on, also when nobody noted how far it goes …
    (gone,) = [path for path in installation.files(below="logs") if f"/{end - 4 * MIB:016X}-" in str(path)]
    kept = gone.read_bytes()
    gone.unlink()
    assert fetched(installation, target, inside) == 200
    (target / fetch_wal.NOTE).rename(target / "aside")
    assert fetched(installation, target, inside) == 200
    assert fetched(installation, target, beyond) == 1
    (target / "aside").rename(target / fetch_wal.NOTE)
    # … damaged …
    gone.write_bytes(kept[: len(kept) // 2] + b"\0" + kept[len(kept) // 2 + 1 :])
    assert fetched(installation, target, inside) == 200
    gone.write_bytes(kept)
    # … the last one missing although it was noted …
    (tail,) = [path for path in installation.files(below="logs") if f"/{end:016X}-" in str(path)]
    tail.rename(workspace / "tail")
    assert fetched(installation, target, last) == 200
    shutil.move(workspace / "tail", tail)
    # … no repository, no key, no settings.
    installation.path(FIRST).rename(workspace / "away")
    assert fetched(installation, target, inside) == 200
    assert fetched(installation, target, beyond) == 200
    (workspace / "away").rename(installation.path(FIRST))
    (key,) = [name for name in installation.environment if name.startswith("MINGUS_KEY")]
    value = os.environ.pop(key)
    assert fetched(installation, target, inside) == 200
    os.environ[key] = value
    assert fetched(installation, target, inside) == 0
    (installation.root / "mingus.yaml").rename(workspace / "settings")
    assert fetched(installation, target, inside) == 200


def fetching(target: Path, *, ahead: bool) -> int:
    """The process that fetches for the server on *target* now, or the one that fetches ahead; 0: none."""
    for process in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"fetch" in words and (b"--ahead" in words) == ahead and (process / "cwd").readlink() == target:
                return int(process.name)
    return 0


@pytest.mark.usefixtures("interpreter")
def test_killed_fetchers_end_or_delay_a_recovery_but_never_let_it_miss_its_target(
    archived: tuple[Installation, Journal, PgCluster], workspace: Path
) -> None:
    installation, journal, cluster = archived
    entry = journal.entries[-3]
    target = restored(installation, workspace, to=f"xid:{entry.xid}")
    for _ in range(2):  # the command itself, first as it begins, then again
        server = PgCluster.of_directory(cluster.version, target)
        with server.start(wait=False):
            os.kill(wait_until(lambda: fetching(target, ahead=False), "it fetches"), signal.SIGKILL)
            assert server.wait_ended(60) != 0
            assert "archive recovery complete" not in server.log_tail(400)
    server = PgCluster.of_directory(cluster.version, target)
    with server.start(wait=False):
        os.kill(wait_until(lambda: fetching(target, ahead=True), "it fetches ahead"), signal.SIGKILL)
        wait_until(lambda: "archive recovery complete" in server.log_tail(400), "recovered", timeout_s=60)
        wait_until(lambda: not server.value("select pg_is_in_recovery()"), "promoted")
        assert shown(server) == entry.n


@pytest.mark.usefixtures("interpreter")
def test_a_server_that_cannot_fetch_stops_instead_of_opening_early(
    archived: tuple[Installation, Journal, PgCluster], workspace: Path
) -> None:
    installation, journal, cluster = archived
    target = restored(installation, workspace)
    at = lsns.segment_start(journal.entries[12].lsn_behind, MIB)
    (gone,) = [path for path in installation.files(below="logs") if f"/{at:016X}-" in str(path)]
    gone.unlink()
    server = PgCluster.of_directory(cluster.version, target)
    with server.start(wait=False):
        assert server.wait_ended(60) != 0
        assert "promot" not in server.log_tail(400)
        assert "and goes on behind it" in server.log_tail(400)
