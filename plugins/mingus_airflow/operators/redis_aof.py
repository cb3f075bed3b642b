"""Back up the append-only file of a Redis server, or its command stream."""

from __future__ import annotations

from mingus_airflow.operators.base import EngineOperator
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class RedisAofOperator(EngineOperator):
    """Stores the multi-part append-only file where the server's data directory can be read; elsewhere it drains the
    command stream up to the present. Either brings the server back to a moment between two snapshots.

    Returns the report of ``jobs.redis.back_up_aof``. The server's ``auto-aof-rewrite-percentage`` is put back in every
    outcome; what a killed try left, the next one puts right.

    :param source: id of a ``redis`` source in the settings. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    verb = "backup"
    family = "backup"
    source_kind = "redis"
    ui_color = "#b5533c"

    @property
    def operation(self) -> str:
        """Of metrics."""
        return "aof"

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``back_up_aof`` job."""
        from mingus_engine.jobs.redis.back_up_aof import back_up_aof

        report = back_up_aof(settings, self.source, context=context)
        self.tell_findings(report)
        return report
