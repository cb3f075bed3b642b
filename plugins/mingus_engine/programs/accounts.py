"""The operating-system user that servers' programs run as when the engine is root, and who owns what is restored."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.errors import ComponentMissing


@dataclass(frozen=True)
class Account:
    """The operating-system user that programs run as when the engine is root."""

    name: str
    uid: int
    gid: int

    @property
    def owner(self) -> tuple[int, int]:
        """Owner of the files that the account must be able to use."""
        return self.uid, self.gid


def account(name: str) -> Account | None:
    """The account *name* when the engine is root, else ``None``: programs run as the engine's own user.

    :raises ComponentMissing: there is no such user, or it is root, too.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        raise ComponentMissing(
            f"operating-system user {name!r} does not exist", hint="name an unprivileged user as verify.run_as"
        ) from None
    if entry.pw_uid == 0:
        raise ComponentMissing(
            f"operating-system user {name!r} is root; a server on restored data does not run as root",
            hint="name an unprivileged user as verify.run_as",
        )
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def is_own(name: str) -> bool:
    """Whether the engine runs as the user *name*."""
    try:
        return pwd.getpwnam(name).pw_uid == os.geteuid()
    except KeyError:
        return False


def owner_in(directory: Path, run_as: str) -> tuple[int, int] | None:
    """Who owns what is restored into *directory*: the process, or for root its owner, else the account *run_as*.

    :raises ComponentMissing: as :func:`account`.
    """
    if os.geteuid() == 0 and directory.is_dir() and (status := directory.stat()).st_uid != 0:
        return status.st_uid, status.st_gid
    found = account(run_as)
    return found.owner if found else None


def command_of_owner(command: str, directory: Path) -> str:
    """A shell's *command* that starts a server in *directory*, as whoever restored it types it: root, as its owner."""
    if os.geteuid() == 0:
        with suppress(KeyError, OSError):  # an owner without a name
            return f"runuser -u {pwd.getpwuid(directory.stat().st_uid).pw_name} -- {command}"
    return command
