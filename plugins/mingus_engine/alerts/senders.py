"""How a message reaches each channel, with the standard library and boto3: no Airflow."""

from __future__ import annotations

import contextlib
import json
import smtplib
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from email.message import EmailMessage
from email.utils import formatdate, make_msgid
from typing import Any, TypeAlias
from urllib.parse import urljoin

from mingus_engine.alerts.checking import addresses, configured, secret, sender_of, server_of
from mingus_engine.alerts.message import Message
from mingus_engine.settings import MAIL, SLACK, SMS, AlertSettings, MailSettings, SlackSettings, SmsSettings

#: Gives one message to one channel; raises when it was not taken.
Sender: TypeAlias = Callable[[Message], None]

# Of one wait for the other side; the try as a whole is bounded by ``delivering``.
TIMEOUT_S = 8.0
_ANSWER_MAX_BYTES = 64 << 10


class NotTaken(Exception):
    """A message was not taken.

    :param lasting: the same message would be refused again. :param retry_after_s: what the other side asks for.
    """

    def __init__(self, text: str, *, lasting: bool = False, retry_after_s: float = 0.0) -> None:
        super().__init__(text)
        self.lasting, self.retry_after_s = lasting, retry_after_s


def senders(alerts: AlertSettings) -> dict[str, Sender]:
    """The senders of the channels that are set up, as the settings and the environment say."""
    makers: dict[str, Sender] = {
        MAIL: lambda message: send_mail(alerts.mail, addresses(alerts.mail.to), message),
        SLACK: lambda message: send_slack(alerts.slack, message),
        SMS: lambda message: send_sms(alerts.sms, alerts.mail, message),
    }
    return {name: makers[name] for name in configured(alerts)}


def mail_of(sender: str, to: Sequence[str], message: Message, *, short: bool = False) -> EmailMessage:
    """The mail: plain text and HTML; *short* = only what fits into an SMS."""
    mail = EmailMessage()
    mail["From"], mail["To"] = sender, ", ".join(to)
    mail["Date"], mail["Message-ID"] = formatdate(localtime=False), make_msgid(domain="mingus")
    mail["Auto-Submitted"] = "auto-generated"
    if short:
        mail.set_content(message.short)
        return mail
    mail["Subject"] = message.subject
    # 7-bit whatever the text: providers hand mails on as text, and not every server takes eight bits.
    mail.set_content(message.text, cte="quoted-printable")
    mail.add_alternative(message.html, subtype="html", cte="quoted-printable")
    return mail


def send_mail(settings: MailSettings, to: Sequence[str], message: Message, *, short: bool = False) -> None:
    """Give *message* to the mail server. TLS is verified; a server that does not offer STARTTLS gets nothing.

    :raises NotTaken: it did not take it, for all recipients.
    """
    try:
        host, port, security = server_of(settings)
        context = ssl.create_default_context(cafile=settings.ca_file or None)
        password = secret(settings.password_env, settings.password_file, "password") if settings.username else None
        mail = mail_of(sender_of(settings), to, message, short=short)
        server: smtplib.SMTP
        if security == "tls":
            server = smtplib.SMTP_SSL(host, port, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(host, port, timeout=TIMEOUT_S)
        try:
            if security == "starttls":
                server.starttls(context=context)
            if password is not None:
                server.login(settings.username, password.reveal())
            refused = server.send_message(mail)
        finally:
            with contextlib.suppress(OSError, smtplib.SMTPException):
                server.close()
    except (OSError, smtplib.SMTPException, ValueError) as error:
        why, lasting = mail_reason(error)
        raise NotTaken(why, lasting=lasting) from None
    if refused:
        raise NotTaken(f"the mail server refused {', '.join(sorted(refused))}; the others have it", lasting=True)


def mail_reason(error: Exception) -> tuple[str, bool]:
    """Why, and whether it would happen again. Answers of servers are shown without the mail they quote."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"the mail server's certificate is not trusted: {error.verify_message}", True
        case smtplib.SMTPNotSupportedError():
            return f"the mail server cannot do what is asked: {error}", True
        case smtplib.SMTPRecipientsRefused():
            codes = [code for code, _ in error.recipients.values()]
            return f"the mail server refused every recipient ({codes[0]})", all(code >= 500 for code in codes)
        case smtplib.SMTPResponseException():
            said = error.smtp_error
            text = said.decode("utf-8", "replace") if isinstance(said, bytes) else str(said)
            return f"the mail server refused: {error.smtp_code} {text[:200]}", error.smtp_code >= 500
        case _:
            return f"mail: {type(error).__name__}: {error}"[:300], isinstance(error, ValueError)


def send_slack(settings: SlackSettings, message: Message) -> None:
    """Post *message* to the webhook, else by the Web API.

    :raises NotTaken: Slack did not take it. The text never holds the URL, which is a secret.
    """
    body: dict[str, Any] = {"text": message.subject, "blocks": message.blocks}
    url = secret(settings.webhook_url_env, settings.webhook_url_file, "webhook URL")
    if url is not None:
        answer = _post(url.reveal().strip(), body, {})
        if answer.strip() != b"ok":
            raise NotTaken(f"Slack: unexpected answer {answer[:80]!r}", lasting=True)
        return
    token = secret(settings.token_env, settings.token_file, "token")
    if token is None:
        raise NotTaken("Slack: neither a webhook URL nor a token", lasting=True)
    body |= {"channel": settings.channel}
    answer = _post(urljoin(settings.api_url, "chat.postMessage"), body, {"Authorization": f"Bearer {token.reveal()}"})
    try:
        said = json.loads(answer)
        taken, why = said["ok"] is True, str(said.get("error", ""))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise NotTaken(f"Slack: unexpected answer {answer[:80]!r}", lasting=True) from None
    if not taken:
        raise NotTaken(f"Slack refused: {why[:100]}", lasting=why != "ratelimited")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the message, and a token, elsewhere."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Refuse."""


def _post(url: str, body: dict[str, Any], headers: dict[str, str]) -> bytes:
    request = urllib.request.Request(  # noqa: S310 - https, or http to this machine: `problems`
        url, json.dumps(body).encode(), {"Content-Type": "application/json; charset=utf-8", **headers}
    )
    try:
        with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT_S) as answer:
            return bytes(answer.read(_ANSWER_MAX_BYTES))
    except urllib.error.HTTPError as error:
        with error:
            said = error.read(200).decode("utf-8", "replace")
        after = error.headers.get("Retry-After", "")
        raise NotTaken(
            f"Slack answered HTTP {error.code}: {said}",
            lasting=error.code < 500 and error.code not in {408, 429},
            retry_after_s=float(after) if after.isdecimal() else 0.0,
        ) from None
    except urllib.error.URLError as error:
        raise NotTaken(f"Slack cannot be reached: {error.reason}") from None
    except (OSError, ValueError) as error:
        raise NotTaken(f"Slack cannot be reached: {type(error).__name__}") from None


def send_sms(settings: SmsSettings, mail: MailSettings, message: Message) -> None:
    """Send the short text to the topic, the numbers and the gateways; each is tried.

    :raises NotTaken: one of them did not take it.
    """
    failed: list[str] = []
    if settings.gateways:
        try:
            send_mail(mail, settings.gateways, message, short=True)
        except NotTaken as error:
            failed.append(str(error))
    if settings.topic_arn or settings.phone_numbers:
        failed += publish(_sns(settings), settings, message)
    if failed:
        raise NotTaken("; ".join(failed)[:500])


def publish(client: Any, settings: SmsSettings, message: Message) -> list[str]:
    """Publish the short text by *client* (of SNS) to the topic and every number; what failed."""
    from botocore.exceptions import BotoCoreError, ClientError

    targets = [{"TopicArn": settings.topic_arn}] if settings.topic_arn else []
    targets += [{"PhoneNumber": number} for number in settings.phone_numbers]
    failed = []
    for target in targets:
        try:
            client.publish(Message=message.short, **target)
        except ClientError as error:
            failed.append(f"SNS refused: {error.response.get('Error', {}).get('Code', 'unknown')}")
        except BotoCoreError as error:
            failed.append(f"SNS cannot be reached: {type(error).__name__}")
    return failed


def region_of(settings: SmsSettings) -> str:
    """The region of SNS."""
    return settings.region or (settings.topic_arn.split(":")[3] if settings.topic_arn.count(":") >= 4 else "")


def _sns(settings: SmsSettings) -> Any:
    import boto3
    from botocore.config import Config

    access = secret(settings.access_key_id_env, "", "access key")
    key = secret(settings.secret_access_key_env, "", "secret key")
    return boto3.client(
        "sns",
        region_name=region_of(settings) or None,
        endpoint_url=settings.endpoint or None,
        aws_access_key_id=access.reveal() if access and key else None,
        aws_secret_access_key=key.reveal() if access and key else None,
        config=Config(connect_timeout=TIMEOUT_S, read_timeout=TIMEOUT_S, retries={"total_max_attempts": 1}),
    )
