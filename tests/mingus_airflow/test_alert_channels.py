"""Each channel against a real server, as the engine sends and as the providers' notifiers send: one contract."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from mingus_engine.alerts import delivering, last_failures
from mingus_engine.alerts.event import Event
from mingus_engine.alerts.message import Message, compose
from mingus_engine.settings import Settings, parse
from tests.support.alerting import (
    HttpAnswer,
    MailServer,
    SlackServer,
    certificate_of,
    mail_server,
    slack_server,
)
from tests.support.processes import free_port
from tests.support.s3 import moto_server

pytestmark = [pytest.mark.airflow, pytest.mark.filterwarnings("ignore")]

PASSWORD = "mail-pw-4711"  # not a secret
MESSAGE = compose(
    [
        Event(
            kind="failure",
            severity="critical",
            dag="backup_postgres_full",
            task="source.back_up",
            source="ledger",
            cause="SourceDenied",
            what="backup ledger: größer als {{ erlaubt }} <b>",
            hint="run `mingus check ledger`",
            url="http://airflow.example/dags/x",
        )
    ],
    {"ledger": "newest snapshot of yesterday"},
)


def engine_senders(settings: Settings) -> Any:
    from mingus_engine.alerts.senders import senders

    return senders(settings.alerts)


def provider_senders(settings: Settings) -> Any:
    from mingus_airflow.alert_channels import senders

    return senders(settings.alerts)


@pytest.fixture(params=[engine_senders, provider_senders], ids=["engine", "providers"])
def senders(request: pytest.FixtureRequest, airflow_home: Path) -> Any:
    return request.param


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds that a test can wait for."""
    monkeypatch.setattr(delivering, "TRY_TIMEOUT_S", 1.0)
    monkeypatch.setattr(delivering, "_PAUSES_S", (0.05, 0.05))


def settings_of(tmp_path: Path, alerts: str) -> Settings:
    text = "state_directory: state\nrepositories: [{name: p, path: p}]\nsources: [{id: ledger}]\nalerts:\n"
    return parse(text + alerts, base=tmp_path, where="settings")


def mail_settings(tmp_path: Path, port: int, more: str = "security: none") -> Settings:
    server = f'enabled: true, server: "127.0.0.1:{port}", sender: m@e.example'
    return settings_of(tmp_path, f'  mail: {{{server}, to: "a@e.example, b@e.example", {more}}}\n')


def send(settings: Settings, senders: Any, message: Message = MESSAGE) -> list[delivering.Outcome]:
    return delivering.deliver(settings, message, senders(settings), log=lambda _: None)


@pytest.fixture
def mail() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture
def slack(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlackServer]:
    with slack_server() as server:
        monkeypatch.setenv("SLACK_WEBHOOK_URL", f"{server.url}/services/T/B/hush-hush-token")
        yield server


class TestMail:
    def test_a_mail_has_text_and_html_and_goes_to_everybody(
        self, tmp_path: Path, senders: Any, mail: MailServer
    ) -> None:
        (outcome,) = send(mail_settings(tmp_path, mail.port), senders)
        assert outcome.ok, outcome.why
        (got,) = mail.mails
        assert mail.recipients == [["a@e.example", "b@e.example"]]
        text = got.get_body(("plain",)).get_content()  # type: ignore[union-attr]
        page = got.get_body(("html",)).get_content()  # type: ignore[union-attr]
        assert "backup ledger: größer als {{ erlaubt }} <b>" in text
        assert "größer als {{ erlaubt }} &lt;b&gt;" in page
        assert "newest snapshot of yesterday" in text
        assert got["Subject"].strip() == MESSAGE.subject

    def test_starttls_and_login_with_a_certificate_that_is_trusted(
        self, tmp_path: Path, senders: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        certificate = certificate_of(tmp_path)
        monkeypatch.setenv("EMAIL_PASSWORD", PASSWORD)
        with mail_server(certificate=certificate, user="u", password=PASSWORD) as server:
            settings = mail_settings(tmp_path, server.port, f"username: u, ca_file: {certificate[0]}")
            (outcome,) = send(settings, senders)
            assert outcome.ok, outcome.why
            assert server.logins == ["u"]

    def test_a_certificate_that_is_not_trusted_gets_no_mail_and_no_password(
        self, tmp_path: Path, senders: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMAIL_PASSWORD", PASSWORD)
        with mail_server(certificate=certificate_of(tmp_path), user="u", password=PASSWORD) as server:
            (outcome,) = send(mail_settings(tmp_path, server.port, "username: u"), senders)
            assert (outcome.ok, outcome.tries) == (False, 1)
            assert "certificate" in outcome.why
            assert server.logins == []

    def test_a_server_without_starttls_gets_nothing_in_clear(
        self, tmp_path: Path, senders: Any, mail: MailServer
    ) -> None:
        (outcome,) = send(mail_settings(tmp_path, mail.port, "security: starttls"), senders)
        assert not outcome.ok
        assert mail.mails == []

    def test_a_wrong_password_is_said_once_and_not_shown(
        self, tmp_path: Path, senders: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("EMAIL_PASSWORD", PASSWORD)
        with mail_server(user="u", password="another") as server:
            (outcome,) = send(mail_settings(tmp_path, server.port, "username: u, security: none"), senders)
        assert (outcome.ok, outcome.tries) == (False, 1)
        assert "535" in outcome.why
        assert PASSWORD not in outcome.why

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize(("answer", "tries"), [("451 busy", 3), ("554 no spam here", 1)])
    def test_what_the_server_refuses_is_tried_again_only_when_it_may_pass(
        self, tmp_path: Path, senders: Any, mail: MailServer, answer: str, tries: int
    ) -> None:
        mail.refuse = answer
        (outcome,) = send(mail_settings(tmp_path, mail.port), senders)
        assert (outcome.ok, outcome.tries) == (False, tries)
        assert answer.split(maxsplit=1)[0] in outcome.why

    @pytest.mark.usefixtures("quick")
    def test_a_server_that_is_down_is_tried_three_times_and_remembered(self, tmp_path: Path, senders: Any) -> None:
        settings = mail_settings(tmp_path, free_port())
        (outcome,) = send(settings, senders)
        assert (outcome.ok, outcome.tries) == (False, 3)
        (failure,) = last_failures(settings)
        assert (failure.channel, failure.why) == ("mail", outcome.why)

    @pytest.mark.usefixtures("quick")
    def test_a_server_that_hangs_is_not_waited_for(self, tmp_path: Path, senders: Any, mail: MailServer) -> None:
        mail.gate.clear()
        (outcome,) = send(mail_settings(tmp_path, mail.port), senders)
        assert (outcome.ok, outcome.why) == (False, "no answer within 1 s")


class TestSlack:
    def test_a_webhook_gets_blocks(self, tmp_path: Path, senders: Any, slack: SlackServer) -> None:
        (outcome,) = send(settings_of(tmp_path, "  slack: {}\n"), senders)
        assert outcome.ok, outcome.why
        (post,) = slack.posts
        assert post["text"] == MESSAGE.subject
        assert post["blocks"] == MESSAGE.blocks
        assert slack.paths == ["/services/T/B/hush-hush-token"]

    def test_a_token_posts_to_its_channel(
        self, tmp_path: Path, senders: Any, slack: SlackServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SLACK_WEBHOOK_URL")
        monkeypatch.setenv("SLACK_API_TOKEN", "bot-token")
        slack.answers = [HttpAnswer(body='{"ok": true}', headers={"Content-Type": "application/json"})]
        settings = settings_of(tmp_path, f'  slack: {{channel: "#backup", api_url: "{slack.url}/api/"}}\n')
        (outcome,) = send(settings, senders)
        assert outcome.ok, outcome.why
        assert (slack.posts[0]["channel"], slack.tokens, slack.paths) == (
            "#backup",
            ["Bearer bot-token"],
            ["/api/chat.postMessage"],
        )

    def test_a_token_that_is_refused_is_no_success(
        self, tmp_path: Path, senders: Any, slack: SlackServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("SLACK_WEBHOOK_URL")
        monkeypatch.setenv("SLACK_API_TOKEN", "bot-token")
        slack.answers = [HttpAnswer(body='{"ok": false, "error": "channel_not_found"}')]
        settings = settings_of(tmp_path, f'  slack: {{channel: "#backup", api_url: "{slack.url}/api/"}}\n')
        (outcome,) = send(settings, senders)
        assert not outcome.ok
        assert "channel_not_found" in outcome.why

    @pytest.mark.usefixtures("quick")
    @pytest.mark.parametrize(
        "first",
        [HttpAnswer(429, "slow down", {"Retry-After": "0"}), HttpAnswer(500, "internal"), HttpAnswer(503, "later")],
        ids=lambda answer: str(answer.status),
    )
    def test_what_may_pass_is_tried_again(
        self, tmp_path: Path, senders: Any, slack: SlackServer, first: HttpAnswer
    ) -> None:
        slack.answers = [first, HttpAnswer()]
        (outcome,) = send(settings_of(tmp_path, "  slack: {}\n"), senders)
        assert outcome.ok, outcome.why
        assert len(slack.posts) == 2

    @pytest.mark.usefixtures("quick")
    def test_what_slack_calls_invalid_is_said_without_the_secret_address(
        self, tmp_path: Path, senders: Any, slack: SlackServer
    ) -> None:
        slack.answers = [HttpAnswer(400, "invalid_payload")]
        settings = settings_of(tmp_path, "  slack: {}\n")
        (outcome,) = send(settings, senders)
        assert not outcome.ok
        assert "invalid_payload" in outcome.why
        (failure,) = last_failures(settings)
        assert "hush-hush" not in outcome.why + failure.why

    @pytest.mark.usefixtures("quick")
    def test_a_slack_that_hangs_is_not_waited_for(self, tmp_path: Path, senders: Any, slack: SlackServer) -> None:
        slack.answers = [HttpAnswer(after=threading.Event())]
        (outcome,) = send(settings_of(tmp_path, "  slack: {}\n"), senders)
        assert (outcome.ok, outcome.why) == (False, "no answer within 1 s")

    @pytest.mark.usefixtures("quick")
    def test_the_channel_that_works_says_that_the_other_does_not(
        self, tmp_path: Path, senders: Any, slack: SlackServer
    ) -> None:
        settings = mail_settings(tmp_path, free_port())
        outcomes = send(settings, senders)
        assert {outcome.channel: outcome.ok for outcome in outcomes} == {"mail": False, "slack": True}
        assert len(slack.posts) == 2
        assert "mail could not be sent" in str(slack.posts[1]["blocks"])


class TestSms:
    @pytest.fixture(scope="class")
    def sns(self, session_directory: Path) -> Iterator[str]:
        with moto_server(session_directory) as server:
            yield server.endpoint

    def test_a_topic_gets_the_short_text(
        self, tmp_path: Path, senders: Any, sns: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        aws: dict[str, Any] = {"endpoint_url": sns, "region_name": "eu-central-1"}
        client, queue = boto3.client("sns", **aws), boto3.client("sqs", **aws)
        try:
            topic = client.create_topic(Name="alerts")["TopicArn"]
            url = queue.create_queue(QueueName="alerts")["QueueUrl"]
            arn = queue.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
            client.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
            settings = settings_of(
                tmp_path, f'  sms: {{topic_arn: "{topic}", phone_numbers: ["+491701234567"], endpoint: "{sns}"}}\n'
            )
            (outcome,) = send(settings, senders)
            assert outcome.ok, outcome.why
            (got,) = queue.receive_message(QueueUrl=url)["Messages"]
            assert "critical" in got["Body"].lower()
            queue.delete_queue(QueueUrl=url)
        finally:
            client.close()
            queue.close()

    def test_a_topic_that_is_not_there_is_said(
        self, tmp_path: Path, senders: Any, sns: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(delivering, "_PAUSES_S", (0.05, 0.05))
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
        topic = "arn:aws:sns:eu-central-1:123456789012:nowhere"
        (outcome,) = send(settings_of(tmp_path, f'  sms: {{topic_arn: "{topic}", endpoint: "{sns}"}}\n'), senders)
        assert not outcome.ok
        assert "SNS" in outcome.why

    def test_a_gateway_gets_a_mail_that_is_short(self, tmp_path: Path, senders: Any, mail: MailServer) -> None:
        settings = settings_of(
            tmp_path,
            f'  mail: {{server: "127.0.0.1:{mail.port}", sender: m@e.example, security: none}}\n'
            "  sms: {gateways: [491701234567@sms.example]}\n",
        )
        (outcome,) = send(settings, senders)
        assert outcome.ok, outcome.why
        (got,) = mail.mails
        text = got.get_content().strip()
        assert text == MESSAGE.short
        assert len(text) <= 160
        assert text.isascii()


def test_a_connection_of_airflow_is_used_where_one_is_named(
    tmp_path: Path, airflow_home: Path, mail: MailServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_NIGHT_MAIL",
        f'{{"conn_type": "smtp", "host": "127.0.0.1", "port": {mail.port},'
        ' "extra": {"disable_ssl": true, "disable_tls": true, "from_email": "conn@e.example"}}',
    )
    settings = settings_of(tmp_path, "  mail: {enabled: true, to: a@e.example, airflow_connection: night_mail}\n")
    (outcome,) = send(settings, provider_senders)
    assert outcome.ok, outcome.why
    assert mail.mails[0]["From"] == "conn@e.example"


def test_a_connection_that_is_not_there_fails_its_own_channel_only(
    tmp_path: Path, airflow_home: Path, slack: SlackServer
) -> None:
    settings = settings_of(tmp_path, "  mail: {enabled: true, to: a@e.example, airflow_connection: no_such}\n")
    outcomes = send(settings, provider_senders)
    assert {outcome.channel: outcome.ok for outcome in outcomes} == {"mail": False, "slack": True}
    assert "no_such" in outcomes[0].why


def test_the_engines_channels_need_no_airflow() -> None:
    import subprocess

    code = "import mingus_engine.alerts.telling, mingus_engine.alerts.senders, sys; print('airflow' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(Path(__file__).parents[2] / "plugins")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert found.stdout.strip() == "False"
