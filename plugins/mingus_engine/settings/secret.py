"""A secret text, and where it is read from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mingus_engine.errors import SettingsError


class Secret:
    """A secret text that no ``repr``, log or traceback shows; ``reveal()`` gives it to who must have it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The secret itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


def read_secret(
    environ_name: str, file_name: str = "", *, environ: Mapping[str, str] | None = None, what: str = "secret"
) -> Secret | None:
    """The secret of a variable, else of a file (its first line), else ``None``.

    :raises SettingsError: the file is named but cannot be read.
    """
    environ = os.environ if environ is None else environ
    if environ_name and environ.get(environ_name):
        return Secret(environ[environ_name])
    if file_name:
        try:
            return Secret(Path(file_name).read_text(encoding="utf-8").splitlines()[0])
        except (OSError, IndexError):
            raise SettingsError(f"cannot read the {what} from file {file_name}") from None
    return None
