"""The writer's half of the commit protocol (DESIGN §4 "Commit"), as one object that a job drives.

put ``.start`` → look (plans, then manifests) → *only now* choose what to build on → packs → manifest → read it back →
list the fences of the own run and of every run whose objects were adopted → ``.end``. A fence means a cleaner gave
this run up: the run fails as transient and a retry stores again. ``.end`` is put by this process only, after its last
put.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mingus_engine import bounds, ulids
from mingus_engine.codec import sealing
from mingus_engine.errors import (
    ClockSkew,
    CommitRefused,
    Damaged,
    ForeignRepository,
    FormatTooNew,
    KeyUnavailable,
    ObjectMissing,
)
from mingus_engine.repository import envelope, manifests, names, runs, state
from mingus_engine.repository.manifests import Body, LogRef, Manifest
from mingus_engine.repository.objects import put_object
from mingus_engine.repository.packs import PackRef, PackWriter
from mingus_engine.repository.repository import Repository, utc_now
from mingus_engine.repository.runs import RunKeys

#: Why something a dead run left is passed over. One flipped bit can look like a newer format or another repository:
#: no left-over may ever keep a source from being backed up.
UNUSABLE = (Damaged, ForeignRepository, FormatTooNew, KeyUnavailable, ObjectMissing)


@dataclass
class WriteRun:
    """One open run. Made by :func:`begin`; ``close`` in every outcome.

    :param state: what the look after ``.start`` showed; parents are chosen from it and from nothing else.
    :param adopted: runs whose objects this one counts as its own success; their fences are listed too.
    """

    repository: Repository
    source: str
    run: str
    keys: RunKeys
    state: state.SourceState
    packs: PackWriter
    provenance: Mapping[str, str]
    adopted: set[str] = field(default_factory=set)
    _log_key_name: str = ""

    def put_log_key(self) -> None:
        """Store the run key where readers of log containers look for it; once, before the first container."""
        if not self._log_key_name:
            self._log_key_name = self.repository.put_log_key(self.source, self.run, self.keys)

    def commit(
        self, *, kind: str, position: int, flagged: bool, packs: Sequence[PackRef], logs: Sequence[LogRef], body: Body
    ) -> Manifest:
        """Write the manifest: the commit point. Everything it references must be stored.

        :raises ClockSkew: this machine's clock and the store's differ by more than 5 minutes.
        :raises CommitRefused: a cleaner fenced this run, or one whose objects it adopted.
        :raises Damaged: what was read back is not what was put.
        """
        store = self.repository.store
        written, store_time = utc_now(), store.now()
        if abs(written - store_time) > bounds.CLOCK_SKEW_MAX:
            raise ClockSkew(f"this machine says {written:%F %T}, {store.location} says {store_time:%F %T} (UTC)")
        ordered_packs, ordered_logs = sorted(packs), sorted(logs)
        header = manifests.header(
            source=self.source, ulid=ulids.new(), run=self.run, kind=kind, written_at=written, store_time=store_time,
            heads=self.state.heads(), position=position, flagged=flagged, packs=ordered_packs, logs=ordered_logs,
        )  # fmt: skip
        placement = manifests.placement(self.run, ordered_packs, ordered_logs)
        raw = self.repository.seal(envelope.SNAPSHOT, header, body.encode(), placement)
        return self.put_manifest(raw, str(header["ulid"]))

    def put_manifest(self, raw: bytes, ulid: str) -> Manifest:
        """Put a finished manifest, read it back, and list the fences. See :meth:`commit` for what it raises."""
        stored = put_object(
            self.repository.store, raw, lambda sha: str(names.SnapshotName(self.source, ulid, sha)), read_back=True
        )
        name = names.snapshot(stored)
        if name is None:
            raise Damaged(f"{stored}: not a manifest's name")
        manifest = manifests.decode(raw, name, self.repository.config.signing_public)
        if manifest.digest != hashlib.sha256(self.repository.open(manifest.envelope)).hexdigest():
            raise Damaged(f"{stored}: does not open to what was sealed")
        self.refuse_if_fenced()
        return manifest

    def refuse_if_fenced(self) -> None:
        """:raises CommitRefused: this run, or one whose objects it counts on, was fenced."""
        for run in (self.run, *sorted(self.adopted)):
            for fence in state.fences_on(self.repository, self.source, run):
                raise CommitRefused(f"run {run} was fenced by a cleaner ({fence}); the snapshot does not count")

    def end(self, committed: Sequence[str]) -> None:
        """Say that the run is over and what it committed (stored names). After this it puts nothing any more."""
        header = runs.end_header(self.source, self.run, list(committed))
        raw = self.repository.seal(envelope.RUN_END, header, b"{}", {"put_by": self.run})
        put_object(self.repository.store, raw, str(names.RunName(self.source, self.run, "end")))

    def close(self) -> None:
        """Let go of threads and spool files. Idempotent."""
        self.packs.close()


def begin(
    repository: Repository,
    source: str,
    *,
    kind: str,
    spool_path: Path,
    level: int,
    provenance: Mapping[str, str],
    workers: int = bounds.WORKERS_DEFAULT,
    on_put: Callable[[PackRef], None] = lambda _: None,
    facts: Mapping[str, Any] | None = None,
) -> WriteRun:
    """Open a run: put its ``.start``, then look.

    :param facts: what a later run must know if this one dies, plain; see :func:`put_start`.

    The key of block hashes is the source's: it is taken from the newest manifest, else from the newest dead run, else
    made; a hint only, so it may be read before ``.start``.
    """
    run = ulids.new()
    blocks = kind != runs.LOG  # a log writer compares no blocks and builds on no snapshot
    keys = RunKeys(sealing.random_key(), _hash_key(repository, source) if blocks else sealing.random_key())
    put_start(repository, source, run, kind=kind, keys=keys, provenance=provenance, facts=facts or {})
    return WriteRun(
        repository=repository,
        source=source,
        run=run,
        keys=keys,
        state=state.look(repository, source, snapshots=blocks),
        packs=PackWriter(
            repository.store,
            source,
            run,
            keys.run_key,
            spool_path=spool_path,
            level=level,
            workers=workers,
            on_put=on_put,
        ),
        provenance=provenance,
    )


def put_start(
    repository: Repository,
    source: str,
    run: str,
    *,
    kind: str,
    keys: RunKeys,
    provenance: Mapping[str, str],
    facts: Mapping[str, Any],
) -> None:
    """Put the ``.start`` of a run and read it back: it holds the only copy of the run key until the manifest."""
    header = runs.start_header(source, run, kind, provenance, facts)
    raw = repository.seal(envelope.RUN_START, header, keys.encode(), {"put_by": run})
    put_object(repository.store, raw, str(names.RunName(source, run, "start")), read_back=True)


def open_runs(repository: Repository, source: str) -> list[str]:
    """Runs without an ``.end``, oldest first by their makers' clocks: open or dead, nobody can tell."""
    parts: dict[str, set[str]] = {}
    for info in repository.store.list(f"runs/{source}/"):
        if (name := names.run(info.name)) is not None:
            parts.setdefault(name.run, set()).add(name.part)
    return sorted(run for run, seen in parts.items() if seen == {"start"})


def _hash_key(repository: Repository, source: str) -> bytes:
    for name in sorted(repository.list_snapshots(source), key=lambda n: n.ulid, reverse=True):
        try:
            return repository.manifest_body(repository.get_manifest(name)).hash_key
        except UNUSABLE:
            continue
    for dead in reversed(open_runs(repository, source)):
        try:
            start = names.RunName(source, dead, "start")
            if repository.get_run(start).text("kind") == runs.WRITE:
                return repository.run_keys(start).hash_key
        except UNUSABLE:
            continue
    return sealing.random_key()
