"""Reads the settings file."""

from __future__ import annotations

import dataclasses
import os
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mingus_engine.errors import SettingsError
from mingus_engine.settings.alerts import read_alerts
from mingus_engine.settings.building import build
from mingus_engine.settings.checking import check
from mingus_engine.settings.model import Settings


def file_of(path: Path | str | None = None, environ: Mapping[str, str] | None = None) -> Path:
    """Where :func:`load` reads the settings from."""
    environ = os.environ if environ is None else environ
    return Path(path or environ.get("MINGUS_CONFIG") or "include/config/mingus.yaml")


def load(path: Path | str | None = None, *, environ: Mapping[str, str] | None = None) -> Settings:
    """Read the settings of *path*, or of ``MINGUS_CONFIG``, or of ``include/config/mingus.yaml``.

    :raises SettingsError: not there, not YAML, an unknown key, a wrong value; the message names the place.
    """
    environ = os.environ if environ is None else environ
    chosen = file_of(path, environ)
    try:
        text = chosen.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(
            f"cannot read settings {chosen}: {error.strerror}", hint="name the file by --config or MINGUS_CONFIG"
        ) from None
    return parse(text, where=str(chosen), environ=environ, base=chosen.parent)


def parse(
    text: str, *, where: str = "settings", environ: Mapping[str, str] | None = None, base: Path | None = None
) -> Settings:
    """Parse YAML *text*. Relative paths are taken from *base* (the settings file's directory).

    :raises SettingsError: see :func:`load`.
    """
    environ = os.environ if environ is None else environ
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{where}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if not isinstance(document, dict):
        raise SettingsError(f"{where}: must be a mapping of settings")
    alerts = read_alerts(document.pop("alerts", None), f"{where}.alerts", environ)
    settings = typing.cast(Settings, build(Settings, document, where, environ))
    settings = dataclasses.replace(settings, alerts=alerts)
    _refuse_foreign_keys(document, where)
    if base is not None:
        settings = _absolute(settings, base.absolute())
    check(settings, where)
    return settings


# Keys of a source that mean something for one kind alone.
_KIND_KEYS = {
    "postgres": {
        "transport", "sql_connections", "connection", "airflow_connection", "data_directory", "verify_page_checksums",
        "max_rate_bytes_per_s", "predicates", "measurements", "wal",
    },
    "redis": {"redis"},
    "files": {"files"},
}  # fmt: skip


# ... and of a destination.
_DESTINATION_KEYS = {"postgres": {"connection", "bin_directory"}, "redis": {"redis"}}


def _refuse_foreign_keys(document: Mapping[str, Any], where: str) -> None:
    """:raises SettingsError: an entry has a key that its kind does not know; it would do nothing."""
    for list_name, of_kinds in (("sources", _KIND_KEYS), ("destinations", _DESTINATION_KEYS)):
        for i, raw in enumerate(document.get(list_name) or ()):
            kind = raw.get("kind", "postgres")
            for other, keys in of_kinds.items():
                if other != kind and (foreign := sorted(keys & raw.keys())):
                    raise SettingsError(
                        f"{where}.{list_name}[{i}]: {foreign[0]!r} is a key of {other} {list_name}, not of {kind}"
                    )


def _absolute(settings: Settings, base: Path) -> Settings:
    def absolute(path: str) -> str:
        return str(base / Path(path).expanduser()) if path else ""

    return dataclasses.replace(
        settings,
        state_directory=absolute(settings.state_directory),
        spool_directory=absolute(settings.spool_directory),
        repositories=tuple(dataclasses.replace(r, path=absolute(r.path)) for r in settings.repositories),
        alerts=dataclasses.replace(settings.alerts, directory=absolute(settings.alerts.directory)),
    )
