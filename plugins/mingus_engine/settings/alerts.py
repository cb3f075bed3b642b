"""Who is told when something is wrong, and how.

A mistake in this section must not stop backups: each part that cannot be read keeps its defaults, and what is wrong
with it is said by ``mingus check``, by the health check, in the log whenever the DAGs are read, and by
:func:`mingus_engine.alerts.problems`.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mingus_engine.errors import SettingsError
from mingus_engine.settings.building import build

MAIL, SLACK, SMS = "mail", "slack", "sms"
CHANNELS = (MAIL, SLACK, SMS)


@dataclass(frozen=True)
class MailSettings:
    """Alerts by e-mail. Truth values and ports are texts here, so that a wrong one is reported instead of raised.

    :param enabled: ``true`` or ``false``. :param server: ``host`` or ``host:port``; without a port 587.
    :param security: ``starttls``, ``tls`` (from the first byte) or ``none``; empty = ``tls`` on port 465, else
        ``starttls``. Certificate and name are always verified.
    :param sender: empty = *username* where that is an address. :param to: addresses, separated by commas.
    :param ca_file: PEM of a private certificate authority.
    :param airflow_connection: of type ``smtp``; what Airflow's tasks use instead of server, user and password.
    """

    enabled: str = "${EMAIL_ALERTS_ENABLED:-false}"
    server: str = "${EMAIL_SMTP_SERVER:-}"
    security: str = ""
    username: str = "${EMAIL_USERNAME:-}"
    password_env: str = "EMAIL_PASSWORD"  # noqa: S105 - the name of a variable
    password_file: str = ""
    sender: str = "${EMAIL_FROM:-}"
    to: str = "${EMAIL_TO:-}"
    ca_file: str = ""
    airflow_connection: str = ""


@dataclass(frozen=True)
class SlackSettings:
    """Alerts to Slack: an incoming webhook, or the Web API with a token and a channel.

    :param webhook_url_env, webhook_url_file: where the URL is; it is a secret.
    :param token_env, token_file: where the token of a bot is; used when there is no webhook.
    :param channel: name or id, for the Web API. :param api_url: of the Web API.
    :param airflow_connection: of type ``slackwebhook`` or ``slack``; what Airflow's tasks use instead.
    """

    webhook_url_env: str = "SLACK_WEBHOOK_URL"
    webhook_url_file: str = ""
    token_env: str = "SLACK_API_TOKEN"  # noqa: S105 - the name of a variable
    token_file: str = ""
    channel: str = ""
    api_url: str = "https://slack.com/api/"
    airflow_connection: str = ""


@dataclass(frozen=True)
class SmsSettings:
    """Short texts to telephones: Amazon SNS (a topic, or numbers), or a gateway that takes e-mail.

    :param topic_arn: its subscribers get the text. :param phone_numbers: ``+`` and digits.
    :param gateways: addresses of an e-mail-to-SMS gateway; sent by the mail server of ``alerts.mail``.
    :param region: of SNS; empty = that of *topic_arn*. :param endpoint: empty = AWS.
    :param airflow_connection: of type ``aws``; what Airflow's tasks use instead of the two variables.
    """

    topic_arn: str = ""
    phone_numbers: tuple[str, ...] = ()
    gateways: tuple[str, ...] = ()
    region: str = ""
    endpoint: str = ""
    access_key_id_env: str = "AWS_ACCESS_KEY_ID"
    secret_access_key_env: str = "AWS_SECRET_ACCESS_KEY"  # noqa: S105 - the name of a variable
    airflow_connection: str = ""


@dataclass(frozen=True)
class RouteSettings:
    """Which alerts go where; every route that fits counts.

    :param severities: ``critical``, ``warning``, ``info``; none named = all.
    :param sources: ids of sources, ``*`` as in a shell; none named = all. An alert of no source fits all of them.
    :param channels: ``mail``, ``slack``, ``sms``.
    """

    severities: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class AlertSettings:
    """The section ``alerts``.

    :param routes: empty = critical to every channel, warnings to all but ``sms``.
    :param repeat_interval_s: a failure that lasts is told again after so long.
    :param group_wait_s: so long the first of several sources that fail in one run waits for the others.
    :param deadlines: DAG → seconds from the moment a run is queued until somebody is told that it is late; 0 = never.
    :param directory: what was told already; empty = ``<state_directory>/alerts``. Where workers run on several
        machines, a directory that they share.
    :param mistakes: what of the section could not be read, each a text that names the key.
    """

    mail: MailSettings = field(default_factory=MailSettings)
    slack: SlackSettings = field(default_factory=SlackSettings)
    sms: SmsSettings = field(default_factory=SmsSettings)
    routes: tuple[RouteSettings, ...] = ()
    repeat_interval_s: int = 4 * 3600
    group_wait_s: int = 20
    deadlines: Mapping[str, Any] = field(default_factory=dict)
    directory: str = ""
    mistakes: tuple[str, ...] = ()


def read_alerts(raw: Any, where: str, environ: Mapping[str, str]) -> AlertSettings:
    """The section as it can be read: what is wrong keeps its default and is named in ``mistakes``."""
    mistakes: list[str] = []

    def attempt(values: Mapping[str, Any]) -> AlertSettings | None:
        try:
            return typing.cast(AlertSettings, build(AlertSettings, dict(values), where, environ))
        except SettingsError as error:
            mistakes.append(error.message)
            return None

    found = typing.cast(AlertSettings, build(AlertSettings, {}, where, environ))
    if raw is None:
        return found
    if not isinstance(raw, dict):
        return replace(found, mistakes=(f"{where}: must be a mapping, not {type(raw).__name__}",))
    for key, value in raw.items():
        if key == "mail" and isinstance(value, dict) and isinstance(value.get("enabled"), bool):
            value = {**value, "enabled": str(value["enabled"]).lower()}
        one = attempt({key: value}) if key != "mistakes" else None
        if one is not None:
            found = replace(found, **{key: getattr(one, key)})
    return replace(found, mistakes=tuple(mistakes))
