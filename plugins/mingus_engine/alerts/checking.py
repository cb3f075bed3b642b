"""Which channels are set up, and what is wrong with the settings: said at start, not at the first alarm."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from urllib.parse import urlsplit

from mingus_engine.errors import SettingsError
from mingus_engine.settings import (
    CHANNELS,
    MAIL,
    SLACK,
    SMS,
    AlertSettings,
    MailSettings,
    Secret,
    Settings,
    SlackSettings,
    read_secret,
)

SEVERITIES = ("critical", "warning", "info")
SECURITIES = ("starttls", "tls", "none")
_ADDRESS = re.compile(r"[^@\s,;<>\"]+@[^@\s,;<>\"]+")
_PHONE = re.compile(r"\+[1-9][0-9]{6,14}")
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}(\.fifo)?")
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off", ""}


@dataclass(frozen=True)
class Problem:
    """Something wrong with the settings of alerts.

    :param channel: which one does not work for it; empty = not of one channel. :param text: names the key.
    """

    channel: str
    text: str


def problems(settings: Settings, environ: Mapping[str, str] | None = None) -> list[Problem]:
    """Everything wrong with the section ``alerts``, as far as it can be seen without sending. Empty = all is well, also
    where no channel is set up (see :func:`configured`).
    """
    environ = os.environ if environ is None else environ
    alerts = settings.alerts
    return [
        *(Problem("", text) for text in alerts.mistakes),
        *(Problem(MAIL, f"alerts.mail: {text}") for text in _mail(alerts.mail, environ)),
        *(Problem(SLACK, f"alerts.slack: {text}") for text in _slack(alerts.slack, environ)),
        *(Problem(SMS, f"alerts.sms: {text}") for text in _sms(alerts, environ)),
        *(Problem("", f"alerts.{text}") for text in _routes(settings, environ)),
        *(Problem("", f"alerts.{text}") for text in _numbers(alerts)),
    ]


def configured(alerts: AlertSettings, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The channels that are set up, in the order of ``CHANNELS``, those with problems included."""
    environ = os.environ if environ is None else environ
    slack, sms = alerts.slack, alerts.sms
    found = {
        MAIL: mail_enabled(alerts.mail),
        SLACK: bool(
            slack.airflow_connection or slack.webhook_url_file or slack.token_file
            or environ.get(slack.webhook_url_env) or environ.get(slack.token_env)
        ),
        SMS: bool(sms.topic_arn or sms.phone_numbers or sms.gateways),
    }  # fmt: skip
    return tuple(name for name in CHANNELS if found[name])


def mail_enabled(mail: MailSettings) -> bool:
    """Whether mail is to be sent; a value that is neither yes nor no counts as yes, and is a problem."""
    return mail.enabled.strip().lower() not in _FALSE


def server_of(mail: MailSettings) -> tuple[str, int, str]:
    """Host, port and security of the mail server.

    :raises ValueError: the text is no ``host`` or ``host:port``.
    """
    parts = urlsplit(f"//{mail.server.strip()}")
    if not parts.hostname or parts.path or parts.username:
        raise ValueError(f"server {mail.server!r} is not host or host:port")
    port = parts.port or 587
    return parts.hostname, port, mail.security or ("tls" if port == 465 else "starttls")


def sender_of(mail: MailSettings) -> str:
    """The address that mail comes from."""
    return mail.sender.strip() or mail.username.strip()


def addresses(text: str) -> list[str]:
    """The addresses of a list separated by commas or semicolons."""
    return [part.strip() for part in re.split("[,;]", text) if part.strip()]


def secret(name: str, file: str, what: str, environ: Mapping[str, str] | None = None) -> Secret | None:
    """The secret of a variable or a file. :raises SettingsError: the file cannot be read."""
    return read_secret(name, file, environ=environ, what=what)


def is_local(host: str) -> bool:
    """Whether *host* is this machine, where nobody listens in between."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _readable(name: str, file: str, what: str, environ: Mapping[str, str]) -> str:
    try:
        found = secret(name, file, what, environ)
    except SettingsError as error:
        return error.message
    return "" if found is not None else f"no {what}: set {name}"


def _mail(mail: MailSettings, environ: Mapping[str, str]) -> Iterator[str]:
    enabled = mail.enabled.strip().lower()
    if enabled not in _TRUE | _FALSE:
        yield f"enabled (EMAIL_ALERTS_ENABLED) is {mail.enabled!r}, not true or false"
    if enabled in _FALSE:
        return
    to, sender = addresses(mail.to), sender_of(mail)
    if not to:
        yield "no recipient: set to (EMAIL_TO)"
    for address in (*to, *([sender] if sender and not mail.airflow_connection else [])):
        if _ADDRESS.fullmatch(address) is None:
            yield f"{address!r} is not an address"
    if mail.airflow_connection:
        return
    if not sender:
        yield "no sender: set sender (EMAIL_FROM)"
    if not mail.server:
        yield "no server: set server (EMAIL_SMTP_SERVER)"
        return
    yield from _transport(mail, environ)


def _transport(mail: MailSettings, environ: Mapping[str, str]) -> Iterator[str]:
    try:
        host, _, security = server_of(mail)
    except ValueError:
        yield f"server (EMAIL_SMTP_SERVER) {mail.server!r} is not host or host:port"
        return
    if security not in SECURITIES:
        yield f"security {security!r} is not one of {', '.join(SECURITIES)}"
    if mail.username:
        if text := _readable(mail.password_env, mail.password_file, "password", environ):
            yield text
        if security == "none" and not is_local(host):
            yield f"security none would send the password to {host} in clear"
    if mail.ca_file and not Path(mail.ca_file).is_file():
        yield f"ca_file {mail.ca_file} is not there"


def _slack(slack: SlackSettings, environ: Mapping[str, str]) -> Iterator[str]:
    if slack.airflow_connection:
        return
    url = None
    try:
        url = secret(slack.webhook_url_env, slack.webhook_url_file, "webhook URL", environ)
        token = secret(slack.token_env, slack.token_file, "token", environ)
    except SettingsError as error:
        yield error.message
        return
    if url is not None:
        if not _is_safe(url.reveal()):
            yield f"the webhook URL ({slack.webhook_url_env}) is no https:// address"
    elif token is not None:
        if not slack.channel:
            yield "a token needs a channel"
        if not _is_safe(slack.api_url):
            yield f"api_url {slack.api_url!r} is no https:// address"
    elif slack.channel:
        yield f"no webhook URL and no token: set {slack.webhook_url_env} or {slack.token_env}"


def _is_safe(url: str) -> bool:
    """Whether nobody in between reads what is sent to *url*."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return False
    return bool(parts.hostname) and (
        parts.scheme == "https" or (parts.scheme == "http" and is_local(str(parts.hostname)))
    )


def _sms(alerts: AlertSettings, environ: Mapping[str, str]) -> Iterator[str]:
    sms = alerts.sms
    if sms.topic_arn and _TOPIC.fullmatch(sms.topic_arn) is None:
        yield f"topic_arn {sms.topic_arn!r} is not the ARN of a topic"
    for number in sms.phone_numbers:
        if _PHONE.fullmatch(number) is None:
            yield f"phone number {number!r} is not + and digits"
    if sms.phone_numbers and not sms.region and not sms.topic_arn:
        yield "phone_numbers need a region"
    for address in sms.gateways:
        if _ADDRESS.fullmatch(address) is None:
            yield f"gateway {address!r} is not an address"
    if sms.gateways and not (alerts.mail.server or alerts.mail.airflow_connection):
        yield "gateways need the mail server of alerts.mail"
    elif sms.gateways and not mail_enabled(alerts.mail):
        yield from _transport(alerts.mail, environ)
    if sms.endpoint and not _is_safe(sms.endpoint):
        yield f"endpoint {sms.endpoint!r} is no https:// address"


def _routes(settings: Settings, environ: Mapping[str, str]) -> Iterator[str]:
    alerts = settings.alerts
    known = configured(alerts, environ)
    ids = [source.id for source in settings.sources]
    for i, route in enumerate(alerts.routes):
        place = f"routes[{i}]"
        if not route.channels:
            yield f"{place} names no channel"
        for severity in route.severities:
            if severity not in SEVERITIES:
                yield f"{place}: severity {severity!r} is not one of {', '.join(SEVERITIES)}"
        for channel in route.channels:
            if channel not in CHANNELS:
                yield f"{place}: channel {channel!r} is not one of {', '.join(CHANNELS)}"
            elif channel not in known:
                yield f"{place}: channel {channel!r} is not set up"
        for pattern in route.sources:
            if not any(fnmatchcase(name, pattern) for name in ids):
                yield f"{place}: no source is called {pattern!r}"


def _numbers(alerts: AlertSettings) -> Iterator[str]:
    if alerts.repeat_interval_s < 60:
        yield "repeat_interval_s must be at least 60"
    if not 0 <= alerts.group_wait_s <= 60:
        yield "group_wait_s must be 0 to 60"
    for dag, seconds in alerts.deadlines.items():
        if isinstance(seconds, bool) or not isinstance(seconds, int) or seconds < 0:
            yield f"deadlines.{dag}: {seconds!r} is not a number of seconds"
