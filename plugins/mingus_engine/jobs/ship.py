"""``ship``: copy snapshots bit for bit to another repository and seal their manifests under its own key.

A run in the destination with the whole commit protocol there. Oldest first; per snapshot: packs, logs, log keys,
manifest. A *settled* manifest that is there already means that everything it needs is, too. An object missing in the
origin fails the shipping of that snapshot; nothing is skipped.

``ship_logs``: the same for the archived log, which no manifest names. Shipped is what no longer container of the origin
covers alone and none of the destination does; of each, the log key first: a container that nobody can open is none.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from dataclasses import dataclass, field

from mingus_engine import bounds
from mingus_engine.errors import Damaged, ForeignRepository, ObjectMissing
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.repository import envelope, log_index, logs, manifests, names, runs, spool, state, writer
from mingus_engine.repository.manifests import LogRef, Manifest
from mingus_engine.repository.objects import get_object, put_object
from mingus_engine.repository.packs import PackRef
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings
from mingus_engine.store.unnamed import open_spool

_COPY_BYTES = 4 * bounds.MIB


@dataclass(frozen=True, kw_only=True)
class ShipReport(Report):
    """What was shipped. ``snapshots`` are ULIDs; ``objects_present`` were there already; bytes as stored.

    ``logs``: containers of archived log and histories that were put, besides those that a snapshot needs.
    """

    origin: str
    destination: str
    snapshots: list[str]
    snapshots_present: int
    objects_put: int
    objects_present: int
    bytes_put: int
    logs: int = 0


def ship(
    settings: Settings,
    source_id: str,
    *,
    origin: str,
    destination: str,
    context: JobContext,
    snapshot: str | None = None,
) -> ShipReport:
    """Bring what *origin* has of *source_id* to *destination*.

    :param snapshot: only this one (ULID or its beginning); default: all, and the archived log. Log that the server
        pushes, and nothing drains on a schedule, comes along in any case: nobody else would ship it.
    :raises MingusError: what was put stays and is used by the next try.
    """
    clock = Stopwatch()
    with ExitStack() as stack:
        here, there = _both(stack, settings, origin, destination, context)
        seen = state.look(here, source_id)
        wanted = [seen.find(snapshot)] if snapshot else list(seen.manifests)
        run = writer.begin(
            there, source_id, kind=runs.WRITE, spool_path=settings.spool_path, level=1, provenance=context.provenance
        )
        stack.callback(run.close)
        shipment = _Shipment(here, there, run, settings, context)
        committed = [stored for manifest in wanted if (stored := shipment.ship(manifest))]
        copied = shipment.ship_logs(seen) if not snapshot or _pushed_only(settings, source_id) else 0
        run.end(committed)
        if not snapshot and (damaged := list(seen.damaged_snapshots().values())):
            raise Damaged(f"{len(damaged)} snapshots were not shipped: {'; '.join(damaged)}")
    return ShipReport(
        job="ship",
        source=source_id,
        duration_s=clock.seconds,
        origin=origin,
        destination=destination,
        snapshots=[m.ulid for m in wanted],
        snapshots_present=len(wanted) - len(committed),
        objects_put=shipment.objects_put,
        objects_present=shipment.objects_present,
        bytes_put=shipment.bytes_put,
        logs=copied,
    )


def ship_logs(settings: Settings, source_id: str, *, origin: str, destination: str, context: JobContext) -> ShipReport:
    """Bring the archived log that *origin* has of *source_id* to *destination*; no snapshots.

    :raises MingusError: what was put stays and is used by the next try.
    """
    clock = Stopwatch()
    with ExitStack() as stack:
        here, there = _both(stack, settings, origin, destination, context)
        seen = state.look(here, source_id, snapshots=False)
        run = writer.begin(
            there, source_id, kind=runs.LOG, spool_path=settings.spool_path, level=1, provenance=context.provenance
        )
        stack.callback(run.close)
        shipment = _Shipment(here, there, run, settings, context)
        copied = shipment.ship_logs(seen)
        run.end([])
    return ShipReport(
        job="ship logs",
        source=source_id,
        duration_s=clock.seconds,
        origin=origin,
        destination=destination,
        snapshots=[],
        snapshots_present=0,
        objects_put=shipment.objects_put,
        objects_present=shipment.objects_present,
        bytes_put=shipment.bytes_put,
        logs=copied,
    )


def _pushed_only(settings: Settings, source_id: str) -> bool:
    """Whether no scheduled archiver ships the log of this source; one that the settings do not name has none."""
    return any(s.id == source_id and s.kind == "postgres" and not s.wal.scheduled for s in settings.sources)


def _both(
    stack: ExitStack, settings: Settings, origin: str, destination: str, context: JobContext
) -> tuple[Repository, Repository]:
    here = stack.enter_context(places.opened(settings, origin, context))
    there = stack.enter_context(places.opened(settings, destination, context))
    if here.config.signing_public != there.config.signing_public:
        raise ForeignRepository(f"{origin} and {destination} belong to different installations")
    return here, there


@dataclass
class _Shipment:
    here: Repository
    there: Repository
    run: writer.WriteRun
    settings: Settings
    context: JobContext
    objects_put: int = 0
    objects_present: int = 0
    bytes_put: int = 0
    _listed: dict[str, dict[str, int]] = field(default_factory=dict)
    _log_keys: set[str] = field(default_factory=set)

    def ship(self, manifest: Manifest) -> str:
        """One snapshot; the stored name of its manifest, empty when it was there already."""
        present = [m for m in self.run.state.manifests if m.ulid == manifest.ulid]
        for m in present:
            if m.digest != manifest.digest:
                manifests.conflict(str(manifest.name), str(m.name))
            if self.run.state.settled(m):
                return ""
        with reading.announced(self.here, manifest, self.context):
            total = sum(size for _, size in manifest.stored_names())
            packs = [self._pack(ref, total) for ref in manifest.packs]
            logs = [self._log(ref, total) for ref in manifest.logs]
            for ref in logs:
                self._log_key(ref.run)
            body = self.here.open(manifest.envelope)
        placement = manifests.placement(self.run.run, packs, logs)
        raw = self.there.reseal(manifest.envelope, body, placement)
        return str(self.run.put_manifest(raw, manifest.ulid).name)

    def ship_logs(self, seen: state.SourceState) -> int:
        """All archived log that is not there; how many containers were put. The fences are listed after the last.

        :param seen: what the look at the origin showed.
        """
        source, before = self.run.source, self.objects_put
        wanted = log_index.list_logs(self.here, source, seen.planned)
        have = logs.counted(
            self.there, log_index.list_logs(self.there, source, self.run.state.planned), self.run.state.fences
        )
        lacking = [
            log
            for (system_id, timeline), theirs in sorted(wanted.timelines.items())
            for log in theirs.needed()
            if not have.timeline(system_id, timeline).covered_by_one(log.name.start, log.name.end)
        ]
        total = sum(log.size for log in lacking)
        for log in [*(h for key, h in sorted(wanted.histories.items()) if key not in have.histories), *lacking]:
            self.context.checkpoint()
            try:
                ref = logs.reference(self.here, *log)
                self._log_key(ref.run)
                self._log(ref, total)
            except ObjectMissing:
                # Between the listing and now a cleaner removed it: a longer one covers it.
                if any(self.here.store.list(str(log.name))):
                    raise
        self.run.refuse_if_fenced()
        return self.objects_put - before

    def _pack(self, ref: PackRef, total: int) -> PackRef:
        source = self.run.source
        prefix = f"packs/{source}/{ref.run}/"
        plain = str(ref._replace(putting_run="").name(source))
        put_by = self._present(prefix, plain, ref.size)
        if put_by is None:
            put_by = self.run.run
            stored = str(ref._replace(putting_run=put_by).name(source))
            self._copy(str(ref.name(source)), stored, ref, total)
        return ref._replace(putting_run=put_by)

    def _log(self, ref: LogRef, total: int) -> LogRef:
        source = self.run.source
        plain = str(ref._replace(putting_run="").name(source))
        put_by = self._present(plain, plain, ref.size)
        if put_by is None:
            put_by = self.run.run
            stored = str(ref._replace(putting_run=put_by).name(source))
            self._copy(str(ref.name(source)), stored, ref, total)
        return ref._replace(putting_run=put_by)

    def _present(self, prefix: str, plain: str, size: int) -> str | None:
        """Who put the object there already; ``None`` = it is not there, or may not be counted."""
        if prefix not in self._listed:
            self._listed[prefix] = {i.name: i.size for i in self.there.store.list(prefix)}
        for stored, stored_size in self._listed[prefix].items():
            if stored_size != size or stored in self.run.state.planned:
                continue
            if stored == plain or stored.startswith(plain + "."):
                put_by = stored.removeprefix(plain).removeprefix(".")
                parsed = names.pack(stored) or names.log(stored)
                owner = put_by or (parsed.run if isinstance(parsed, names.PackName) else "")
                if owner == self.run.run:
                    return put_by
                if not owner or state.fences_on(self.there, self.run.source, owner):
                    continue
                # Success thanks to another run's object: that run's fences are listed after the manifest, too.
                self.run.adopted.add(owner)
                self.objects_present += 1
                return put_by
        return None

    def _copy(self, name: str, stored: str, ref: PackRef | LogRef, total: int) -> None:
        """Copy one object, proving on the way that it is the one its name promises."""
        digest, size = hashlib.sha256(), ref.size
        with open_spool(self.settings.spool_path) as file:
            for at in range(0, size, _COPY_BYTES):
                self.context.checkpoint()
                data = self.here.store.get_range(name, at, min(_COPY_BYTES, size - at))
                digest.update(data)
                spool.write_at(file, at, data)
                done = self.bytes_put + at + len(data)
                self.context.progress("ship", done, max(total, done), name)
            if digest.hexdigest() != ref.sha256:
                raise Damaged(f"{name} in {self.here.name}: bytes do not have the SHA-256 of its name")
            self.there.store.put(stored, file, size=size, sha256=digest.digest())
        self.objects_put += 1
        self.bytes_put += size
        for prefix, listed in self._listed.items():
            if stored.startswith(prefix):
                listed[stored] = size

    def _log_key(self, run: str) -> None:
        """The key of a log writer, sealed for the destination; once per run."""
        source = self.run.source
        if run in self._log_keys:
            return
        self._log_keys.add(run)
        planned = self.run.state.planned
        if any(i.name not in planned for i in self.there.store.list(f"logs/{source}/keys/{run}.")):
            return
        for info in self.here.store.list(f"logs/{source}/keys/{run}."):
            name = names.log_key(info.name)
            if name is None:
                continue
            e = envelope.parse(get_object(self.here.store, info.name), envelope.LOG_KEY, info.name)
            e.verify(self.here.config.signing_public)
            raw = self.there.reseal(e, self.here.open(e), {"put_by": self.run.run})
            put_object(self.there.store, raw, lambda sha: str(names.LogKeyName(source, run, sha)), read_back=True)
            return
        self.here.log_key(source, run)  # says what is missing
