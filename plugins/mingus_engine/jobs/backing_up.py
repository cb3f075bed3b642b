"""One backup in the making, whatever it is of: what the source gives is stored, cut into shards and committed.

``back_up`` opens the repository and the run; what knows the kind of source (``jobs.postgres.back_up``) decides what is
read and what runs beside it, and calls, in this order: ``store`` → ``store_made`` → ``commit``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType
from typing import Any, NamedTuple, Self

from mingus_engine.codec import shards
from mingus_engine.codec.entries import RunTable
from mingus_engine.jobs.choosing import ParentChooser
from mingus_engine.jobs.context import JobContext, Report
from mingus_engine.jobs.entry_sorter import EntrySorter
from mingus_engine.jobs.hooks import AtRest
from mingus_engine.jobs.made_items import made_items
from mingus_engine.jobs.pipeline import Counters, Pipeline
from mingus_engine.jobs.referring import Referring
from mingus_engine.repository import resume
from mingus_engine.repository.manifests import Body, LogRef, Manifest, ShardRef
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.parent import ParentSnapshot
from mingus_engine.repository.repository import utc_now
from mingus_engine.repository.resume import StoredBlocks
from mingus_engine.repository.writer import WriteRun
from mingus_engine.settings import Settings, SourceSettings
from mingus_engine.sources.base import ChooseParent, Finished, Item, SourceFile, no_parent

# 2^8 entries of some 250 bytes and their maps: shards near the target of 128 KiB (DESIGN §4).
CUT_BITS = 8


@dataclass(frozen=True, kw_only=True)
class BackUpReport(Report):
    """What was backed up. Sizes in bytes; ``ratio`` = read / stored.

    :param parent: ULID of the snapshot that an incremental was built on; ``depth``: how many were since the full.
    :param method: how an incremental found out what changed. :param reasons: why not the newest snapshot was built on,
        why by another method than the best, or why a full was taken although an incremental was asked for.
    :param bytes_read: what the files hold; ``bytes_given``: what of it came from the source.
    :param hooks: when the application stood still, and which programs failed to let it go on (``failed``); ``None``:
        there are no hooks. :param group: of which group's run it is, and when that stood still.
    """

    repository: str
    snapshot: str
    kind: str
    parent: str | None
    method: str | None
    reasons: list[str]
    depth: int
    flagged: bool
    checks: list[dict[str, Any]]
    files: int
    bytes_read: int
    bytes_given: int
    bytes_stored: int
    bytes_reused: int
    ratio: float
    run: str
    hooks: dict[str, Any] | None = None
    group: dict[str, Any] | None = None


class Tree(NamedTuple):
    """The files of a snapshot as they were stored. ``shards``: in path order; taken once, when all files are stored."""

    referring: Referring
    counters: Counters
    shards: Iterable[ShardRef]


class BackUpRun:
    """See the module. A context manager: what it holds of spool and memory is let go at the end.

    :param chooser: of an incremental; ``None``: everything is stored again.
    :param by_blocks: whether files are stored by ``store``, which compares their blocks with what dead runs left; else
        by the kind itself, which gives ``commit`` a :class:`Tree`.
    :param at_rest: is told when everything was read.
    """

    def __init__(
        self,
        settings: Settings,
        source: SourceSettings,
        run: WriteRun,
        context: JobContext,
        chooser: ParentChooser | None,
        *,
        by_blocks: bool = True,
        at_rest: AtRest | None = None,
    ) -> None:
        self.settings, self.source, self.run, self.context = settings, source, run, context
        self._chooser = chooser
        self._table = RunTable([run.run])
        self._at_rest = at_rest or AtRest()
        self._rested: dict[str, Any] = {}
        self._descended: dict[str, Any] = {}
        self._stack = ExitStack()
        self._entries = EntrySorter(self._table, settings.spool_path)
        self._stack.callback(self._entries.close)
        self._blocks: StoredBlocks | None = None
        if by_blocks:
            self._blocks = resume.stored_blocks(run, since=utc_now() - timedelta(days=source.full_every_days))
            self._stack.callback(self._blocks.close)
        self._pipeline: Pipeline | None = None
        self._tree: Tree | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @property
    def choose_parent(self) -> ChooseParent:
        """For the source, which asks once, before anything is stored."""
        return self._chooser or no_parent

    @property
    def parent(self) -> ParentSnapshot | None:
        """The snapshot that is built on; known once the source has asked."""
        return self._chooser.parent if self._chooser else None

    @property
    def pipeline(self) -> Pipeline:
        """Made when it is first used, which must be after the source has asked for its parent."""
        if self._blocks is None:
            raise TypeError("this run does not store by blocks")
        if self._pipeline is None:
            self._pipeline = Pipeline(
                self.run, self._entries, self._table, self._blocks, self.context, parent=self.parent
            )
        return self._pipeline

    def store(self, items: Iterator[Item], expected_bytes: int = 0) -> None:
        """Read *items* and store them; *expected_bytes* for progress, 0 = unknown.

        :raises MingusError: see :meth:`Pipeline.process`.
        """
        self.pipeline.total_bytes = expected_bytes
        self.pipeline.process(items, self.source.workers)

    def store_made(self, files: Sequence[tuple[SourceFile, bytes]]) -> None:
        """Store small files that the source itself made (``Finished.files``)."""
        self.pipeline.process(made_items(files), 1)

    def commit(
        self,
        finished: Finished,
        *,
        position: int,
        logs: Sequence[LogRef] = (),
        method: str | None = None,
        notes: Sequence[str] = (),
        figures: Mapping[str, int] | None = None,
        form: str = "",
        tree: Tree | None = None,
    ) -> Manifest:
        """Cut and store the shards, write the manifest, end the run. Nothing of the source is read any more.

        :param position: orders snapshots that no heads order (an LSN, an offset). :param logs: that the snapshot needs.
        :param method: how an incremental found out what changed. :param notes: reasons to add to the chooser's.
        :param figures: statistics besides the tree's. :param form: of what is stored, where a kind of source has
            several: part of the manifest's kind (``redis aof full``).
        :param tree: what was stored, if not by ``store``.
        :raises CommitRefused: :raises ClockSkew: :raises Damaged: see ``WriteRun.commit``.
        """
        self._rested = self._at_rest.read()
        tree = tree or self._own_tree()
        self._tree = tree
        shard_refs = list(tree.shards)
        self.run.packs.flush()
        self.context.checkpoint()
        run, storing = self.run, tree.referring
        packs = [*run.packs.refs, *storing.adopted]
        self._adopt(storing)
        run_keys = {run.run: run.keys.run_key}
        run_keys.update({p.run: key for p, key in storing.adopted.items()})
        for log in logs:
            if log.run not in run_keys:
                run_keys[log.run] = run.repository.log_key(run.source, log.run)
        self._descended = self._descent(finished, method, notes)
        body = Body(
            facts={**finished.facts, **self._rested, "backup": self._descended},
            checks=[check.as_dict() for check in finished.checks],
            statistics={**self._statistics(), **(figures or {}), "pack_live": self._live(storing, packs)},
            provenance=run.provenance,
            run_keys=run_keys,
            hash_key=run.keys.hash_key,
            cut_bits=CUT_BITS,
            shards=shard_refs,
        )
        manifest = run.commit(
            kind=" ".join(filter(None, (self.source.kind, form, self._descended["kind"]))), position=position,
            flagged=not all(c.ok for c in finished.checks), packs=packs, logs=logs, body=body,
        )  # fmt: skip
        run.end([str(manifest.name)])
        return manifest

    def figures(self, manifest: Manifest, finished: Finished, seconds: float) -> dict[str, Any]:
        """The fields of :class:`BackUpReport`, for the report of the kind."""
        s, descent = self._statistics(), self._descended
        return {
            "job": "back up",
            "source": self.run.source,
            "duration_s": seconds,
            "repository": self.run.repository.name,
            "snapshot": manifest.ulid,
            "kind": manifest.kind,
            "parent": descent.get("parent"),
            "method": descent.get("method"),
            "reasons": descent["reasons"],
            "depth": descent["depth"],
            "flagged": manifest.flagged,
            "checks": [check.as_dict() for check in finished.checks],
            "files": s["files"],
            "bytes_read": s["read_bytes"],
            "bytes_given": s["given_bytes"],
            "bytes_stored": s["stored_bytes"],
            "bytes_reused": s["reused_bytes"],
            "ratio": round(s["read_bytes"] / s["stored_bytes"], 3) if s["stored_bytes"] else 0.0,
            "run": self.run.run,
            **self._rested,
        }

    def _own_tree(self) -> Tree:
        storing = self.pipeline.storing
        cut = shards.cut(self._entries.drain(), self.run.keys.hash_key, CUT_BITS)
        return Tree(storing, self.pipeline.counters, (storing.put_shard(first, raw) for first, raw in cut))

    def _adopt(self, referring: Referring) -> None:
        """Remember whose objects are counted on, for the fences that are listed after the manifest was put.

        A fence that the look showed is no reason to refuse: a settled parent refers to what that run put, so no cleaner
        deletes it. A new one is.
        """
        run, parent = self.run, self.parent
        for pack in referring.adopted:
            put_by = pack.putting_run or pack.run
            if parent is None or not parent.holds(pack) or put_by not in run.state.fences:
                run.adopted.add(put_by)

    def _live(self, referring: Referring, packs: list[PackRef]) -> list[list[int]]:
        """Per pack in the manifest's order: bytes of files that this snapshot needs of it, and that it held once."""
        live = referring.live
        held = self._chooser.held if self._chooser else {}
        return [[n := live[p.run, p.number], max(n, held.get((p.run, p.number), 0))] for p in sorted(packs)]

    def _descent(self, finished: Finished, method: str | None, notes: Sequence[str]) -> dict[str, Any]:
        """Facts about what the snapshot was built on."""
        reasons = [*(self._chooser.reasons if self._chooser else ()), *notes]
        generation = {"run": self.run.run, "started_at": finished.facts["started_at"]}
        if self.parent is None:
            return {"kind": "full", "depth": 0, "generation": generation, "reasons": reasons}
        facts = self.parent.facts
        then = facts.get("backup", {})
        return {
            "kind": "incremental",
            "parent": self.parent.snapshot,
            "parent_digest": self.parent.digest,
            "depth": int(then.get("depth", 0)) + 1,
            "generation": then.get("generation") or {"run": self.parent.run, "started_at": facts["started_at"]},
            "method": method,
            "reasons": reasons,
        }

    def _statistics(self) -> dict[str, int]:
        tree = self._tree
        if tree is None:
            raise TypeError("nothing was committed")
        counters, stored = tree.counters, self.run.packs.statistics
        return {
            "files": counters.files,
            "vanished": counters.vanished,
            "read_bytes": counters.read_bytes,
            "given_bytes": counters.given_bytes,
            "reused_bytes": tree.referring.reused_bytes,
            "stored_bytes": stored.sealed_bytes,
            "blobs": stored.blobs,
        }
