"""``mingus alert test``: what works, what does not, and why."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mingus_engine.cli.support import Cli
from tests.support.alerting import mail_server, slack_server
from tests.support.processes import free_port

SETTINGS = "state_directory: state\nrepositories: [{name: p, path: p}]\nalerts: {mail: {security: none}}\n"


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    (tmp_path / "mingus.yaml").write_text(SETTINGS)
    found = Cli(tmp_path)
    found.secrets.append("hush-hush")
    return found


def mail_environment(port: int) -> dict[str, str]:
    return {
        "EMAIL_ALERTS_ENABLED": "true",
        "EMAIL_SMTP_SERVER": f"127.0.0.1:{port}",
        "EMAIL_FROM": "m@e.example",
        "EMAIL_TO": "night@e.example",
    }


def test_every_channel_that_is_set_up_gets_a_test(cli: Cli) -> None:
    with mail_server() as mail, slack_server() as slack:
        environment = mail_environment(mail.port) | {"SLACK_WEBHOOK_URL": f"{slack.url}/hush-hush"}
        result = cli("alert", "test", **environment)
        assert result.code == 0, result.err
        assert (len(mail.mails), len(slack.posts)) == (1, 1)
        assert "nothing is wrong" in mail.mails[0].get_body(("plain",)).get_content()  # type: ignore[union-attr]


def test_one_channel_alone_can_be_tried(cli: Cli) -> None:
    with mail_server() as mail, slack_server() as slack:
        environment = mail_environment(mail.port) | {"SLACK_WEBHOOK_URL": f"{slack.url}/hush-hush"}
        assert cli("alert", "test", "--channel", "slack", "--json", **environment).document["channels"] == [
            {"channel": "slack", "result": "sent", "detail": "taken in try 1"}
        ]
        assert mail.mails == []


def test_a_channel_that_does_not_take_it_is_said_by_name_and_exit_code(cli: Cli) -> None:
    result = cli("alert", "test", "--json", **mail_environment(free_port()))
    assert result.code == 13
    (row,) = result.document["channels"]
    assert (row["channel"], row["result"]) == ("mail", "not sent")
    assert "refused" in row["detail"]


@pytest.mark.parametrize(("arguments", "text"), [((), "no channel is set up"), (("--channel", "mail"), "not set up")])
def test_nothing_set_up_is_an_error(cli: Cli, arguments: tuple[str, ...], text: str) -> None:
    result = cli("alert", "test", *arguments)
    assert result.code == 2
    assert text in result.text + result.err


def test_a_mistake_is_named_instead_of_sending(cli: Cli) -> None:
    result = cli("alert", "test", **mail_environment(free_port()) | {"EMAIL_TO": "nobody"})
    assert result.code == 2
    assert "'nobody' is not an address" in result.text


def test_check_names_mistakes_of_alerts_and_whether_anybody_is_told(cli: Cli) -> None:
    assert "nobody is told" in cli("check").text
    wrong = cli("check", "--json", **mail_environment(free_port()) | {"EMAIL_TO": "nobody"})
    texts = [check["detail"] for check in wrong.document["checks"] if check["scope"] == "alerts"]
    assert any("'nobody' is not an address" in text for text in texts)
