"""Plan a recovery of Redis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mingus_airflow.connections import resolve_destination
from mingus_airflow.operators.recovery_plan import RecoveryPlanOperator, dry
from mingus_airflow.recovery import EXTRACT
from mingus_airflow.recovery_redis import RedisOrder
from mingus_engine.jobs.context import JobContext
from mingus_engine.settings import Settings

# What counting tells of keys for a running server; the rest of that report is about work that was not done yet.
_COUNTED = ("destination", "selected", "databases", "expired", "other", "conflict", "conflicts")


class RedisRecoveryPlanOperator(RecoveryPlanOperator[RedisOrder]):
    """Plans to restore to a directory, or to restore keys into a running server.

    :param order: as ``RedisOrder``. (templated) :param settings_file: (templated)
    """

    order_type = RedisOrder

    def planned(self, settings: Settings, order: RedisOrder, context: JobContext) -> dict[str, Any]:
        """The plan of ``restore_into`` or ``restore_redis``, and the newest window of what is recorded."""
        from mingus_engine.jobs.redis.windows import windows

        report = _plan(settings, order, context)
        found = windows(settings, order.source, repository=report["repository"], context=context)
        return {**report, "restorable_from": found.restorable_from, "restorable_to": found.restorable_to}


def _plan(settings: Settings, order: RedisOrder, context: JobContext) -> dict[str, Any]:
    common = {**dry(order, context), **order.moment()}
    if order.mode == EXTRACT:
        from mingus_engine.jobs.redis.restore_into import restore_into

        settings = resolve_destination(settings, order.into, "redis")
        report = restore_into(settings, order.source, **order.extraction(), **common).as_dict()
        return {**report, "plan": {name: report[name] for name in _COUNTED if name in report}}
    from mingus_engine.jobs.redis.restore import restore_redis

    # A drill's directory is made, and wiped, by the drill.
    directory = Path(order.directory or settings.state_path / "scratch")
    return restore_redis(settings, order.source, directory=directory, **order.files(), **common).as_dict()
