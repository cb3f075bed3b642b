"""Mistakes in the settings of alerts are named at start, and stop nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mingus_engine.alerts import configured, last_failures, problems
from mingus_engine.alerts.outcomes import note
from mingus_engine.settings import Settings, parse

BASE = """
state_directory: state
repositories: [{name: primary, path: primary}]
sources: [{id: ledger}, {id: ledger-eu}]
"""
SEED = {
    "EMAIL_ALERTS_ENABLED": "true",
    "EMAIL_SMTP_SERVER": "smtp.example.com:587",
    "EMAIL_USERNAME": "backup@example.com",
    "EMAIL_PASSWORD": "s3cret",
    "EMAIL_TO": "night@example.com, boss@example.com",
    "SLACK_WEBHOOK_URL": "https://hooks.slack.example/services/T/B/x",
}


def settings_of(alerts: str, environ: dict[str, str], base: Path | None = None) -> Settings:
    return parse(BASE + alerts, environ=environ, base=base)


def test_the_variables_alone_set_up_mail_and_slack() -> None:
    settings = settings_of("", SEED)
    assert configured(settings.alerts, SEED) == ("mail", "slack")
    assert problems(settings, SEED) == []


def test_nothing_set_up_is_no_mistake() -> None:
    settings = settings_of("", {})
    assert configured(settings.alerts, {}) == ()
    assert problems(settings, {}) == []


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"EMAIL_ALERTS_ENABLED": "ture"}, "EMAIL_ALERTS_ENABLED"),
        ({"EMAIL_SMTP_SERVER": ""}, "EMAIL_SMTP_SERVER"),
        ({"EMAIL_SMTP_SERVER": "smtp.example.com:port"}, "EMAIL_SMTP_SERVER"),
        ({"EMAIL_SMTP_SERVER": "smtp://smtp.example.com"}, "EMAIL_SMTP_SERVER"),
        ({"EMAIL_TO": ""}, "EMAIL_TO"),
        ({"EMAIL_TO": "night.example.com"}, "'night.example.com' is not an address"),
        ({"EMAIL_PASSWORD": ""}, "EMAIL_PASSWORD"),
        ({"EMAIL_USERNAME": ""}, "EMAIL_FROM"),
        ({"SLACK_WEBHOOK_URL": "http://hooks.slack.example/services/x"}, "SLACK_WEBHOOK_URL"),
        ({"SLACK_WEBHOOK_URL": "xoxb"}, "SLACK_WEBHOOK_URL"),
    ],
)
def test_a_wrong_or_missing_variable_is_named(changed: dict[str, str], text: str) -> None:
    environ = SEED | changed
    (problem,) = problems(settings_of("", environ), environ)
    assert text in problem.text
    assert "hooks.slack.example" not in problem.text


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ("alerts: {mail: {servr: x}}", "did you mean 'server'?"),
        ("alerts: {group_wait: 3}", "did you mean 'group_wait_s'?"),
        ("alerts: {mistakes: []}", ""),
        ("alerts: [mail]", "must be a mapping"),
        ("alerts: {repeat_interval_s: often}", "repeat_interval_s"),
        ("alerts: {repeat_interval_s: 1}", "repeat_interval_s"),
        ("alerts: {group_wait_s: 600}", "group_wait_s"),
        ("alerts: {routes: [{channels: [fax]}]}", "channel 'fax'"),
        ("alerts: {routes: [{channels: [sms]}]}", "'sms' is not set up"),
        ("alerts: {routes: [{severities: [red], channels: [mail]}]}", "severity 'red'"),
        ("alerts: {routes: [{sources: [ledgr], channels: [mail]}]}", "'ledgr'"),
        ("alerts: {routes: [{sources: ['ledger*']}]}", "names no channel"),
        ("alerts: {deadlines: {backup_postgres_full: soon}}", "deadlines.backup_postgres_full"),
        ("alerts: {mail: {security: ssl}}", "security 'ssl'"),
        ("alerts: {mail: {security: none}}", "in clear"),
        ("alerts: {mail: {ca_file: /nowhere/ca.pem}}", "ca_file"),
        ("alerts: {slack: {webhook_url_file: /nowhere/url, webhook_url_env: ''}}", "/nowhere/url"),
        ("alerts: {slack: {webhook_url_env: '', token_env: EMAIL_PASSWORD}}", "needs a channel"),
        ("alerts: {sms: {topic_arn: topic}}", "topic_arn"),
        ("alerts: {sms: {phone_numbers: ['0170123'], region: eu-central-1}}", "0170123"),
        ("alerts: {sms: {phone_numbers: ['+491701234567']}}", "need a region"),
        ("alerts: {sms: {gateways: [nobody]}}", "nobody"),
    ],
)
def test_a_mistake_in_the_section_is_named_and_the_settings_can_be_read(section: str, text: str) -> None:
    settings = settings_of(section, SEED)
    assert [source.id for source in settings.sources] == ["ledger", "ledger-eu"]
    found = problems(settings, SEED)
    if text:
        assert text in "; ".join(problem.text for problem in found)
    else:
        assert found == []


def test_one_mistake_leaves_the_other_parts_as_they_are() -> None:
    settings = settings_of("alerts: {mail: {servr: x}, repeat_interval_s: 600, sms: {phone_numbers: [1]}}", SEED)
    assert settings.alerts.repeat_interval_s == 600
    assert configured(settings.alerts, SEED) == ("mail", "slack", "sms")


@pytest.mark.parametrize(
    ("value", "channels"), [("true", ("mail", "slack")), ("false", ("slack",)), ("no", ("slack",))]
)
def test_truth_may_be_written_as_yaml_writes_it(value: str, channels: tuple[str, ...]) -> None:
    settings = settings_of(f"alerts: {{mail: {{enabled: {value}}}}}", SEED)
    assert problems(settings, SEED) == []
    assert configured(settings.alerts, SEED) == channels


def test_the_last_failure_of_a_channel_is_remembered_until_it_takes_a_message(tmp_path: Path) -> None:
    settings = settings_of("", SEED, tmp_path)
    assert last_failures(settings) == []
    note(settings, "mail", "no route to host")
    (first,) = last_failures(settings)
    note(settings, "mail", "still no route")
    (second,) = last_failures(settings)
    assert (second.channel, second.why, second.since) == ("mail", "still no route", first.since)
    note(settings, "mail", None)
    assert last_failures(settings) == []


def test_a_state_directory_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, not a directory")
    settings = settings_of("", SEED, tmp_path)
    note(settings, "mail", "no route to host")
    assert last_failures(settings) == []
