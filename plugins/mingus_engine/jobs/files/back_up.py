"""The backup of a file set: walk, compare with the parent, read what is not known, commit.

One thread walks and compares, for that is Python's own work; others read, cut, compress and seal (``contents``). Where
an entry goes is settled by the walk (``assembling``).
"""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from mingus_engine.checks import Check
from mingus_engine.codec.entries import RunTable
from mingus_engine.jobs.backing_up import BackUpReport, BackUpRun, Tree
from mingus_engine.jobs.context import Stopwatch
from mingus_engine.jobs.crew import Crew
from mingus_engine.jobs.files.assembling import Assembler
from mingus_engine.jobs.files.contents import Contents
from mingus_engine.jobs.files.storing import FileStoring
from mingus_engine.jobs.files.walking import Walking, Work
from mingus_engine.jobs.pipeline import Counters
from mingus_engine.repository.chunk_index import ChunkIndex
from mingus_engine.repository.repository import utc_now
from mingus_engine.repository.writer import UNUSABLE
from mingus_engine.sources.base import Finished
from mingus_engine.sources.files import checks, git_facts
from mingus_engine.sources.files.findings import Findings
from mingus_engine.sources.files.walk import Walker

_QUEUE_WORKS = 8


@dataclass(frozen=True, kw_only=True)
class FilesBackUpReport(BackUpReport):
    """Adds what only files have: how many were new, had another content than in the parent, were not even read, are
    not there any more; and how many could not be read.

    :param changes: of a set of configuration: how it differs from the snapshot before (``text_diff.TextDiff``), where
        the caller asked for that.
    """

    new: int
    changed: int
    unread: int
    removed: int
    unreadable: int
    changes: dict[str, Any] | None = None


def back_up_files(job: BackUpRun, clock: Stopwatch) -> FilesBackUpReport:
    """See the module.

    :raises SourceError: a root is missing, or too many files cannot be read. :raises MingusError: nothing was
        committed.
    """
    started = utc_now()
    with ExitStack() as stack:
        backup = _FilesBackUp(job, started, stack)
        backup.run()
        finished = backup.finished()
        manifest = job.commit(
            finished, position=time.time_ns() // 1000, method=backup.method,
            figures={"unread": backup.walking.unread, "changed": backup.contents.tally.changed},
            tree=Tree(backup.storing, backup.counters, backup.assembler.shards),
        )  # fmt: skip
    findings, tally = backup.findings.counts, backup.contents.tally
    return FilesBackUpReport(
        **job.figures(manifest, finished, clock.seconds),
        new=tally.new,
        changed=tally.changed,
        unread=backup.walking.unread,
        removed=backup.walking.removed,
        unreadable=findings["unreadable"] + findings["unreadable directory"],
    )


class _FilesBackUp:
    """One backup of a file set while it is made."""

    def __init__(self, job: BackUpRun, started: datetime, stack: ExitStack) -> None:
        self._job, self._started = job, started
        self._files = job.source.files
        self.findings, self.counters = Findings(), Counters()
        self._clones: list[tuple[git_facts.Clone, dict[str, Any]]] = []
        job.choose_parent({"started_at": started.isoformat()})
        parent = job.parent
        self._before = parent.facts if parent is not None else _newest_facts(job)
        self._reread = parent is not None and self._is_due(parent.facts)
        self.method = None if parent is None else "every file read" if self._reread else "times and sizes"
        table = RunTable([job.run.run, *(parent.run_keys if parent is not None else ())])
        index = ChunkIndex(
            job.run, parent,
            since=started - timedelta(days=self._files.full_every_days), spool_path=job.settings.spool_path,
            max_bytes=self._files.dedup_index_max_bytes, log=job.context.log,
        )  # fmt: skip
        stack.callback(index.close)
        follow = self._files.links == "follow"
        self.storing = FileStoring(job.run, table, parent, index)
        self.contents = Contents(
            job.run, self.storing, table, parent, findings=self.findings, counters=self.counters, follow=follow
        )
        self.assembler = Assembler(self.storing, self.counters)
        walker = self._walker = Walker(self._files, self.findings)
        self.walking = Walking(
            walker, parent, self.assembler, self.storing, self.contents,
            findings=self.findings, context=job.context, reread=self._reread,
        )  # fmt: skip

    def run(self) -> None:
        """Walk and store everything. :raises MingusError:"""
        job = self._job
        if self._files.set == "code":
            self._clones = [
                (c, git_facts.facts_of(c, job.context.checkpoint)) for c in git_facts.clones(self._files.roots)
            ]
        # An increment's size is the last one's, about.
        total = int(self._before.get("files", {}).get("bytes", 0))

        def worker() -> Callable[[Work], None]:
            def do(work: Work) -> None:
                try:
                    work(self.contents)
                except BaseException:
                    self.walking.failed.set()
                    raise
                job.context.progress("back up", self.counters.given_bytes, total)

            return do

        crew: Crew[Work] = Crew("files", worker, cancel=job.context.cancel, queue_items=_QUEUE_WORKS)
        crew.run(self.walking.works(), job.source.workers)
        job.context.checkpoint()
        self.assembler.finish()
        checks.refuse_unreadable(self.findings, self.counters.files, self._files.unreadable_max_share)

    def finished(self) -> Finished:
        """Facts and checks."""
        counters, tally = self.counters, self.contents.tally
        removed = self.walking.removed
        figures = checks.Figures(
            counters.files, counters.read_bytes, tally.dense_changed + min(tally.dense_new, removed),
            self._before.get("files", {}),
        )  # fmt: skip
        parent = self._job.parent
        read_at = self._started.isoformat()
        if parent is not None and not self._reread:
            read_at = str(parent.facts.get("read_at", read_at))
        counters.vanished = self.findings.counts["vanished"]
        facts: dict[str, Any] = {
            "started_at": self._started.isoformat(),
            "stopped_at": utc_now().isoformat(),
            "read_at": read_at,
            "roots": [{"label": root.name, "path": root.path} for root in self._files.roots],
            "rules": {key: getattr(self._files, key) for key in ("one_file_system", "links", "file_max_bytes")}
            | {"include": list(self._files.include), "exclude": list(self._files.exclude)},
            "mounts": [os.fsdecode(path) for path in self._walker.mounts],
            "owners": _names_of(self.assembler.owners),
            "files": {
                "files": counters.files,
                "bytes": counters.read_bytes,
                "new": tally.new,
                "changed": tally.changed,
                "unread": self.walking.unread,
                "removed": removed,
                "findings": dict(self.findings.counts),
            },
        }
        if self._clones:
            facts["git"] = [_at_the_end(clone, found) for clone, found in self._clones]
        found: list[Check] = checks.judge(self.findings, figures, self._files)
        return Finished((), facts, found)

    def _is_due(self, facts: Mapping[str, Any]) -> bool:
        """Whether also what seems unchanged is to be read."""
        days = self._files.reread_every_days
        try:
            last = datetime.fromisoformat(str(facts.get("read_at")))
        except ValueError:
            return True
        return bool(days) and self._started - last >= timedelta(days=days)


def _at_the_end(clone: git_facts.Clone, facts: dict[str, Any]) -> dict[str, Any]:
    """*facts* of a working tree, with the commit that it was at afterwards where it is another one."""
    after, _ = git_facts.head_of(clone)
    return facts if after == facts["commit"] else {**facts, "commit_after": after}


def _newest_facts(job: BackUpRun) -> Mapping[str, Any]:
    """Facts of the newest snapshot that is not flagged: what a full backup is compared with."""
    for manifest in reversed(job.run.state.manifests):
        if not manifest.flagged:
            with suppress(*UNUSABLE):
                return job.run.repository.manifest_body(manifest).facts
    return {}


def _names_of(owners: set[tuple[int, int]]) -> dict[str, dict[str, str]]:
    """Names of users and groups of this machine, by id as text."""
    users: dict[str, str] = {}
    groups: dict[str, str] = {}
    for uid in {uid for uid, _ in owners}:
        with suppress(KeyError):
            users[str(uid)] = pwd.getpwuid(uid).pw_name
    for gid in {gid for _, gid in owners}:
        with suppress(KeyError):
            groups[str(gid)] = grp.getgrgid(gid).gr_name
    return {"users": users, "groups": groups}
