"""Redis to a moment: recorded commands and append-only files, restored into directories and proven."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mingus_engine.checks import Check
from mingus_engine.errors import NotRestorable, SettingsError
from mingus_engine.jobs.recovery_test import recovery_test
from mingus_engine.jobs.redis.restore import RedisRestoreReport, restore_redis
from mingus_engine.jobs.redis.windows import windows
from mingus_engine.jobs.verify import VerificationRefuted, VerifyReport, verify
from tests.integration import test_redis_aof as append_only
from tests.integration.test_redis_aof import fill
from tests.integration.test_redis_stream import drain, installed
from tests.mingus_engine.jobs.redis.starting import digest, started
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_installation import FIRST, SOURCE, RedisInstallation


def digest_of(server: RedisServer) -> str:
    with server.client() as client:
        return digest(client)


def restore(mingus: RedisInstallation, directory: Path, to: str | None = None, **values: object) -> RedisRestoreReport:
    return restore_redis(
        mingus.settings, SOURCE, directory=directory, to=to, context=mingus.context(), **values  # type: ignore[arg-type]
    )  # fmt: skip


def prove(mingus: RedisInstallation, **values: object) -> VerifyReport:
    return verify(mingus.settings, SOURCE, repository=FIRST, context=mingus.context(), **values)  # type: ignore[arg-type]


def checks(report: VerifyReport) -> dict[str, Check]:
    return {check["name"]: Check(**check) for check in report.checks}


def test_every_moment_of_the_recorded_commands_can_be_restored(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace, appendfilename='"my.aof"') as (server, mingus):
        drain(mingus)
        fill(server)
        first = drain(mingus)
        then = digest_of(server)
        offset = server.info()["master_repl_offset"]
        fill(server)
        server.client(5).set("later", "than that")
        second = drain(mingus)
        planned = restore(mingus, workspace / "new", "latest", dry_run=True)
        assert not (workspace / "new").exists()
        assert planned.plan["recovery"][0]["end_offset"] == second.position
        assert planned.plan["command_bytes"] > 0
        for name, to, expected in (
            ("latest", "latest", digest_of(server)),
            ("time", f"time:{first.reaches}", then),
            ("offset", f"offset:{offset}", then),
        ):
            report = restore(mingus, workspace / name, to)
            assert (workspace / name / "appendonlydir" / "my.aof.manifest").exists()
            with started(report.start_hints[0], workspace) as client:
                assert digest(client) == expected, name
        for refused, why in (("time:2020-01-01", NotRestorable), ("lsn:0/1", SettingsError)):
            with pytest.raises(why):
                restore(mingus, workspace / "refused", refused)
        assert not (workspace / "refused").exists()


def test_a_recovery_is_proven_and_the_report_says_of_what(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        fill(server)
        drain(mingus)
        report = prove(mingus, to="latest")
        assert report.ok
        assert (report.target, report.level) == ("latest", "L4")
        assert report.rpo_s is not None
        assert checks(report)["L4 redis-check-aof"].ok
        keys = sum(found["keys"] for found in server.client().info("keyspace").values())
        assert checks(report)["L4 keys"].detail.startswith(f"{keys} keys")


def wide(server: RedisServer, mingus: RedisInstallation) -> dict[str, Any] | None:
    """The window after some more commands; ``None``: it begins and ends at one moment."""
    fill(server)
    drain(mingus)
    (window,) = windows(mingus.settings, SOURCE, FIRST, context=mingus.context()).repositories[0]["windows"]
    return window if window["start_time"] < window["end_time"] else None


def test_a_recovery_to_a_random_second_is_proven_and_the_seed_names_it_again(
    make_redis: MakeRedis, workspace: Path
) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        window = wait_until(lambda: wide(server, mingus), "there is time between the first and the last moment")
        report = recovery_test(mingus.settings, SOURCE, repository=FIRST, context=mingus.context())
        assert report.ok, report.checks
        assert report.target is not None, report.reason
        assert report.seed is not None
        moment = datetime.fromisoformat(report.target.removeprefix("time:"))
        assert window["start_time"] <= moment.isoformat() <= window["end_time"]
        assert prove(mingus, to=f"random:{report.seed}").target == report.target


def test_a_backup_of_an_append_only_file_is_proven_and_restored(make_redis: MakeRedis, workspace: Path) -> None:
    with append_only.installed(make_redis, workspace) as (server, mingus):
        fill(server)
        append_only.back_up(mingus)
        fill(server)
        server.client(7).set("more", "than before")
        append_only.back_up(mingus)
        before = digest_of(server)
        assert prove(mingus, level="L2").ok
        assert prove(mingus).ok
        report = restore(mingus, workspace / "new")
        with started(report.start_hints[0], workspace) as client:
            assert digest(client) == before
        report = restore(mingus, workspace / "moment", "latest")
        with started(report.start_hints[0], workspace) as client:
            assert digest(client) == before


def test_commands_that_were_damaged_in_the_store_are_refused(make_redis: MakeRedis, workspace: Path) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        fill(server)
        drain(mingus)
        logs = sorted(mingus.root.glob(f"first/logs/{SOURCE}/**/*-*.*"))
        log = max((path for path in logs if path.is_file()), key=lambda path: path.stat().st_size)
        log.chmod(0o600)
        raw = bytearray(log.read_bytes())
        raw[len(raw) // 2] ^= 1
        log.write_bytes(raw)
        with pytest.raises((VerificationRefuted, NotRestorable)):
            prove(mingus, to="latest")
        with pytest.raises(Exception, match=r"logs/"):
            restore(mingus, workspace / "new", "latest")
        assert not (workspace / "new").exists()


def test_a_moment_at_which_somebody_had_deleted_everything_is_no_failure(
    make_redis: MakeRedis, workspace: Path
) -> None:
    with installed(make_redis, workspace) as (server, mingus):
        drain(mingus)
        server.execute("FLUSHALL")
        drain(mingus)
        report = prove(mingus, to="latest")
        assert checks(report)["L4 keys"].data == {"keys": 0, "gone": 1}
