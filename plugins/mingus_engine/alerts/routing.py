"""Which channels an event goes to."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from mingus_engine.alerts.event import CRITICAL, WARNING
from mingus_engine.settings import SMS, AlertSettings


def channels_of(alerts: AlertSettings, severity: str, source: str, known: Sequence[str]) -> tuple[str, ...]:
    """Those of the *known* (set up) channels that an event of *severity* and *source* goes to.

    What is critical always goes somewhere: where no route fits, or those that fit name no channel that is set up, to
    all. ``info`` goes nowhere unless a route says so.
    """
    if not alerts.routes:
        chosen = {CRITICAL: set(known), WARNING: set(known) - {SMS}}.get(severity, set())
        return tuple(name for name in known if name in chosen)
    fits = [
        route
        for route in alerts.routes
        if (not route.severities or severity in route.severities)
        and (not source or not route.sources or any(fnmatchcase(source, pattern) for pattern in route.sources))
    ]
    found = tuple(name for name in known if any(name in route.channels for route in fits))
    return found or (tuple(known) if severity == CRITICAL else ())
