"""Prove a snapshot by restoring it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mingus_airflow.connections import redacted
from mingus_airflow.operators.base import EngineOperator, snapshot_id
from mingus_engine.errors import VerificationFailed
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings


class RestoreVerifyOperator(EngineOperator):
    """Restores a snapshot to a scratch directory, starts a throw-away server on it, checks it and stores the proof.

    Fails without retry when the backup is not good; the failed proof is stored too. The scratch directory is wiped in
    every outcome.

    :param source: id of the source in the settings. (templated)
    :param snapshot: ULID, or the report of the backup task; default: the newest. (templated)
    :param repository: which repository is tested; default: the source's ``verify.repository``, else the last of its
        chain, the copy that would be needed when everything else is lost. (templated)
    :param level: ``L0`` (listing) to ``L4`` (restored and started); default: the source's ``verify.level``. (templated)
    :param target: a moment to recover to (``latest``, ``time:…``, ``lsn:…``, ``xid:…``, ``name:…``, ``immediate``,
        ``random``: a second of the newest window); the server must end exactly there. Default: the snapshot's own end;
        with a target the level is L4 unless it is given. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    verb = "verify"
    family = "recovery"
    ui_color = "#3d7a4e"
    template_fields: Sequence[str] = (*EngineOperator.template_fields, "snapshot", "repository", "level", "target")

    def __init__(
        self,
        *,
        source: str,
        snapshot: str | Mapping[str, Any] | None = None,
        repository: str | None = None,
        level: str | None = None,
        target: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(source=source, **kwargs)
        self.snapshot = snapshot
        self.repository = repository
        self.level = level
        self.target = target

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``verify`` job."""
        from mingus_engine.jobs.verify import verify

        wanted = settings.source(self.source).verify
        try:
            return verify(
                settings,
                self.source,
                repository=self.repository or wanted.repository or settings.chain(self.source)[-1],
                snapshot=snapshot_id(self.snapshot),
                level=self.level or ("L4" if self.target else wanted.level),
                **({"to": self.target} if self.target else {}),
                context=context,
            )
        except VerificationFailed as error:
            # The error names the first few; who reads the log needs all.
            for check in getattr(getattr(error, "report", None), "checks", ()):
                outcome = "good" if check["ok"] else "FAILED"
                self.log.warning("check %s: %s: %s", outcome, check["name"], redacted(check["detail"]))
            raise
