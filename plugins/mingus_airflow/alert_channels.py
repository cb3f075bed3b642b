"""The channels of alerts in Airflow: the providers' notifiers, with Airflow's connections or the engine's settings.

Imported when something is sent, and not before: the providers take seconds to import, and DAGs are parsed often.
"""

from __future__ import annotations

import json
import smtplib
import ssl
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from functools import cached_property
from typing import Any

from airflow.providers.slack.hooks.slack import SlackHook
from airflow.providers.slack.hooks.slack_webhook import SlackWebhookHook
from airflow.providers.slack.notifications.slack import SlackNotifier
from airflow.providers.slack.notifications.slack_webhook import SlackWebhookNotifier
from airflow.providers.smtp.hooks.smtp import SmtpHook
from airflow.providers.smtp.notifications.smtp import SmtpNotifier
from airflow.sdk import BaseHook, Connection
from airflow.sdk.log import mask_secret
from slack_sdk.http_retry.builtin_handlers import RateLimitErrorRetryHandler

from mingus_engine.alerts.checking import addresses, configured, secret, sender_of, server_of
from mingus_engine.alerts.message import Message
from mingus_engine.alerts.senders import TIMEOUT_S, NotTaken, Sender, mail_of, mail_reason, publish, region_of
from mingus_engine.settings import MAIL, SLACK, SMS, AlertSettings, MailSettings, SlackSettings, SmsSettings

# A notifier's `__call__` would render its texts as Jinja templates, and what failed may contain braces: `notify` only.
_NO_CONTEXT: dict[str, Any] = {}


def senders(alerts: AlertSettings) -> dict[str, Sender]:
    """The senders of the channels that are set up. Connections are looked up here, in the caller's thread; one that
    cannot be had makes a sender that says so.
    """
    makers: dict[str, Callable[[AlertSettings], Sender]] = {MAIL: _mail, SLACK: _slack, SMS: _sms}
    return {name: _or_reason(makers[name], alerts) for name in configured(alerts)}


def _or_reason(make: Callable[[AlertSettings], Sender], alerts: AlertSettings) -> Sender:
    try:
        return make(alerts)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is this channel's alone
        why = f"not set up: {type(error).__name__}: {error}"

        def refuse(_: Message) -> None:
            raise NotTaken(why, lasting=True)

        return refuse


class _Mail(SmtpNotifier):
    """The provider's notifier with a hook that is given its connection and the whole mail."""

    def __init__(self, connection: Connection, mail: EmailMessage, ca_file: str) -> None:
        super().__init__(
            to=[address.strip() for address in str(mail["To"]).split(",")],
            from_email=str(mail["From"]),
            subject=str(mail["Subject"] or "MINGUS"),
            html_content="see the parts",
            smtp_conn_id=connection.conn_id,
        )
        self._connection, self._mail, self._ca_file = connection, mail, ca_file

    @cached_property
    def hook(self) -> SmtpHook:
        return _SmtpHook(self._connection, self._mail, self._ca_file)


class _SmtpHook(SmtpHook):
    def __init__(self, connection: Connection, mail: EmailMessage, ca_file: str) -> None:
        super().__init__(smtp_conn_id=connection.conn_id)
        self._given, self._mail, self._ca_file = connection, mail, ca_file

    def get_connection(self, conn_id: str) -> Connection:  # noqa: ARG002 - the hook's signature
        return self._given

    def _build_ssl_context(self) -> ssl.SSLContext | None:
        return ssl.create_default_context(cafile=self._ca_file) if self._ca_file else super()._build_ssl_context()

    def _build_mime_message(self, *, to: Sequence[str], **_: Any) -> tuple[EmailMessage, list[str]]:
        return self._mail, list(to)


def _mail(alerts: AlertSettings) -> Sender:
    connection = _smtp_connection(alerts.mail)

    def send(message: Message) -> None:
        _send_mail(alerts.mail, connection, addresses(alerts.mail.to), message)

    return send


def _smtp_connection(mail: MailSettings) -> Connection:
    if mail.airflow_connection:
        found = BaseHook.get_connection(mail.airflow_connection)
        mask_secret(found.password)
        extra = {"timeout": int(TIMEOUT_S), **found.extra_dejson, "retry_limit": 0}
        return Connection(
            conn_id=found.conn_id, conn_type="smtp", host=found.host, port=found.port, login=found.login,
            password=found.password, extra=json.dumps(extra),
        )  # fmt: skip
    host, port, security = server_of(mail)
    password = secret(mail.password_env, mail.password_file, "password") if mail.username else None
    if password is not None:
        mask_secret(password.reveal())
    extra = {
        "timeout": int(TIMEOUT_S), "retry_limit": 0,
        "disable_ssl": security != "tls", "disable_tls": security != "starttls",
    }  # fmt: skip
    return Connection(
        conn_id="mingus_mail", conn_type="smtp", host=host, port=port, login=mail.username or None,
        password=password.reveal() if password else None, extra=json.dumps(extra),
    )  # fmt: skip


def _send_mail(
    mail: MailSettings, connection: Connection, to: Sequence[str], message: Message, *, short: bool = False
) -> None:
    sender = mail.sender.strip() or str(connection.extra_dejson.get("from_email") or "") or sender_of(mail)
    built = mail_of(sender or str(connection.login or ""), to, message, short=short)
    try:
        _Mail(connection, built, mail.ca_file).notify(_NO_CONTEXT)
    except (OSError, smtplib.SMTPException, ValueError) as error:
        why, lasting = mail_reason(error)
        raise NotTaken(why, lasting=lasting) from None


class _WebhookHook(SlackWebhookHook):
    def __init__(self, connection: Connection, **more: Any) -> None:
        super().__init__(slack_webhook_conn_id=connection.conn_id, **more)
        self._given = connection

    def get_connection(self, conn_id: str) -> Connection:  # noqa: ARG002 - the hook's signature
        return self._given


class _Webhook(SlackWebhookNotifier):
    """The provider's notifier with a hook that is given its connection."""

    def __init__(self, connection: Connection, message: Message) -> None:
        super().__init__(slack_webhook_conn_id=connection.conn_id, text=message.subject, blocks=message.blocks)
        self._given = connection

    @cached_property
    def hook(self) -> SlackWebhookHook:
        return _WebhookHook(self._given, timeout=int(TIMEOUT_S), retry_handlers=_rate_limited())


class _ApiHook(SlackHook):
    def __init__(self, connection: Connection, **more: Any) -> None:
        super().__init__(slack_conn_id=connection.conn_id, **more)
        self._given = connection

    def get_connection(self, conn_id: str) -> Connection:  # noqa: ARG002 - the hook's signature
        return self._given


class _Api(SlackNotifier):
    """As :class:`_Webhook`, for the Web API."""

    def __init__(self, connection: Connection, message: Message, channel: str, api_url: str) -> None:
        super().__init__(
            slack_conn_id=connection.conn_id, text=message.subject, blocks=message.blocks, channel=channel,
            username="MINGUS", base_url=api_url,
        )  # fmt: skip
        self._given = connection

    @cached_property
    def hook(self) -> SlackHook:
        return _ApiHook(self._given, base_url=self.base_url, timeout=int(TIMEOUT_S), retry_handlers=_rate_limited())


def _rate_limited() -> list[Any]:
    return [RateLimitErrorRetryHandler(max_retry_count=1)]


def _slack(alerts: AlertSettings) -> Sender:
    slack = alerts.slack
    connection, webhook = _slack_connection(slack)
    mask_secret(connection.password)

    def send(message: Message) -> None:
        if webhook:
            _Webhook(connection, message).notify(_NO_CONTEXT)
        else:
            _Api(connection, message, slack.channel, slack.api_url).notify(_NO_CONTEXT)

    return send


def _slack_connection(slack: SlackSettings) -> tuple[Connection, bool]:
    """The connection, and whether it is a webhook's."""
    if slack.airflow_connection:
        found = BaseHook.get_connection(slack.airflow_connection)
        return found, found.conn_type == "slackwebhook"
    url = secret(slack.webhook_url_env, slack.webhook_url_file, "webhook URL")
    if url is not None:
        address = url.reveal().strip()
        return Connection(conn_id="mingus_slack", conn_type="slackwebhook", password=address), True
    token = secret(slack.token_env, slack.token_file, "token")
    if token is None:
        raise NotTaken("neither a webhook URL nor a token")
    return Connection(conn_id="mingus_slack", conn_type="slack", password=token.reveal()), False


def _sms(alerts: AlertSettings) -> Sender:
    sms = alerts.sms
    mail = _smtp_connection(alerts.mail) if sms.gateways else None
    aws = _aws_connection(sms) if sms.topic_arn or sms.phone_numbers else None

    def send(message: Message) -> None:
        failed: list[str] = []
        if mail is not None:
            try:
                _send_mail(alerts.mail, mail, sms.gateways, message, short=True)
            except NotTaken as error:
                failed.append(str(error))
        if aws is not None:
            failed += _publish(sms, aws, message)
        if failed:
            raise NotTaken("; ".join(failed)[:500])

    return send


def _aws_connection(sms: SmsSettings) -> Connection:
    if sms.airflow_connection:
        return BaseHook.get_connection(sms.airflow_connection)
    access = secret(sms.access_key_id_env, "", "access key")
    key = secret(sms.secret_access_key_env, "", "secret key")
    if key is not None:
        mask_secret(key.reveal())
    retries = {"total_max_attempts": 1}
    extra: dict[str, Any] = {
        "config_kwargs": {"connect_timeout": TIMEOUT_S, "read_timeout": TIMEOUT_S, "retries": retries}
    }
    if sms.endpoint:
        extra["endpoint_url"] = sms.endpoint
    return Connection(
        conn_id="mingus_sms", conn_type="aws", login=access.reveal() if access and key else None,
        password=key.reveal() if access and key else None, extra=json.dumps(extra),
    )  # fmt: skip


def _publish(sms: SmsSettings, connection: Connection, message: Message) -> list[str]:
    """By the provider's notifier to the topic; it knows no telephone numbers, so those by its hook's client."""
    from airflow.providers.amazon.aws.hooks.sns import SnsHook
    from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

    class Hook(SnsHook):
        def get_connection(self, conn_id: str) -> Connection:  # noqa: ARG002 - the hook's signature
            return connection

    class Topic(SnsNotifier):
        @cached_property
        def hook(self) -> SnsHook:
            return hook

    hook = Hook(aws_conn_id=connection.conn_id, region_name=region_of(sms) or None)
    failed: list[str] = []
    if sms.topic_arn:
        try:
            Topic(target_arn=sms.topic_arn, message=message.short, aws_conn_id=connection.conn_id).notify(_NO_CONTEXT)
        except Exception as error:  # noqa: BLE001 - of boto or the provider; the numbers are still tried
            failed.append(f"SNS: {type(error).__name__}: {error}"[:300])
    if sms.phone_numbers:
        numbers = SmsSettings(phone_numbers=sms.phone_numbers)
        failed += publish(hook.get_conn(), numbers, message)
    return failed
