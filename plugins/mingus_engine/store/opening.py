"""From settings to a store: the bare store, and around it what the settings ask for.

Inside out: the store, its bandwidth limit (the bytes of every try count), its retries.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping

from mingus_engine.settings import RepositorySettings
from mingus_engine.store.base import Store
from mingus_engine.store.local import LocalStore
from mingus_engine.store.retrying import RetryingStore
from mingus_engine.store.throttled import ThrottledStore


def open_store(
    settings: RepositorySettings,
    environ: Mapping[str, str] | None = None,
    *,
    create: bool = False,
    cancel: threading.Event | None = None,
) -> Store:
    """The store of a repository. Nothing is connected or read yet; the caller closes it.

    :param environ: where the credentials named in the settings are; default: the process environment.
    :param create: make the directory of a local store when it is missing (``init`` only): for any other job a missing
        directory is a disk that is not mounted.
    :param cancel: ends a wait (between two tries, for bandwidth) with :class:`mingus_engine.errors.Cancelled`.
    :raises SettingsError: a named credential is not there, or the endpoint is not usable.
    """
    store = _bare(settings, os.environ if environ is None else environ, create=create)
    if settings.bandwidth_bytes_per_s > 0:
        store = ThrottledStore(store, settings.bandwidth_bytes_per_s, cancel=cancel)
    if settings.attempts > 1:
        store = RetryingStore(store, attempts=settings.attempts, cancel=cancel)
    return store


def _bare(settings: RepositorySettings, environ: Mapping[str, str], *, create: bool) -> Store:
    if settings.store == "local":
        return LocalStore(settings.path, create=create)
    # Here, not above: boto3 costs 0.3 s and 30 MB, which a local repository need not pay.
    from mingus_engine.store.s3 import S3Store

    return S3Store(settings.s3, environ)
