"""Back up a PostgreSQL cluster into the source's first repository."""

from __future__ import annotations

from typing import Any

from mingus_airflow.operators.back_up import FULL, BackUpOperator


class PgBaseBackupOperator(BackUpOperator):
    """Takes a backup: read once, compressed and encrypted before it rests, WAL included. Any kind restores by itself.

    Returns the report of ``mingus_engine.jobs.back_up``: ``snapshot`` (ULID), kind, what it was built on, sizes, ratio,
    LSNs, duration, findings. A retry starts a new run that reuses what the failed one stored.

    :param source: id of a ``postgres`` source in the settings. (templated)
    :param kind: ``full`` stores everything again; ``incremental`` what changed since the newest good snapshot, and
        everything, saying why, when there is none to build on. (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    source_kind = "postgres"
    ui_color = "#2f6f9f"

    def __init__(self, *, source: str, kind: str = FULL, **kwargs: Any) -> None:
        super().__init__(source=source, kind=kind, **kwargs)
