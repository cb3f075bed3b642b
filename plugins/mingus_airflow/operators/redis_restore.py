"""Restore a Redis to a directory of the worker, or keys of it into a running server, once it was approved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from mingus_airflow.connections import resolve_destination
from mingus_airflow.operators.approved import ApprovedOperator
from mingus_airflow.recovery import EXTRACT, RESTORE
from mingus_airflow.recovery_redis import RedisOrder
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class RedisRestoreOperator(ApprovedOperator[RedisOrder]):
    """Writes the planned snapshot (and the commands up to the target) into an empty directory that is then ready to
    start; or sends all or some of its keys to a running server, with their times to live.

    A restore to a directory that fails leaves nothing that could be started. One into a server that fails half-way says
    how many keys are in; ordered again with ``conflict: skip`` it completes them.

    :param order: a ``restore`` or ``extract`` order. (templated) :param plan: report of the plan task. (templated)
    :param asked: id of the task that asked for the approval. :param settings_file: (templated)
    """

    verb = "restore"
    family = "recovery"
    source_kind = "redis"
    order_type = RedisOrder
    modes: ClassVar[tuple[str, ...]] = (RESTORE, EXTRACT)
    ui_color = "#a33b3b"

    @property
    def operation(self) -> str:
        """``restore``, or ``extract``: into a running server."""
        return self.parsed().mode

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``restore_redis`` or the ``restore_into`` job."""
        order = self.parsed()
        planned: dict[str, Any] = {
            "repository": str(self.plan["repository"]),
            "snapshot": str(self.plan["snapshot"]),
            "context": context,
            **order.moment(),
        }
        if order.mode == EXTRACT:
            from mingus_engine.jobs.redis.restore_into import restore_into

            settings = resolve_destination(settings, order.into, "redis")
            return restore_into(settings, order.source, **order.extraction(), **planned)
        from mingus_engine.jobs.redis.restore import restore_redis

        return restore_redis(settings, order.source, directory=Path(order.directory), **order.files(), **planned)
