"""The ``airflow`` and ``schedules`` sections of the settings."""

from __future__ import annotations

import re
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime, timedelta

import pytest

from mingus_airflow.wiring import (
    DEFAULT_SCHEDULES,
    DEFAULT_SETTINGS_FILE,
    Approval,
    PerJob,
    Wiring,
    load_settings,
    schedule,
    settings_path,
    wiring,
)
from mingus_engine import settings as engine_settings
from mingus_engine.errors import SettingsError
from mingus_engine.settings import Settings, parse
from tests.mingus_airflow.support import ROOT, SETTINGS

pytestmark = pytest.mark.airflow


def test_what_is_not_said_has_a_default_that_needs_no_pool_to_be_made() -> None:
    plain = wiring(Settings())
    assert {plain.back_up.pool, plain.ship.pool, plain.verify.pool} == {"default_pool"}
    assert plain.retries == 3


def test_arguments_of_a_task_come_from_the_settings() -> None:
    arguments = wiring(parse(SETTINGS)).arguments("back_up")
    assert arguments["pool"] == "mingus_backup"
    assert arguments["execution_timeout"] == timedelta(minutes=10)
    assert arguments["retries"] == 2
    assert arguments["retry_delay"] == timedelta(seconds=7)
    assert arguments["retry_exponential_backoff"] > 1
    assert arguments["max_retry_delay"] > arguments["retry_delay"]


def test_one_value_of_a_job_leaves_its_other_values_at_their_defaults() -> None:
    assert wiring(Settings(airflow={"ship": {"pool": "p"}})).ship.timeout_s == 12 * 3600


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"backup": {}}, "unknown key 'backup'; did you mean 'back_up'"),
        ({"back_up": {"pol": "x"}}, r"airflow\.back_up: unknown key 'pol'; did you mean 'pool'"),
        ({"retries": "three"}, r"airflow\.retries: 'three' is not a valid int"),
        ({"retries": True}, r"airflow\.retries: True is not a valid int"),
        ({"retry_delay_s": 0}, r"airflow\.retry_delay_s: 0 is not a valid int"),
        ({"verify": {"timeout_s": -1}}, r"airflow\.verify\.timeout_s: -1 is not a valid int"),
        ({"verify": "often"}, r"airflow\.verify: must be a mapping"),
    ],
)
def test_a_wrong_section_is_refused_naming_the_place(section: dict, message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        wiring(Settings(airflow=section))


def test_retries_may_be_none_at_all() -> None:
    assert wiring(Settings(airflow={"retries": 0})).retries == 0


def test_every_scheduled_dag_is_a_file_of_that_name() -> None:
    assert set(DEFAULT_SCHEDULES) <= {path.stem for path in (ROOT / "dags").glob("*.py")}


def test_the_schedule_is_in_the_time_zone_of_the_settings() -> None:
    timetable = schedule(parse(SETTINGS), "backup_postgres_full")
    assert timetable is not None
    assert (timetable.expression, str(timetable.timezone)) == ("0 2 * * *", "Europe/Berlin")


def test_a_dag_that_is_unpaused_waits_for_its_next_time_however_short_ago_the_last_one_was() -> None:
    from airflow.serialization.decoders import decode_timetable
    from airflow.serialization.encoders import encode_timetable
    from airflow.timetables.base import TimeRestriction

    now = datetime.now(UTC)
    cron = f"{(now - timedelta(minutes=3)):%M %H} * * *"
    # As the scheduler sees it.
    timetable = decode_timetable(
        encode_timetable(schedule(Settings(schedules={"backup_postgres_full": cron}), "backup_postgres_full"))
    )
    restriction = TimeRestriction(earliest=None, latest=None, catchup=False)
    found = timetable.next_dagrun_info(last_automated_data_interval=None, restriction=restriction)
    assert found is not None
    assert found.run_after > now


def test_a_schedule_of_none_means_only_when_triggered() -> None:
    assert schedule(Settings(schedules={"backup_postgres_full": "none"}), "backup_postgres_full") is None


def test_a_schedule_of_a_dag_that_there_is_not_is_refused() -> None:
    with pytest.raises(SettingsError, match="did you mean 'backup_postgres_full'"):
        schedule(Settings(schedules={"backup_postgres_ful": "0 3 * * *"}), "backup_postgres_full")


def test_the_settings_are_found_beside_the_plugins_whatever_the_working_directory(
    tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MINGUS_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)
    assert settings_path() == DEFAULT_SETTINGS_FILE
    assert load_settings().sources[0].id == "ledger"


def test_every_key_of_the_example_also_a_commented_one_is_a_setting() -> None:
    known = {
        f.name
        for kind in (*vars(engine_settings).values(), Wiring, PerJob, Approval)
        if is_dataclass(kind)
        for f in fields(kind)
    }
    known |= set(DEFAULT_SCHEDULES)
    keys = set(re.findall(r"^[ #-]*([a-z_0-9]+):(?: |$)", DEFAULT_SETTINGS_FILE.read_text(), flags=re.MULTILINE))
    assert len(keys) > 40
    assert keys <= known


def test_the_environment_names_of_the_predecessor_work_as_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("HOST", "db1"), ("PORT", "6000"), ("DB", "bank"), ("USER", "bk")):
        monkeypatch.setenv(f"POSTGRES_{name}", value)
    found = load_settings(str(DEFAULT_SETTINGS_FILE)).sources[0].connection
    assert (found.host, found.port, found.dbname, found.user) == ("db1", 6000, "bank", "bk")
    assert found.password_env == "POSTGRES_PASSWORD"
