"""What the operators have in common that back up in full or only what changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mingus_airflow.operators.base import EngineOperator
from mingus_engine.errors import SettingsError
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings

FULL, INCREMENTAL = "full", "incremental"


class BackUpOperator(EngineOperator):
    """Base of the operators that run the engine's ``back_up``, in full or incrementally.

    :param source: id of a source of *source_kind* in the settings. (templated)
    :param kind: ``full`` or ``incremental``. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    verb = "backup"
    family = "backup"
    template_fields: Sequence[str] = (*EngineOperator.template_fields, "kind")

    def __init__(self, *, source: str, kind: str, **kwargs: Any) -> None:
        super().__init__(source=source, **kwargs)
        self.kind = kind

    @property
    def operation(self) -> str:
        """``full`` or ``incremental``."""
        return self.kind

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``back_up`` job."""
        from mingus_engine.jobs.back_up import back_up

        settings.source(self.source, self.source_kind)
        if self.kind not in {FULL, INCREMENTAL}:
            raise SettingsError(f"kind: {self.kind!r} is not one of {FULL}, {INCREMENTAL}")
        report = back_up(settings, self.source, context=context, incremental=self.kind == INCREMENTAL)
        self.tell_findings(report)
        return report
