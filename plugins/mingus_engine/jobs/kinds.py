"""Of which kind a source is (by the settings, or, where a disaster left none, by what is stored); what knows it.

The one table of kinds below the command line: a new kind is added here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mingus_engine.jobs import places
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.files.prove import FilesProver
from mingus_engine.jobs.postgres.prove import PostgresProver
from mingus_engine.jobs.postgres.windows import windows as postgres_windows
from mingus_engine.jobs.proving import Prover, Wanted
from mingus_engine.jobs.redis.prove import RedisProver
from mingus_engine.jobs.redis.windows import windows as redis_windows
from mingus_engine.jobs.surveying import WindowsReport
from mingus_engine.repository import state
from mingus_engine.repository.repository import Repository
from mingus_engine.settings import Settings, SourceSettings

PROVERS: Mapping[str, Callable[[Settings, SourceSettings, Repository, Wanted, JobContext], Prover]] = {
    "postgres": PostgresProver,
    "redis": RedisProver,
    "files": FilesProver,
}
#: The kinds that have a log between their snapshots, and what looks for the windows in it.
WINDOWS: Mapping[str, Callable[..., WindowsReport]] = {"postgres": postgres_windows, "redis": redis_windows}


def stored_source(settings: Settings, source_id: str, place: Repository) -> SourceSettings:
    """The settings of *source_id*, to read what *place* has of it.

    Settings without any source get defaults of the kind that its newest snapshot is of.

    :raises SettingsError: there are sources and none of that name. :raises NoSuchSnapshot: nothing is stored of it.
    """
    if settings.sources:
        return settings.stored_source(source_id)
    kind, _, _ = state.look(place, source_id).newest().kind.partition(" ")
    return settings.stored_source(source_id, kind)


def kind_of(settings: Settings, source_id: str, repository: str | None, context: JobContext) -> str:
    """The kind of *source_id*; a repository (*repository*, else the first reachable one) is opened only where the
    settings do not say it.

    :raises MingusError: as :func:`stored_source`, or as opening a repository.
    """
    if settings.sources:
        return settings.stored_source(source_id).kind
    with places.chosen(settings, source_id, repository, context) as place:
        return stored_source(settings, source_id, place).kind
