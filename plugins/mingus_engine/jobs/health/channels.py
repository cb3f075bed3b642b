"""Whether somebody would be told: the channels of alerts, as far as it can be seen without sending."""

from __future__ import annotations

from collections.abc import Iterator

from mingus_engine import alerts
from mingus_engine.errors import AlertNotSent, SettingsError
from mingus_engine.jobs.health.findings import WARN, Finding
from mingus_engine.settings import CHANNELS, Settings

_NOBODY = "no channel is set up: nobody is told of a failure; docs/ALERTS.md"


def look(settings: Settings) -> Iterator[Finding]:
    """Of each channel that is set up or was meant to be, of the section as a whole, of what remembers what was told.

    Warnings: no backup depends on them.
    """
    channels = alerts.configured(settings.alerts)
    wrong: dict[str, list[str]] = {}
    for problem in alerts.problems(settings):
        wrong.setdefault(problem.channel, []).append(problem.text)
    failures = {failure.channel: failure for failure in alerts.last_failures(settings)}
    if not channels and not wrong:
        yield Finding("alerts", False, _NOBODY, known=False)
    for channel in ("", *CHANNELS):
        check = f"alerts-{channel or 'settings'}"
        failure = failures.get(channel) if channel in channels else None
        if channel in wrong:
            yield Finding(check, False, "; ".join(wrong[channel]), severity=WARN, hint=SettingsError.hint)
        elif failure is not None:
            detail = f"the last message, {failure.at}, was not taken (since {failure.since}): {failure.why}"
            yield Finding(check, False, detail, severity=WARN, hint=AlertNotSent.hint)
        elif channel in channels:
            yield Finding(check, True, "set up; it took its last message, if there was one")
    if channels:
        yield _memory(settings)


def _memory(settings: Settings) -> Finding:
    try:
        alerts.Memory(settings).check()
    except OSError as error:
        detail = f"{settings.alerts_path} cannot be written: {error.strerror}; alerts are told again and again"
        hint = "free space on that disk, or give the account of the tasks the right to write there"
        return Finding("alerts-memory", False, detail, severity=WARN, hint=hint)
    return Finding("alerts-memory", True, "what was told is remembered")
