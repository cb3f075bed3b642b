"""Whether somebody would be told is a part of the health check."""

from __future__ import annotations

from pathlib import Path

import pytest

from mingus_engine.alerts.outcomes import note
from mingus_engine.jobs.health import channels, findings
from mingus_engine.jobs.health.findings import Finding
from mingus_engine.settings import Settings, parse

BASE = "state_directory: state\nrepositories: [{name: primary, path: primary}]\nsources: [{id: ledger}]\n"
MAIL = {
    "EMAIL_ALERTS_ENABLED": "true",
    "EMAIL_SMTP_SERVER": "smtp.example.com:587",
    "EMAIL_USERNAME": "backup@example.com",
    "EMAIL_PASSWORD": "s3cret",
    "EMAIL_TO": "night@example.com",
}


@pytest.fixture
def mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings with one channel, mail."""
    for name, value in {**MAIL, "SLACK_WEBHOOK_URL": "", "SLACK_API_TOKEN": ""}.items():
        monkeypatch.setenv(name, value)
    return parse(BASE, base=tmp_path)


def found(settings: Settings) -> dict[str, Finding]:
    return {finding.check: finding for finding in channels.look(settings)}


def test_a_channel_that_works_is_good(mail: Settings) -> None:
    note(mail, "mail", None)
    assert {name: finding.ok for name, finding in found(mail).items()} == {"alerts-mail": True, "alerts-memory": True}
    assert list(mail.alerts_path.glob(".*")) == []


def test_a_channel_that_did_not_take_its_last_message_is_a_warning_until_it_takes_one(mail: Settings) -> None:
    note(mail, "mail", "no route to host")
    # Not set up any more: history.
    note(mail, "slack", "no_service")
    told = found(mail)
    assert told.keys() == {"alerts-mail", "alerts-memory"}
    assert (told["alerts-mail"].result, "no route to host" in told["alerts-mail"].detail) == ("WARN", True)
    assert "mingus alert test" in told["alerts-mail"].hint
    note(mail, "mail", None)
    assert found(mail)["alerts-mail"].ok


def test_a_mistake_in_the_settings_names_the_key(mail: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EMAIL_PASSWORD")
    wrong = parse(BASE + "alerts: {repeat_interval_s: 1}", base=mail.alerts_path)
    told = found(wrong)
    assert "EMAIL_PASSWORD" in told["alerts-mail"].detail
    assert "repeat_interval_s" in told["alerts-settings"].detail
    assert {told[name].severity for name in ("alerts-mail", "alerts-settings")} == {findings.WARN}


def test_a_directory_that_cannot_be_written_is_found(mail: Settings) -> None:
    mail.alerts_path.parent.mkdir(parents=True, exist_ok=True)
    mail.alerts_path.write_text("a file, not a directory")
    finding = found(mail)["alerts-memory"]
    assert (finding.result, "cannot be written" in finding.detail) == ("WARN", True)


def test_that_nobody_is_told_is_said_and_is_no_failure(mail: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in MAIL:
        monkeypatch.delenv(name)
    (finding,) = found(parse(BASE, base=mail.alerts_path)).values()
    assert (finding.result, finding.failed) == ("not checked", False)
    assert "nobody is told" in finding.detail
