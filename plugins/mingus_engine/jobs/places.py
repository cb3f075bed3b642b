"""Opening the repositories that the settings name, with the installation's fingerprint pinned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from mingus_engine.errors import ForeignRepository, NotARepository, ObjectMissing, StoreError
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import repository as repositories
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.slots import Credentials
from mingus_engine.settings import Settings
from mingus_engine.store.opening import open_store


def pinned_fingerprint(settings: Settings) -> str:
    """The installation's fingerprint: of the settings, else as noted at ``init`` or first use, else empty."""
    if settings.installation_fingerprint:
        return settings.installation_fingerprint.strip().lower()
    try:
        return _pin_file(settings).read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""


def note_fingerprint(settings: Settings, fingerprint: str) -> None:
    """Pin *fingerprint* where nothing is pinned yet.

    :raises ForeignRepository: another one is pinned.
    """
    pinned = pinned_fingerprint(settings)
    if pinned and pinned != fingerprint:
        raise ForeignRepository(f"installation {fingerprint[:16]}… is not the pinned one, {pinned[:16]}…")
    if not pinned:
        path = _pin_file(settings)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(fingerprint + "\n", encoding="ascii")
        temporary.replace(path)


@contextmanager
def opened(settings: Settings, name: str, context: JobContext, *, with_key: bool = True) -> Iterator[Repository]:
    """The repository *name*, closed afterwards.

    :raises MingusError: as ``open_store`` and ``open_repository``.
    """
    chosen = settings.repository(name)
    store = open_store(chosen, cancel=context.cancel)
    try:
        credentials = Credentials.of(chosen.keys) if with_key else None
        repository = repositories.open_repository(name, store, credentials, pinned=pinned_fingerprint(settings))
        if with_key:
            note_fingerprint(settings, repository.config.fingerprint)
        yield repository
    finally:
        store.close()


@contextmanager
def first_reachable(settings: Settings, source_id: str, context: JobContext) -> Iterator[Repository]:
    """The first repository of the source's chain that answers; a later one only when those before are down.

    :raises StoreError: the error of the first one, when none answers.
    """
    trouble: StoreError | None = None
    with ExitStack() as stack:
        for name in settings.chain(source_id):
            try:
                repository = stack.enter_context(opened(settings, name, context))
            except ObjectMissing:
                raise  # it is there, and damaged
            except StoreError as error:
                # Also a disk that is not mounted and rights that were taken away: a backup elsewhere beats none.
                context.log(f"repository {name} is not reachable: {error.message}")
                trouble = trouble or error
            else:
                yield repository
                return
    raise trouble or NotARepository(f"source {source_id} has no repository")


def chosen(
    settings: Settings, source_id: str, name: str | None, context: JobContext
) -> AbstractContextManager[Repository]:
    """The repository *name*; where none is named, the first reachable one of the source's chain.

    :raises MingusError: as ``opened`` and ``first_reachable``.
    """
    return opened(settings, name, context) if name else first_reachable(settings, source_id, context)


def _pin_file(settings: Settings) -> Path:
    return settings.state_path / "pins" / "installation"
