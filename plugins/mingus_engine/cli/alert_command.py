"""``alert``: try the channels by which people are told."""

from __future__ import annotations

import argparse
import socket

from mingus_engine.cli import output
from mingus_engine.cli.arguments import Parser, Subparsers, command
from mingus_engine.cli.session import Failed, Session
from mingus_engine.errors import AlertNotSent, MingusError, SettingsError


def add(commands: Subparsers) -> None:
    """The parsers."""
    top = commands.add_parser("alert", help="try the channels of alerts: mail, Slack, SMS")
    verbs = top.add_subparsers(metavar="COMMAND", required=True, title="commands", parser_class=Parser)
    parser = command(
        verbs, "test", "send a test message by every channel that is set up", run_test,
        more="Says of each whether it was taken, and why not. It uses what the settings and the environment say, not"
        " Airflow's connections.",
    )  # fmt: skip
    parser.set_defaults(command="alert test")
    parser.add_argument(
        "--channel", choices=("mail", "slack", "sms"), action="append", help="only this one; repeatable"
    )


def run_test(args: argparse.Namespace, session: Session) -> int:
    """Run ``alert test``."""
    from mingus_engine import alerts
    from mingus_engine.alerts import delivering, message
    from mingus_engine.alerts.event import INFO, TEST, Event
    from mingus_engine.alerts.senders import senders

    settings = session.settings
    known = senders(settings.alerts)
    wrong = alerts.problems(settings)
    chosen = args.channel or list(known)
    rows: list[tuple[str, str, str]] = []
    good = []
    for channel in chosen:
        texts = [problem.text for problem in wrong if problem.channel == channel]
        if channel not in known:
            rows.append((channel, "not sent", "; ".join(texts) or "not set up"))
        elif texts:
            rows.append((channel, "not sent", "; ".join(texts)))
        else:
            good.append(channel)
    for problem in wrong:
        if not problem.channel:
            session.console.warn(problem.text)
    if not chosen:
        raise SettingsError(
            "no channel is set up: nobody is told of a failure", hint="docs/ALERTS.md; section `alerts`"
        )
    what = f"This is a test of the alerts of {socket.gethostname()}; nothing is wrong."
    event = Event(kind=TEST, severity=INFO, what=what, hint="nothing has to be done")
    outcomes = delivering.deliver(
        settings, message.compose([event]), {name: known[name] for name in good}, log=lambda _: None
    )
    rows += [
        (outcome.channel, "sent" if outcome.ok else "not sent", outcome.why or f"taken in try {outcome.tries}")
        for outcome in outcomes
    ]
    document = {"channels": [dict(zip(("channel", "result", "detail"), row, strict=True)) for row in rows]}
    session.console.lines(output.table(("CHANNEL", "RESULT", "DETAIL"), rows))
    bad = [channel for channel, result, _ in rows if result != "sent"]
    if bad:
        text = f"{len(bad)} of {len(rows)} channels did not work: {', '.join(bad)}"
        error: MingusError = AlertNotSent(text) if len(good) == len(rows) else SettingsError(text)
        raise Failed(error, document)
    session.console.document(document)
    return 0
