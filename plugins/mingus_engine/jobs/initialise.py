"""``init``: make a repository, and show its escrow key this once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import mingus_engine
from mingus_engine.errors import ForeignRepository, NotARepository, RepositoryExists, StoreError
from mingus_engine.jobs import places
from mingus_engine.jobs.context import JobContext, Report, Stopwatch
from mingus_engine.repository import config, envelope
from mingus_engine.repository import repository as repositories
from mingus_engine.repository.slots import Credentials
from mingus_engine.settings import Secret, Settings
from mingus_engine.store.opening import open_store
from mingus_engine.store.probe import probe


@dataclass(frozen=True, kw_only=True)
class InitialiseReport(Report):
    """What was made. The escrow key is in no dict, log or repr; print it once, keep it off-line.

    :param rescue: stored names of what reads the repository without MINGUS; they carry their SHA-256.
    """

    repository: str
    repository_id: str
    location: str
    fingerprint: str
    slots: list[str]
    rescue: list[str]
    probe: dict[str, object]
    escrow: Secret = field(repr=False, default_factory=lambda: Secret(""))

    @property
    def escrow_key(self) -> str:
        """The private half of the escrow slot, as text to be printed."""
        return self.escrow.reveal()

    def as_dict(self) -> dict[str, object]:
        """Without the escrow key."""
        return {k: v for k, v in self.__dict__.items() if k != "escrow"}


def initialise(settings: Settings, repository_name: str, *, context: JobContext) -> InitialiseReport:
    """Make the repository *repository_name* of the settings.

    The installation's signing key is taken from another repository of the settings where one exists, else made.

    :raises RepositoryExists: :raises KeyUnavailable: :raises SettingsError: :raises StoreError:
    """
    clock = Stopwatch()
    chosen = settings.repository(repository_name)
    store = open_store(chosen, create=True, cancel=context.cancel)
    try:
        if config.is_initialised(store):
            raise RepositoryExists(f"{store.location} holds a repository already")
        signer = _signer_of_another(settings, repository_name, context)
        context.progress("probe", 0, 0, store.location)
        behaviour = probe(store)
        repository, escrow = repositories.init(
            repository_name, store, Credentials.of(chosen.keys), signer=signer, rescue=_rescue_files()
        )
        places.note_fingerprint(settings, repository.config.fingerprint)
        return InitialiseReport(
            job="init",
            source="",
            duration_s=clock.seconds,
            repository=repository_name,
            repository_id=repository.id,
            location=store.location,
            fingerprint=repository.config.fingerprint,
            slots=[slot.name for slot in repository.config.slots],
            rescue=sorted(repository.config.rescue),
            probe=behaviour.as_dict(),
            escrow=escrow,
        )
    finally:
        store.close()


def _rescue_files() -> dict[str, bytes]:
    """What reads the repository without the product, and the text that it was written from, where that is installed."""
    package = Path(mingus_engine.__file__).parent
    files = {"1.py": package / "rescue.py", "FORMAT-1.md": package.parents[1] / "docs" / "FORMAT.md"}
    return {name: path.read_bytes() for name, path in files.items() if path.is_file()}


def _signer_of_another(settings: Settings, name: str, context: JobContext) -> envelope.Signer | None:
    for other in settings.repositories:
        if other.name == name:
            continue
        try:
            with places.opened(settings, other.name, context) as repository:
                return repository.keys.signer
        except (NotARepository, StoreError) as error:
            # Not made yet, or out of reach: whether that matters is decided by the pin below.
            context.log(f"repository {other.name}: {error.message}")
    if places.pinned_fingerprint(settings):
        raise ForeignRepository(
            "an installation is pinned, but no repository of the settings holds its signing key",
            hint="make one of its repositories reachable, or remove the pin to start a new installation",
        )
    return None
