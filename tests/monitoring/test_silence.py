"""Alarms that must arrive when Airflow is dead: nobody sends any more, and somebody is told."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.monitoring import FILES, program, running_alertmanager, running_monitoring
from tests.support.processes import run, wait_until

CHANNELS = {
    "none": {},
    "mail": {"EMAIL_ALERTS_ENABLED": "True", "EMAIL_SMTP_SERVER": "smtp.example.com", "EMAIL_TO": "a@b.c, d@e.f"}
    | {"EMAIL_USERNAME": "o'neil|&\\@b.c", "EMAIL_PASSWORD": "it's\\1&"},
    "slack": {"SLACK_WEBHOOK_URL": "https://hooks.example.com/services/T/B/x"},
    "dead man": {"DEADMAN_URL": "https://dead.example.com/ping"},
}
CHANNELS["all"] = {name: value for channel in CHANNELS.values() for name, value in channel.items()}
WRONG = {
    "EMAIL_ALERTS_ENABLED": {"EMAIL_ALERTS_ENABLED": "perhaps"},
    "EMAIL_SMTP_SERVER": {"EMAIL_ALERTS_ENABLED": "true", "EMAIL_TO": "a@b.c"},
    "EMAIL_TO": {"EMAIL_ALERTS_ENABLED": "true", "EMAIL_SMTP_SERVER": "smtp.example.com"},
    "EMAIL_FROM": {"EMAIL_ALERTS_ENABLED": "true", "EMAIL_SMTP_SERVER": "smtp.example.com", "EMAIL_TO": "a@b.c"},
    "SLACK_WEBHOOK_URL": {"SLACK_WEBHOOK_URL": "not-a-url"},
    "SLACK_WEBHOOK_URL_FILE": {"SLACK_WEBHOOK_URL_FILE": "/does/not/exist"},
}


def test_a_silent_probe_is_told_by_mail_and_slack_and_the_dead_man_is_called_meanwhile(workspace: Path) -> None:
    with running_monitoring(workspace) as monitoring:
        # What Airflow said last, an hour ago; there is no Airflow.
        monitoring.exporter.send([f"airflow.mingus.probe_last_success_timestamp_seconds:{time.time() - 3600:.0f}|g"])
        mail = monitoring.mail_about("the probe is silent")
        assert "[MINGUS critical]" in monitoring.mails.texts()[0][0]
        assert "What it means: No complete probe for 15 minutes" in mail
        assert "Next step: Is Airflow up" in mail
        assert "docs/MONITORING.md#probesilent" in mail
        assert "Next step: Is Airflow up" in monitoring.slack_about("the probe is silent")
        assert wait_until(lambda: monitoring.posts.to("/deadman"), "the dead man's service is called")
        # It is said to be over when the probe is back.
        monitoring.exporter.send([f"airflow.mingus.probe_last_success_timestamp_seconds:{time.time():.0f}|g"])
        wait_until(lambda: "ProbeSilent" not in monitoring.prometheus.firing(), "the alert ends")


@pytest.mark.parametrize("channels", CHANNELS.values(), ids=CHANNELS.keys())
def test_amtool_accepts_what_becomes_of_the_template_and_no_secret_is_in_it(
    channels: dict[str, str], workspace: Path
) -> None:
    with running_alertmanager(workspace, channels):
        run([program("amtool"), "check-config", workspace / "alertmanager.yml"])
    text = (workspace / "alertmanager.yml").read_text()
    assert "@EMAIL" not in text
    assert channels.get("EMAIL_PASSWORD", "?!") not in text
    assert channels.get("SLACK_WEBHOOK_URL", "?!") not in text
    for path in workspace.glob("alertmanager.yml*"):
        assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(("name", "settings"), WRONG.items(), ids=WRONG.keys())
def test_a_wrong_setting_of_a_channel_is_named_at_the_start(
    name: str, settings: dict[str, str], workspace: Path
) -> None:
    environment = {"ALERTMANAGER_PROGRAM": "/bin/true", "ALERTMANAGER_CONFIG": str(workspace / "a.yml"), **settings}
    result = run(["sh", FILES / "alertmanager-entry.sh"], env=environment, check=False)
    assert result.returncode == 2
    assert name in result.stderr


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        ("alertname=Watchdog severity=none", "dead man"),
        ("alertname=SlotLost severity=critical source=ledger", "everybody"),
        ("alertname=StorageLow severity=warning repository=primary", "everybody"),
        ("alertname=KeyEpochOld severity=info", "everybody"),
    ],
)
def test_alerts_go_where_their_severity_says(labels: str, receiver: str, workspace: Path) -> None:
    environment = {"ALERTMANAGER_PROGRAM": "/bin/true", "ALERTMANAGER_CONFIG": str(workspace / "a.yml")}
    run(["sh", FILES / "alertmanager-entry.sh"], env=environment)
    routed = [program("amtool"), "config", "routes", "test", f"--config.file={workspace / 'a.yml'}", *labels.split()]
    assert run(routed).stdout.strip() == receiver
