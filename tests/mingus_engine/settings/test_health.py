"""The section ``health``."""

from __future__ import annotations

import pytest

from mingus_engine.errors import SettingsError
from mingus_engine.settings import parse


def test_thresholds_come_from_the_environment_unless_the_file_says_them() -> None:
    environ = {"ALERT_CPU_THRESHOLD": "70", "ALERT_STORAGE_THRESHOLD": "5"}
    health = parse("health: {storage_free_percent: 20}", environ=environ).health
    assert (health.cpu_percent, health.memory_percent, health.disk_percent) == (70, 85, 90)
    assert health.storage_free_percent == 20


@pytest.mark.parametrize(
    ("text", "environ", "named"),
    [
        ("health: {cpu_percent: 101}", {}, "health.cpu_percent: must be 1 to 100, not 101"),
        ("health: {rpo_s: 0}", {}, "health.rpo_s: must be 1"),
        ("{}", {"ALERT_DISK_THRESHOLD": "-3"}, "health.disk_percent: must be 1 to 100, not -3"),
        ("{}", {"ALERT_DISK_THRESHOLD": "lots"}, "health.disk_percent: 'lots' is not a valid int"),
        ("health: {rto: 5}", {}, "unknown key 'rto'; did you mean 'rto_s'"),
    ],
)
def test_a_threshold_out_of_range_is_an_error_that_names_it(text: str, environ: dict[str, str], named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text, environ=environ)
    assert named in str(caught.value)
