"""The last word of a recovery: what was done, who asked and who approved, and what to do next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from airflow.sdk import BaseOperator

from mingus_airflow.connections import redacted
from mingus_airflow.links import ReportLink

# Which fields say it, in this order; the rest is in the reports of the tasks themselves.
_TOLD = (
    "job", "source", "repository", "snapshot", "target", "directory", "destination", "database", "tables",
    "into_database", "left_out", "files", "bytes_written", "wal_bytes", "rows", "restored", "replaced", "skipped",
    "expired", "rto_s", "rpo_s", "duration_s", "ok",
    "actions", "kept", "lost", "proof", "requested_by", "approved_by", "approved_at", "start_hint",
    "start_hints",
)  # fmt: skip


class RecoveryReportOperator(BaseOperator):
    """Says in its log, and returns, what the recovery's task returned.

    :param outcomes: what the drill, restore and extract tasks returned; exactly one of them did. (templated)
    """

    template_fields: Sequence[str] = ("outcomes",)
    operator_extra_links = (ReportLink(),)
    ui_color = "#44505c"
    ui_fgcolor = "#ffffff"

    def __init__(self, *, outcomes: Sequence[Any], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.outcomes = outcomes

    def execute(self, context: Mapping[str, Any]) -> dict[str, Any]:  # noqa: ARG002 - Airflow's signature
        """Tell it."""
        (report,) = (outcome for outcome in self.outcomes if outcome)
        said = {key: report[key] for key in _TOLD if report.get(key) not in (None, "", [], {})}
        for key, value in said.items():
            self.log.info("%s: %s", key, redacted(str(value)))
        failed = [check["name"] for check in report.get("checks", ()) if not check["ok"]]
        for name in failed:
            self.log.warning("check did not pass: %s", redacted(name))
        return {**said, "checks_not_passed": failed}
