"""Back up a Redis server by a snapshot of its data."""

from __future__ import annotations

from mingus_airflow.operators.base import EngineOperator
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class RedisSnapshotOperator(EngineOperator):
    """Streams an RDB as a replica would receive it (or has the server save one), looks at every byte of it, and stores
    it with configuration, users, functions and ``INFO``; of a cluster all primaries, taken together.

    Returns the report of ``mingus_engine.jobs.back_up``: ``snapshot`` (ULID), sizes, ratio, replication offset,
    duration, findings. Nothing that could restore to an empty server succeeds.

    :param source: id of a ``redis`` source in the settings. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    verb = "backup"
    family = "backup"
    source_kind = "redis"
    ui_color = "#9f3a2f"

    @property
    def operation(self) -> str:
        """Of metrics."""
        return "snapshot"

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``back_up`` job."""
        from mingus_engine.jobs.back_up import back_up

        report = back_up(settings, self.source, context=context)
        self.tell_findings(report)
        return report
