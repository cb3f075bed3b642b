"""Choosing what a backup builds on: fetches what the pure rules of ``repository.reusable`` need, and tells of it.

Everything comes from the look that the run took after its ``.start``; the parent itself is fetched, not only listed,
and must be whole (DESIGN §4 "Commit").
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from typing import Any

from mingus_engine import ulids
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import names, records, reusable
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.parent import ParentSnapshot, lacking
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.repository import utc_now
from mingus_engine.repository.reusable import Candidate, Rules, Use
from mingus_engine.repository.writer import UNUSABLE, WriteRun

# Proofs are made by machines whose clocks may differ.
_CLOCKS = timedelta(days=1)
_PARENTS_TRIED = 2


MakeRules = Callable[[Iterator[records.Record]], Rules]


class ParentChooser:
    """A ``sources.base.ChooseParent``. Asked once.

    :param rules: of the kind of source, made from the source's audit records.
    :param generation: how old a chain may become. :param avoid: ULIDs of snapshots that proved damaged.
    :ivar parent: what was chosen. :ivar reasons: why not the newest snapshot, or why none.
    :ivar held: of packs of the parent (run, number): bytes of files that they held when they were written.
    """

    def __init__(
        self,
        run: WriteRun,
        context: JobContext,
        rules: MakeRules,
        *,
        generation: timedelta,
        avoid: Collection[str] = (),
    ) -> None:
        self._run, self._context, self._rules = run, context, rules
        self._generation, self._avoid = generation, avoid
        self._readers: dict[str, SnapshotReader] = {}
        self.parent: ParentSnapshot | None = None
        self.reasons: list[str] = []
        self.held: dict[tuple[str, int], int] = {}

    def __call__(self, facts: Mapping[str, Any]) -> ParentSnapshot | None:
        """The parent of a backup of the source that *facts* are of."""
        # Each try costs a read of the source: after some parents that were not whole everything is stored again.
        if len(self._avoid) >= _PARENTS_TRIED:
            self.reasons.append(f"{len(self._avoid)} snapshots proved damaged")
            return None
        rules = self._rules(self.records(records.AUDIT))
        choice = reusable.choose(self._candidates(), facts, now=utc_now(), generation=self._generation, rules=rules)
        self.reasons.extend(choice.reasons)
        if choice.parent is not None:
            self.parent = self._parent(self._readers[choice.parent.snapshot])
        if self.parent is not None:
            self._context.log(f"builds on snapshot {self.parent.snapshot}")
        for reason in self.reasons:
            self._context.log(reason if self.parent else f"fresh full: {reason}")
        return self.parent

    def _candidates(self) -> Iterator[Candidate]:
        """The snapshots newest first, each fetched; such as cannot be used are noted and left out."""
        for manifest in reversed(self._run.state.manifests):
            self._context.checkpoint()
            if manifest.ulid in self._avoid:
                self.reasons.append(f"not on {manifest.ulid}: it proved damaged")
                continue
            try:
                reader = SnapshotReader(self._run.repository, manifest)
                missing = lacking(reader)
            except UNUSABLE as error:
                self.reasons.append(f"not on {manifest.ulid}: {error.message}")
                continue
            if missing:
                self.reasons.append(f"not on {manifest.ulid}: {missing[0]} is missing or has another size")
                continue
            self._readers = {manifest.ulid: reader}
            yield Candidate(
                snapshot=manifest.ulid,
                facts=reader.body.facts,
                written_at=manifest.written_at,
                flagged=manifest.flagged,
                settled=self._run.state.settled(manifest),
                refuted=self._refuted(manifest),
                same_hash_key=reader.body.hash_key == self._run.keys.hash_key,
            )

    def _parent(self, reader: SnapshotReader) -> ParentSnapshot | None:
        reasons = []
        by_use: dict[Use, set[tuple[str, int]]] = {use: set() for use in Use}
        live = reader.body.statistics.get("pack_live") or []
        packs = reader.manifest.packs
        shares = [(int(n), int(of)) for n, of in live] if len(live) == len(packs) else [None] * len(packs)
        self.held = {(p.run, p.number): share[1] for p, share in zip(packs, shares, strict=True) if share}
        for pack, share in zip(packs, shares, strict=True):
            name, number = str(pack.name(self._run.source)), (pack.run, pack.number)
            use, why = reusable.reusable(
                name, planned=self._run.state.planned, refuted=number in self._refuted_packs, live=share
            )
            by_use[use].add(number)
            if why:
                reasons.append(why)
                self._context.log(f"pack {name} is not built on: {why}")
        # Packs of shards alone, which hold no bytes of files, are nothing to build on.
        if not any(self.held.get(number, 1) for number in by_use[Use.BUILD_ON]):
            self.reasons.append(f"no pack of {reader.manifest.ulid} may be built on: {'; '.join(sorted(set(reasons)))}")
            self.held.clear()
            return None
        return ParentSnapshot(reader, refused=by_use[Use.REFUSE], sparse=by_use[Use.STORE_AGAIN])

    # -- proofs -----------------------------------------------------------------------------------------------------

    @cached_property
    def _proofs(self) -> list[records.Record]:
        """Proofs from L1 on, oldest first."""
        return [r for r in self.records(records.PROOF) if _tells(r.facts)]

    @cached_property
    def _names(self) -> list[names.RecordName]:
        """Records of about the last generation, oldest first: nothing older is built on."""
        since = utc_now() - self._generation - _CLOCKS
        listed = self._run.repository.store.list(f"records/{self._run.source}/")
        found = [name for info in listed if (name := names.record(info.name)) and ulids.made_at(name.ulid) >= since]
        return sorted(found, key=lambda name: name.ulid)

    def records(self, kind: str) -> Iterator[records.Record]:
        """Of *kind*, of about the last generation, oldest first."""
        for name in self._names:
            if name.kind == kind:
                try:
                    yield self._run.repository.get_record(name)
                except UNUSABLE as error:
                    self._context.log(f"not believed: {error.message}")

    def _refuted(self, manifest: Manifest) -> str:
        about = [r.facts for r in self._proofs if r.facts.get("digest_of") == manifest.digest]
        return "" if not about or about[-1].get("ok") is True else str(about[-1].get("level"))

    @cached_property
    def _refuted_packs(self) -> Collection[tuple[str, int]]:
        """Packs of which the newest proof of a snapshot that holds them failed."""
        if all(r.facts.get("ok") is True for r in self._proofs):
            return ()
        packs = {m.digest: m.packs for m in self._run.state.manifests}
        verdicts: dict[tuple[str, int], bool] = {}
        for record in self._proofs:
            for p in packs.get(str(record.facts.get("digest_of")), ()):
                verdicts[p.run, p.number] = record.facts.get("ok") is True
        return {number for number, good in verdicts.items() if not good}


def _tells(facts: Mapping[str, Any]) -> bool:
    """Whether a proof says something of stored bytes."""
    return facts.get("level") != "L0" or facts.get("ok") is not True
