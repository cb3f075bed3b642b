"""What one look at a source shows: runs, plans, fences, verdicts, snapshots; and how each snapshot is to be judged.

A *look* lists in the order the protocol asks for: plans before manifests (DESIGN §4 "Commit"). Judgements are pure
functions of what was seen.

A manifest whose putting run has a verdict that omits it is **void**: every reader treats it as not there. It is
**settled** if each fence on that run has a verdict that names it; an unsettled one restores, but replaces nothing.

One damaged object must neither stop the next backup nor hide the snapshots beside it, and must never be passed over
silently: it is kept in ``damaged``, nothing is built on what it may have said, and whoever asks for "the newest" or
for it gets an error that names it. (A cleaner refuses to judge such a source at all.)
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from mingus_engine import bounds
from mingus_engine.errors import Damaged, FormatTooNew, NoSuchSnapshot, ObjectMissing
from mingus_engine.repository import manifests, names, records
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.repository import Repository

N = TypeVar("N")
V = TypeVar("V")
_JUDGING = frozenset({records.PLAN, records.DONE, records.VERDICT})


@dataclass(frozen=True)
class SourceState:
    """What a look at a source showed.

    :param planned: stored names that an open plan wants to delete. :param fences: run → names of fences on it.
    :param verdicts: run → its verdicts. :param manifests: those that are not void and not planned, oldest first.
    :param removed: ULIDs of snapshots that are void or planned.
    :param damaged: stored name of a manifest or record that is not whole → what is wrong with it.
    """

    planned: Container[str]
    fences: dict[str, tuple[names.RecordName, ...]]
    verdicts: dict[str, tuple[records.Record, ...]]
    manifests: tuple[Manifest, ...]
    removed: frozenset[str]
    damaged: Mapping[str, str]

    def settled(self, manifest: Manifest) -> bool:
        """Whether *manifest* may replace something (count as present, count for retention, carry proofs)."""
        fenced = {str(fence) for fence in self.fences.get(manifest.put_by, ())}
        named = {
            v.text("fence")
            for v in self.verdicts.get(manifest.put_by, ())
            if str(manifest.name) in v.texts("manifests")
        }
        return fenced <= named

    def heads(self) -> list[str]:
        """Content digests of manifests that no other one here names as its head."""
        named = {digest for m in self.manifests for digest in m.heads}
        return sorted({m.digest for m in self.manifests} - named)

    def damaged_snapshots(self) -> dict[str, str]:
        """ULID → what is wrong, of snapshots that have no whole manifest here (it may have been shipped again)."""
        whole = {m.ulid for m in self.manifests}
        found = {s.ulid: what for name, what in self.damaged.items() if (s := names.snapshot(name))}
        return {ulid: what for ulid, what in found.items() if ulid not in whole}

    def newest(self) -> Manifest:
        """The newest snapshot.

        :raises NoSuchSnapshot: there is none. :raises Damaged: a manifest is damaged, and may be the newest.
        """
        for what in self.damaged_snapshots().values():
            raise Damaged(what, hint="choose a snapshot by its ULID (`mingus list`), or use another repository")
        if not self.manifests:
            raise NoSuchSnapshot("there is no snapshot of this source")
        return self.manifests[-1]

    def find(self, ulid_prefix: str) -> Manifest:
        """The snapshot whose ULID begins with *ulid_prefix*.

        :raises NoSuchSnapshot: none, or several. :raises Damaged: its manifest is damaged.
        """
        for ulid, what in self.damaged_snapshots().items():
            if ulid.startswith(ulid_prefix.upper()):
                raise Damaged(what)
        found = {m.ulid: m for m in self.manifests if m.ulid.startswith(ulid_prefix.upper())}
        if len(found) != 1:
            how = "no snapshot" if not found else f"{len(found)} snapshots"
            removed = " (it was removed)" if any(u.startswith(ulid_prefix.upper()) for u in self.removed) else ""
            raise NoSuchSnapshot(f"{how} named {ulid_prefix}{removed}")
        return next(iter(found.values()))


class _Everything:
    """What an unreadable plan names, for all that is known."""

    def __contains__(self, name: object) -> bool:
        return True


def look(repository: Repository, source: str, *, snapshots: bool = True) -> SourceState:
    """List and judge everything of *source* that commit and reading depend on; see the module for what is damaged.

    :param snapshots: off for who archives logs: what is planned and fenced matters to it, snapshots do not.
    :raises Damaged: two manifests claim one ULID with different content, or heads go round in a circle.
    """
    damaged: dict[str, str] = {}
    found = [r for info in repository.store.list(f"records/{source}/") if (r := names.record(info.name))]
    opened = {}
    for name, record in _fetched(repository, repository.get_record, (n for n in found if n.kind in _JUDGING)):
        try:
            opened[name] = record()
        except (Damaged, FormatTooNew) as error:
            damaged[str(name)] = error.message
    done = {r.text("plan") for name, r in opened.items() if name.kind == records.DONE}
    planned = frozenset(
        stored
        for name, r in opened.items()
        if name.kind == records.PLAN and name.ulid not in done
        for stored in r.texts("names")
    )
    fences: dict[str, list[names.RecordName]] = {}
    verdicts: dict[str, list[records.Record]] = {}
    for name in found:
        if name.kind == records.FENCE:
            fences.setdefault(name.ulid, []).append(name)
        elif name.kind == records.VERDICT and name in opened:
            verdicts.setdefault(name.ulid, []).append(opened[name])
    kept, removed = [], set()
    listed = repository.list_snapshots(source) if snapshots else ()
    for snapshot, fetched in _fetched(repository, repository.get_manifest, listed):
        try:
            manifest = fetched()
        except ObjectMissing:
            if any(repository.store.list(str(snapshot))):
                raise
            removed.add(snapshot.ulid)  # between the listing and now, by a cleaner (DESIGN §4 "Readers")
            continue
        except (Damaged, FormatTooNew) as error:
            damaged[str(snapshot)] = error.message
            continue
        if str(snapshot) in planned or is_void(manifest, verdicts.get(manifest.put_by, ())):
            removed.add(snapshot.ulid)
        else:
            kept.append(manifest)
    unread_plan = any(name.kind == records.PLAN and str(name) in damaged for name in found)
    return SourceState(
        planned=_Everything() if unread_plan else planned,
        fences={run: tuple(f) for run, f in fences.items()},
        verdicts={run: tuple(v) for run, v in verdicts.items()},
        manifests=tuple(in_order(_one_each(kept))),
        removed=frozenset(removed),
        damaged=damaged,
    )


def is_void(manifest: Manifest, verdicts: Iterable[records.Record]) -> bool:
    """Whether a verdict on the run that put *manifest* omits it."""
    return any(str(manifest.name) not in verdict.texts("manifests") for verdict in verdicts)


def in_order(found: Sequence[Manifest]) -> list[Manifest]:
    """Oldest first: a head before what names it, else by position in the source, then by time of making.

    Never by ULID or file time alone (DESIGN §4 "Time"): a clock that went back must not reorder.

    :raises Damaged: heads go round in a circle; none is left out silently.
    """
    by_ulid = {m.ulid: m for m in found}
    known = Counter(m.digest for m in found)
    waiting = {m.ulid: sum(known[h] for h in set(m.heads)) for m in found}
    children: dict[str, list[str]] = {}
    for m in found:
        for head in set(m.heads):
            children.setdefault(head, []).append(m.ulid)
    ready = [(by_ulid[u].position, u) for u, n in waiting.items() if n == 0]
    heapq.heapify(ready)
    ordered = []
    while ready:
        ordered.append(by_ulid[heapq.heappop(ready)[1]])
        for child in children.get(ordered[-1].digest, ()):
            waiting[child] -= 1
            if waiting[child] == 0:
                heapq.heappush(ready, (by_ulid[child].position, child))
    if len(ordered) != len(found):
        lost = sorted(str(m.name) for m in found if waiting[m.ulid])
        raise Damaged(f"{lost[0]} and {len(lost) - 1} more name each other as their heads")
    return ordered


def fences_on(repository: Repository, source: str, run: str) -> list[names.RecordName]:
    """The fences on *run* that are there now."""
    infos = repository.store.list(f"records/{source}/{run}.{records.FENCE}.")
    return [name for info in infos if (name := names.record(info.name))]


def _fetched(repository: Repository, get: Callable[[N], V], found: Iterable[N]) -> Iterator[tuple[N, Callable[[], V]]]:
    """*found* in order, each with what gives its object, or raises as *get* does.

    A distant store is asked for many at a time: a hundred snapshots, one after the other, were some seconds of waiting.
    """
    if repository.store.features.durable_local_path:
        yield from ((name, partial(get, name)) for name in found)
        return
    with ThreadPoolExecutor(bounds.PREFETCH_REQUESTS, thread_name_prefix="mingus-look") as pool:
        try:
            for name, future in [(name, pool.submit(get, name)) for name in found]:
                yield name, future.result
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _one_each(found: Sequence[manifests.Manifest]) -> list[Manifest]:
    """One object per snapshot: two with one ULID and one digest are one snapshot, with two digests an error."""
    by_ulid: dict[str, Manifest] = {}
    for m in sorted(found, key=lambda m: str(m.name)):
        other = by_ulid.setdefault(m.ulid, m)
        if other.digest != m.digest:
            manifests.conflict(str(other.name), str(m.name))
    return list(by_ulid.values())
