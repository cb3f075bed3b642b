"""From a snapshot in a repository into a server that runs, by the command line as people use it."""

from __future__ import annotations

import io
import json
import re
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from mingus_engine.cli.main import main
from mingus_engine.errors import Damaged, NoSuchSnapshot, SettingsError, TargetError
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.redis import into_destination
from mingus_engine.jobs.redis.restore_into import RedisRestoreIntoReport, restore_into
from mingus_engine.settings import Settings, load
from mingus_engine.store.faulty import Fault
from tests.support.fixtures import MakeRedis
from tests.support.processes import wait_until
from tests.support.redis import RedisServer
from tests.support.redis_data import fill_every_encoding
from tests.support.redis_installation import SOURCE, RedisInstallation

PASSWORD = "a-password-that-nobody-may-see"
DESTINATION = "staging"


class Place:
    """An installation with a snapshot of *origin*, and an empty server *target*, the destination ``staging``."""

    def __init__(self, installation: RedisInstallation, origin: RedisServer, target: RedisServer) -> None:
        self.installation, self.origin, self.target = installation, origin, target
        path = installation.root / "mingus.yaml"
        document = yaml.safe_load(path.read_text())
        connection = {**target.connection(), "password_env": "STAGING_PASSWORD"}
        document["destinations"] = [{"name": DESTINATION, "kind": "redis", "redis": {"connection": connection}}]
        path.write_text(yaml.safe_dump(document))
        installation.environment["STAGING_PASSWORD"] = PASSWORD
        self.settings: Settings = load(path)

    def back_up(self) -> str:
        report = back_up(self.settings, SOURCE, context=self.installation.context())
        assert report.snapshot
        return report.snapshot

    def restore(self, **values: Any) -> RedisRestoreIntoReport:
        values = {"into": DESTINATION, "context": self.installation.context(), **values}
        return restore_into(self.settings, SOURCE, **values)

    def mingus(self, *arguments: str, code: int = 0) -> str:
        """What the command line writes, both streams."""
        config = ("--config", str(self.installation.root / "mingus.yaml"))
        with redirect_stdout(io.StringIO()) as out, redirect_stderr(out):
            found = main([*arguments, *config])
        text = out.getvalue()
        assert PASSWORD not in text
        assert found == code, text
        return text


@pytest.fixture
def place(make_redis: MakeRedis, workspace: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("STAGING_PASSWORD", PASSWORD)
    origin, target = make_redis(), make_redis(requirepass=PASSWORD)
    fill_every_encoding(origin)
    with RedisInstallation.make(workspace / "installation", origin) as installation:
        yield Place(installation, origin, target)


def test_the_command_line_restores_chosen_keys_and_says_what_became_of_them(place: Place) -> None:
    ulid = place.back_up()
    arguments = ("restore", SOURCE, "--into", DESTINATION, "--keys", "session:*", "--database", "3=0")
    said = json.loads(place.mingus(*arguments, "--dry-run", "--json", "--quiet"))
    assert (said["snapshot"], said["selected"], said["conflicts"], said["restored"]) == (ulid, 501, 0, 0)
    assert place.target.execute("DBSIZE") == 0
    assert "Nothing was written." in place.mingus(*arguments, "--dry-run")
    said = json.loads(place.mingus(*arguments, "--json", "--quiet"))
    assert (said["restored"], said["databases"], said["destination"].split()[0]) == (501, {"3": 501}, DESTINATION)
    assert place.target.execute("DBSIZE") == 501
    expires = place.origin.execute("PEXPIRETIME", "session:7", database=3)
    assert place.target.execute("PEXPIRETIME", "session:7") == expires
    text = place.mingus(*arguments, code=8)
    assert "staging" in text
    assert "has 501 of the keys already" in text
    assert "501 keys, to be skipped" in place.mingus(*arguments, "--conflict", "skip", "--dry-run")
    text = place.mingus(*arguments, "--conflict", "replace")
    assert re.search(r"^replaced +501 keys$", text, re.MULTILINE), text


def test_everything_comes_back_equal_from_a_source_whose_server_is_empty(place: Place) -> None:
    place.back_up()
    place.origin.execute("DEL", "expired", database=3)
    before = place.origin.execute("DEBUG", "DIGEST")
    place.origin.execute("FLUSHALL")
    place.origin.execute("FUNCTION", "FLUSH")
    report = place.restore(into=SOURCE, functions=True)
    assert place.origin.execute("DEBUG", "DIGEST") == before
    assert (report.functions, report.expired) == (1, 0)
    assert report.restored == report.selected == sum(report.databases.values())


def test_arguments_that_mean_nothing_together_are_refused(place: Place) -> None:
    for arguments, text in [
        (("--into", DESTINATION, "--to", "lsn:0/1"), "is not a recovery target of Redis"),
        (("--into", DESTINATION, "--to", "latest", "--exclusive"), "is for sources of kind postgres"),
        (("/nowhere", "--into", DESTINATION), "not both"),
        (("/nowhere", "--keys", "a"), "need --into"),
        (("--into", DESTINATION, "--database", "x"), "not of the form N or N=M"),
        (("--into", DESTINATION, "--database", "1", "--database", "1=2"), "twice"),
        (("--into", "stagin"), "did you mean 'staging'"),
        (("--into", f"redis://:{PASSWORD}@localhost"), "holds a password"),
        (("--into", DESTINATION, "--form", "aof"), "are for a DIRECTORY"),
    ]:
        assert text in place.mingus("restore", SOURCE, *arguments, code=2)


def test_addresses_name_servers_and_hold_no_password(place: Place) -> None:
    def found(into: str) -> Any:
        return into_destination.destination(place.settings, into).redis.connection

    assert (found("redis://backup@db1").host, found("redis://backup@db1").port) == ("db1", 6379)
    assert (found("rediss://db1:7000").tls, found("rediss://db1:7000").port) == (True, 7000)
    assert (found("unix://me@/run/redis.sock").socket, found("unix://me@/run/redis.sock").user) == (
        "/run/redis.sock", "me"
    )  # fmt: skip
    for wrong in ("http://db1", "redis://db1/3", "redis://", "unix://host/x", "redis://db1:x", "redis://db1?db=3"):
        with pytest.raises(SettingsError, match="--into"):
            found(wrong)
    with pytest.raises(SettingsError, match="holds a password") as caught:
        found("redis://user:hunter2@db1")
    assert "hunter2" not in caught.value.message + caught.value.hint


def test_an_address_takes_its_password_from_the_variable_of_redis_cli(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.back_up()
    into = f"unix://{place.target.socket}"
    with pytest.raises(TargetError, match=r"NOAUTH|uthenticat"):
        place.restore(into=into)
    monkeypatch.setenv("REDISCLI_AUTH", PASSWORD)
    assert place.restore(into=into).restored > 500


def test_the_newest_snapshot_with_an_rdb_is_taken(place: Place) -> None:
    with pytest.raises(NoSuchSnapshot, match="there is no snapshot"):
        place.restore()
    first = place.back_up()
    place.origin.execute("SET", "later", "1")
    second = place.back_up()
    assert place.restore(dry_run=True).snapshot == second
    assert place.restore(snapshot=first, dry_run=True).selected == place.restore(dry_run=True).selected - 1


def test_a_killed_restore_is_completed_by_a_second_one(place: Place) -> None:
    place.origin.fill(30000)
    place.back_up()
    with place.installation.running("restore", SOURCE, "--into", DESTINATION, "--database", "0", "--rate", "4000") as (
        process,
        _,
    ):
        wait_until(lambda: place.target.execute("DBSIZE") > 2000, "some keys are in")
        process.send_signal(signal.SIGKILL)
        process.wait(20)
    there = place.target.execute("DBSIZE")
    assert 2000 < there < 30000
    report = place.restore(conflict="skip", databases=(0,))
    assert report.skipped >= there
    assert place.target.execute("DBSIZE") == place.origin.execute("DBSIZE") == report.selected


def test_a_terminated_restore_says_how_many_keys_are_in(place: Place) -> None:
    place.origin.fill(30000)
    place.back_up()
    with place.installation.running("restore", SOURCE, "--into", DESTINATION, "--database", "0", "--rate", "4000") as (
        process,
        log,
    ):
        wait_until(lambda: place.target.execute("DBSIZE") > 2000, "some keys are in")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 130
    assert f"{place.target.execute('DBSIZE'):,} keys were restored before" in log.read_text()


def test_bytes_of_the_repository_that_were_changed_never_reach_the_server_as_a_success(place: Place) -> None:
    place.origin.fill(30000)
    place.back_up()
    with (
        place.installation.faults(Fault("get_range", "flip", name="packs/*", nth=4, position=-500)),
        pytest.raises(Damaged),
    ):
        place.restore()
