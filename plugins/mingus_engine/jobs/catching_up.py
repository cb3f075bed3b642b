"""Bringing archived log from one repository of a chain to another, for whoever goes on where it ends."""

from __future__ import annotations

from typing import Any

from mingus_engine.errors import Cancelled, MingusError, SettingsError
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.ship import ship_logs
from mingus_engine.settings import Settings


def catch_up(settings: Settings, source_id: str, to: str, context: JobContext) -> None:
    """Bring log that other repositories of the chain have to *to*; what cannot be had is said."""
    for name in settings.chain(source_id):
        if name != to:
            copied(settings, source_id, name, to, context)


def copied(settings: Settings, source_id: str, origin: str, destination: str, context: JobContext) -> dict[str, Any]:
    """One hop, its failure as a result: one repository that is down stops no other."""
    context.progress("ship", 0, 0, destination)
    try:
        report = ship_logs(settings, source_id, origin=origin, destination=destination, context=context)
    except (Cancelled, SettingsError):
        raise
    except MingusError as error:
        context.log(f"log was not shipped from {origin} to {destination}: {error.message}")
        return {"name": destination, "ok": False, "error": error.message, "transient": error.transient}
    return {"name": destination, "ok": True, "objects_put": report.objects_put, "bytes_put": report.bytes_put}
