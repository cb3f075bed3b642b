"""Back up a set of files into the source's first repository."""

from __future__ import annotations

from typing import Any

from mingus_airflow.operators.back_up import INCREMENTAL, BackUpOperator


class FileBackupOperator(BackUpOperator):
    """Stores a file set: every file with all it has, deduplicated by content. Any kind restores by itself.

    Returns the report of ``mingus_engine.jobs.back_up``: ``snapshot`` (ULID), kind, what it was built on, sizes, how
    many files were new, changed, unread, removed or unreadable, duration, findings. Red when too many files cannot be
    read or a root is missing; a set that shrank or was replaced by what looks encrypted is stored, flagged, and said
    loudly.

    :param source: id of a ``files`` source in the settings. (templated)
    :param kind: ``incremental`` reads what seems changed since the newest good snapshot, and everything, saying why,
        when there is none to build on or its chain is older than ``full_every_days``; ``full`` builds on nothing.
        (templated)
    :param settings_file: path; default ``MINGUS_CONFIG``, else ``include/config/mingus.yaml``. (templated)
    """

    source_kind = "files"
    ui_color = "#7a5c2e"

    def __init__(self, *, source: str, kind: str = INCREMENTAL, **kwargs: Any) -> None:
        super().__init__(source=source, kind=kind, **kwargs)
