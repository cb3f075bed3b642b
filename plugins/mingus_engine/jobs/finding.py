"""Which repositories to look into, and which of them has a snapshot. What cannot be read is said, not passed over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mingus_engine.errors import MingusError, NoSuchSnapshot, NotARepository, SettingsError, StoreError
from mingus_engine.jobs import places, reading
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import names
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings

LATEST = "latest"


class _Ambiguous(NoSuchSnapshot):
    """Several answer: another repository, which has fewer of them, must not decide."""


def each(
    settings: Settings, source: str | None, repository: str | None, context: JobContext, unreachable: dict[str, str]
) -> Iterator[Repository]:
    """The repositories to look into, opened without a key; those that cannot be are noted in *unreachable*."""
    first: MingusError | None = None
    chosen = names_of(settings, source, repository)
    for name in chosen:
        try:
            with places.opened(settings, name, context, with_key=False) as place:
                yield place
        except (StoreError, NotARepository) as error:
            unreachable[name] = error.message
            first = first or error
    if first is not None and len(unreachable) == len(chosen):
        raise first


def names_of(settings: Settings, source: str | None, repository: str | None) -> tuple[str, ...]:
    """Names of the repositories to look into."""
    if repository is not None:
        return (settings.repository(repository).name,)
    everywhere = tuple(r.name for r in settings.repositories)
    if not everywhere:
        raise SettingsError("the settings name no repository")
    # A source that the settings do not know (any more) may still have snapshots.
    return settings.chain(source) if source in {s.id for s in settings.sources} and source else everywhere


def sources_in(place: Repository, source: str | None) -> list[str]:
    """The source itself, or all that have anything in *place*."""
    return place.sources() if source is None else [source]


@contextmanager
def holding(
    settings: Settings, snapshot: str, source: str | None, repository: str | None, context: JobContext
) -> Iterator[tuple[Repository, Manifest]]:
    """The first repository that has the snapshot, opened with its key, and the snapshot's manifest there."""
    missing: NoSuchSnapshot | None = None
    unread: dict[str, MingusError] = {}
    for name in names_of(settings, source, repository):
        try:
            with places.opened(settings, name, context, with_key=False) as place:
                holder = _holder(place, snapshot, source, settings)
                manifest = reading.choose(place, holder, None if snapshot.lower() == LATEST else snapshot)
        except _Ambiguous:
            raise
        except NoSuchSnapshot as error:
            missing = missing or error
            continue
        except (StoreError, NotARepository) as error:
            unread[name] = error
            continue
        for other, why in unread.items():
            context.log(f"repository {other} was not read: {why.message}")
        with places.opened(settings, name, context) as place:
            yield place, manifest
            return
    if missing is not None and unread:
        raise NoSuchSnapshot(f"{missing.message} (not read: {', '.join(unread)})")
    raise missing or next(iter(unread.values()))


def _holder(place: Repository, snapshot: str, source: str | None, settings: Settings) -> str:
    """Which source the snapshot is of."""
    if source is not None:
        return source
    if snapshot.lower() == LATEST:
        known = [s.id for s in settings.sources] or place.sources()
        if len(known) != 1:
            raise SettingsError("the latest snapshot of which source?", hint=f"say --source: {', '.join(known)}")
        return known[0]
    listed = [name for info in place.store.list("snapshots/") if (name := names.snapshot(info.name))]
    named = {(name.source, name.ulid) for name in listed if name.ulid.startswith(snapshot.upper())}
    if not named:
        raise NoSuchSnapshot(f"no snapshot named {snapshot} in {place.name}")
    if len(named) > 1:
        raise _Ambiguous(f"{len(named)} snapshots named {snapshot} in {place.name}", hint="say more of its ULID")
    return named.pop()[0]
