"""Turns a YAML mapping into a frozen dataclass; an unknown key is an error naming its nearest."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from mingus_engine.errors import SettingsError
from mingus_engine.settings.secret import Secret

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


def nearest(key: str, known: typing.Iterable[str]) -> str:
    """The end of a message about an unknown *key*: the nearest of *known*, else all of them."""
    names = sorted(known)
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; known: {', '.join(names) or 'none'}"


def build(cls: type, raw: Any, where: str, environ: Mapping[str, str]) -> Any:
    """*raw* as a *cls*, ``${NAME}`` replaced from *environ*.

    :raises SettingsError: an unknown or missing key, a value of the wrong type; the message begins with *where*.
    """
    if not isinstance(raw, dict):
        raise SettingsError(f"{where}: must be a mapping, not {type(raw).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if hints[f.name] != Secret | None}
    for key in raw:
        if key not in fields:
            raise SettingsError(f"{where}: unknown key {str(key)!r}{nearest(str(key), fields)}")
    values = {}
    for name, spec in fields.items():
        place = f"{where}.{name}"
        if name in raw and raw[name] is not None:
            values[name] = _convert(hints[name], raw[name], place, environ)
        elif spec.default is not dataclasses.MISSING:
            values[name] = _convert(hints[name], spec.default, place, environ)
        elif spec.default_factory is not dataclasses.MISSING:
            default = spec.default_factory()
            values[name] = build(type(default), {}, place, environ) if dataclasses.is_dataclass(default) else default
        else:
            raise SettingsError(f"{where}: missing key {name!r}")
    return cls(**values)


def _convert(hint: Any, raw: Any, where: str, environ: Mapping[str, str]) -> Any:
    origin = typing.get_origin(hint)
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), raw, where, environ)
    if origin is tuple:
        item = typing.get_args(hint)[0]
        if not isinstance(raw, list | tuple):
            raise SettingsError(f"{where}: must be a list, not {type(raw).__name__}")
        return tuple(_convert(item, value, f"{where}[{i}]", environ) for i, value in enumerate(raw))
    if isinstance(raw, str):
        raw = _expand(raw, environ)
    if origin is Literal:
        if raw not in typing.get_args(hint):
            raise SettingsError(f"{where}: {raw!r} is not one of {', '.join(map(str, typing.get_args(hint)))}")
        return raw
    if origin in (typing.Union, types.UnionType):  # only `int | str`: a number that may be a ${VARIABLE}
        hint = int
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(raw, dict):
            raise SettingsError(f"{where}: must be a mapping, not {type(raw).__name__}")
        return raw
    return _scalar(hint, raw, where)


def _scalar(hint: type, raw: Any, where: str) -> Any:
    if hint is bool and isinstance(raw, bool):
        return raw
    # What comes from the environment is text.
    if hint is bool and isinstance(raw, str) and raw.casefold() in {"true", "false"}:
        return raw.casefold() == "true"
    if hint is str and isinstance(raw, str | int | float) and not isinstance(raw, bool):
        return str(raw)
    if hint in (int, float) and not isinstance(raw, bool):
        try:
            return hint(raw)
        except (TypeError, ValueError):
            pass
    raise SettingsError(f"{where}: {raw!r} is not a valid {hint.__name__}")


def _expand(text: str, environ: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda m: environ.get(m[1]) or m[2] or "", text)
