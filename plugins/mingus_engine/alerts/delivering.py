"""One message to several channels at once, each with three tries, none longer than its bound, and what came of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mingus_engine.alerts import outcomes
from mingus_engine.alerts.event import CHANNEL, WARNING, Event
from mingus_engine.alerts.message import Message, compose
from mingus_engine.alerts.senders import NotTaken, Sender
from mingus_engine.settings import Settings

# A healthy server answers within a second; a task waits for this at its end.
TRY_TIMEOUT_S = 10.0
TRIES = 3
_PAUSES_S = (1.0, 2.0)


@dataclass(frozen=True)
class Outcome:
    """How a message to one channel ended. :param why: it was not taken; empty = it was."""

    channel: str
    ok: bool
    tries: int
    why: str = ""


def deliver(
    settings: Settings,
    message: Message,
    senders: Mapping[str, Sender],
    *,
    log: Callable[[str], None],
    told: Callable[[Outcome], None] = lambda _: None,
    redacted: Callable[[str], str] = str,
) -> list[Outcome]:
    """Send *message* by all of *senders* at once; what came of it is remembered, and told by those that work.

    Takes at most ``TRIES × TRY_TIMEOUT_S`` and the pauses between, twice where a channel has to speak for another.
    Never raises.

    :param told: called for every outcome (metrics). :param redacted: takes secrets out of a text.
    """
    found = _at_once(message, senders, redacted)
    for outcome in found:
        outcomes.note(settings, outcome.channel, outcome.why or None)
        told(outcome)
        if not outcome.ok:
            log(f"alert: {outcome.channel} did not take a message in {outcome.tries} tries: {outcome.why}")
    bad = [outcome for outcome in found if not outcome.ok]
    good = {outcome.channel: senders[outcome.channel] for outcome in found if outcome.ok}
    if bad and good:
        for outcome in _at_once(_about(bad), good, redacted):
            told(outcome)
    return found


def _about(bad: list[Outcome]) -> Message:
    lines = "\n".join(f"{outcome.channel} could not be sent: {outcome.why}" for outcome in bad)
    hint = "who reads only there has not been told; `mingus alert test` tries every channel; docs/ALERTS.md"
    return compose([Event(kind=CHANNEL, severity=WARNING, what=lines, hint=hint)])


def _at_once(message: Message, senders: Mapping[str, Sender], redacted: Callable[[str], str]) -> list[Outcome]:
    found: dict[str, Outcome] = {}

    def work(channel: str, sender: Sender) -> None:
        found[channel] = _persistently(channel, sender, message, redacted)

    threads = [
        threading.Thread(target=work, args=pair, name=f"alert-{pair[0]}", daemon=True) for pair in senders.items()
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[channel] for channel in senders]


def _persistently(channel: str, sender: Sender, message: Message, redacted: Callable[[str], str]) -> Outcome:
    why = ""
    for number in range(1, TRIES + 1):
        error = _once(sender, message)
        if error is None:
            return Outcome(channel, True, number)
        why = redacted(str(error) if isinstance(error, NotTaken) else f"{type(error).__name__}: {error}")[:500]
        if number == TRIES or (isinstance(error, NotTaken) and error.lasting):
            return Outcome(channel, False, number, why)
        asked = error.retry_after_s if isinstance(error, NotTaken) else 0.0
        time.sleep(min(max(_PAUSES_S[number - 1], asked), TRY_TIMEOUT_S))
    return Outcome(channel, False, TRIES, why)


def _once(sender: Sender, message: Message) -> BaseException | None:
    """One try in a thread of its own: who sends a byte a second defeats every time-out of a socket."""
    box: list[BaseException | None] = []

    def work() -> None:
        try:
            sender(message)
            box.append(None)
        except BaseException as error:  # noqa: BLE001 - whatever it is, the message was not taken
            box.append(error)

    thread = threading.Thread(target=work, name="alert-try", daemon=True)
    thread.start()
    thread.join(TRY_TIMEOUT_S)
    return box[0] if box else NotTaken(f"no answer within {TRY_TIMEOUT_S:.0f} s")
