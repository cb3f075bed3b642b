"""Back up a PostgreSQL cluster into the source's first repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mingus_airflow.operators.base import EngineOperator
from mingus_engine.errors import SettingsError
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings

FULL, INCREMENTAL = "full", "incremental"


class PgBaseBackupOperator(EngineOperator):
    """Takes a backup: read once, compressed and encrypted before it rests, WAL included. Any kind restores by itself.

    Returns the report of ``mingus_engine.jobs.back_up``: ``snapshot`` (ULID), kind, what it was built on, sizes, ratio,
    LSNs, duration, findings. A retry starts a new run that reuses what the failed one stored.

    :param source: id of a ``postgres`` source in the settings. (templated)
    :param kind: ``full`` stores everything again; ``incremental`` what changed since the newest good snapshot, and
        everything, saying why, when there is none to build on. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    verb = "backup"
    ui_color = "#2f6f9f"
    template_fields: Sequence[str] = (*EngineOperator.template_fields, "kind")

    def __init__(self, *, source: str, kind: str = FULL, **kwargs: Any) -> None:
        super().__init__(source=source, **kwargs)
        self.kind = kind

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``back_up`` job."""
        from mingus_engine.jobs.back_up import back_up

        if self.kind not in {FULL, INCREMENTAL}:
            raise SettingsError(f"kind: {self.kind!r} is not one of {FULL}, {INCREMENTAL}")
        report = back_up(settings, self.source, context=context, incremental=self.kind == INCREMENTAL)
        self.tell_findings(report)
        return report
