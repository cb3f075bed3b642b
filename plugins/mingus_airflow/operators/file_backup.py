"""Back up a set of files into the source's first repository."""

from __future__ import annotations

import dataclasses
from typing import Any

from mingus_airflow.operators.back_up import INCREMENTAL, BackUpOperator
from mingus_engine.errors import Cancelled, MingusError
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.settings import Settings

# Of the text in the report: some 200 lines. All of it is shown by `mingus diff --text`.
_CHANGES_MAX_CHARACTERS = 16 * 1024


class FileBackupOperator(BackUpOperator):
    """Stores a file set: every file with all it has, deduplicated by content. Any kind restores by itself.

    Returns the report of ``mingus_engine.jobs.back_up``: ``snapshot`` (ULID), kind, what it was built on, sizes, how
    many files were new, changed, unread, removed or unreadable, duration, findings. Red when too many files cannot be
    read or a root is missing; a set that shrank or was replaced by what looks encrypted is stored, flagged, and said
    loudly. Of a set of configuration, ``changes`` has a readable diff to the snapshot before, secrets masked.

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

    def run_job(self, settings: Settings, context: JobContext) -> Report:
        """Run the ``back_up`` job; add what changed in a set of configuration."""
        from mingus_engine.jobs.files.back_up import FilesBackUpReport
        from mingus_engine.jobs.files.text_diff import diff_to_one_before

        report = super().run_job(settings, context)
        if settings.source(self.source).files.set != "configuration" or not isinstance(report, FilesBackUpReport):
            return report
        try:
            found = diff_to_one_before(
                settings, self.source, report.snapshot, context=context, max_characters=_CHANGES_MAX_CHARACTERS
            )
        except Cancelled:
            raise
        except MingusError as error:
            # The snapshot is stored; what it changed can be asked for later.
            self.log.warning("what changed cannot be shown: %s", error.message)
            return report
        if found is None or not found.text:
            return report
        self.log.info("changed since snapshot %s:\n%s", found.old, found.text)
        return dataclasses.replace(report, changes=found.as_dict())
