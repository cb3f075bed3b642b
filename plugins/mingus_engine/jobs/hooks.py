"""Programs around a backup: what quiesces an application, and what lets it go on.

``before`` runs when the repository is open, before anything is read; ``after`` as soon as everything was read, in every
outcome. That ``after`` is due is noted in the state directory before the first program runs, so that what was killed in
between is made good by the next run on this machine. Two backups never share the time between the two.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from mingus_engine.checks import Check
from mingus_engine.errors import ComponentMissing, HookFailed, SettingsError, SourceBusy
from mingus_engine.jobs.context import JobContext
from mingus_engine.masking import mask
from mingus_engine.programs import accounts, single
from mingus_engine.programs.accounts import Account
from mingus_engine.repository.repository import utc_now
from mingus_engine.settings import HookSettings

# Lines of a program's output that the log shows.
_SHOWN_LINES = 20


class Hooks:
    """The programs of a source or group, once. A context manager: entered, ``before`` has run; left, ``after`` has.

    :param name: of the source, or ``group NAME``.
    :ivar facts: when everything stood still (ISO 8601), and which programs of ``after`` failed; complete after ``end``.
    """

    def __init__(self, hooks: HookSettings, name: str, state_directory: Path, context: JobContext) -> None:
        self._hooks, self._name, self._context = hooks, name, context
        self._directory = state_directory / "hooks"
        self._stem = _stem(name)
        self._lock = -1
        self._due = False
        self.facts: dict[str, Any] = {}

    def __enter__(self) -> Self:
        try:
            self.begin()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Whatever happened: ``after`` has run, and others may begin. Idempotent."""
        self.end()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def end(self) -> None:
        """Everything was read, or will not be: run ``after``, unless it has run. Never raises for a program."""
        if not self._due:
            return
        self._due = False
        if "quiesced_from" in self.facts:
            self.facts["quiesced_until"] = utc_now().isoformat()
        failed = self._after()
        if failed:
            self.facts["failed"] = failed
            for line in failed:
                self._context.log(f"FAILED: {line}; the next backup runs it again before anything else")
        else:
            with suppress(FileNotFoundError):
                self._mark.unlink()

    @property
    def _mark(self) -> Path:
        return pending_mark(self._directory.parent, self._name)

    def begin(self) -> None:
        """Make good what an earlier run left, then run ``before``. ``close`` must follow, also when it fails.

        :raises SourceBusy: :raises HookFailed: :raises Cancelled:
        """
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = os.open(self._directory / f"{self._stem}.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SourceBusy(
                f"another backup is between the hooks of {self._name}",
                hint="it quiesced the application for itself; this one can begin when it has ended",
            ) from None
        if self._mark.exists():
            self._make_good()
        note = {"noted_at": utc_now().isoformat(), "host": socket.gethostname(), "pid": os.getpid()}
        _write_durably(self._mark, json.dumps(note).encode())
        self._due = True
        for argv in self._hooks.before:
            if why := self._run(argv, self._context.checkpoint):
                raise HookFailed(f"hook before {self._name}: {why}")
        self.facts["quiesced_from"] = utc_now().isoformat()

    def _make_good(self) -> None:
        """What an earlier run left undone."""
        if not self._hooks.recover:
            self._context.log(f"an earlier backup of {self._name} left its hooks after it undone; recover is off")
            return
        self._context.log(f"an earlier backup of {self._name} was killed between its hooks: runs those after it first")
        if failed := self._after():
            raise HookFailed(
                f"what an earlier backup of {self._name} left cannot be made good: {failed[0]}",
                hint=f"make it good by hand, then remove {self._mark}",
            )

    def _after(self) -> list[str]:
        # Not to be stopped: whoever cancels a backup wants the application to go on all the more.
        return [
            f"hook after {self._name}: {why}" for argv in self._hooks.after if (why := self._run(argv, lambda: None))
        ]

    def _run(self, argv: Sequence[str], checkpoint: Callable[[], None]) -> str:
        """Run a program; what went wrong, empty = nothing. Arguments are not shown: they may be nobody's business."""
        program = argv[0]
        try:
            done = single.run(
                argv, account=account_of(self._hooks), timeout_s=self._hooks.timeout_s,
                environment=environment_of(self._hooks), checkpoint=checkpoint,
            )  # fmt: skip
        except single.TimedOut:
            return f"{program} did not end within {self._hooks.timeout_s} s and was killed"
        except (ComponentMissing, SettingsError) as error:
            return error.message
        except OSError as error:
            return f"{program} cannot be run: {error.strerror}"
        said = shown(done.output, environment_of(self._hooks, only_passed=True))
        for line in said:
            self._context.log(f"{program}: {line}")
        if done.code:
            return f"{program} ended with {done.code}" + (f": {said[-1]}" if said else "")
        return ""


def pending_mark(state_directory: Path, name: str) -> Path:
    """The note that the programs after a backup of *name* are due; where there is one and no backup runs, one died."""
    return state_directory / "hooks" / f"{_stem(name)}.due"


def _stem(name: str) -> str:
    """Of the files of a source or group: no name has a point, so none is taken for another."""
    return name.replace(" ", ".")


def checks(hooks: HookSettings, name: str, state_directory: Path) -> Iterator[Check]:
    """What `mingus check` says of the hooks of *name*: can they be run, and is one due since a backup died?"""
    mark = pending_mark(state_directory, name)
    if mark.exists() and not _held(mark.with_suffix(".lock")):
        yield Check(
            f"hooks of {name}", False,
            "a backup died between them, or those after it failed: what was quiesced may stand still; the next backup"
            " runs them first",
        )  # fmt: skip
    if not hooks:
        return
    bad = [argv[0] for argv in (*hooks.before, *hooks.after) if not os.access(argv[0], os.X_OK)]
    try:
        account_of(hooks)
    except (ComponentMissing, SettingsError) as error:
        yield Check("hooks", False, error.message)
        return
    detail = f"cannot be run: {', '.join(bad)}" if bad else f"{len(hooks.before)} before, {len(hooks.after)} after"
    yield Check("hooks", not bad, detail)


def _held(lock: Path) -> bool:
    """Whether a backup is between its hooks now."""
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def account_of(hooks: HookSettings) -> Account | None:
    """Who the programs run as; ``None`` = the engine's own user.

    :raises ComponentMissing: there is no such user. :raises SettingsError: only root may become another user.
    """
    if not hooks.run_as:
        return None
    try:
        found = accounts.account(hooks.run_as)
    except ComponentMissing as error:
        raise ComponentMissing(error.message, hint="name an unprivileged user as hooks.run_as") from None
    if found is None and not accounts.is_own(hooks.run_as):
        raise SettingsError(
            f"hooks.run_as is {hooks.run_as!r}, but only root may run programs as somebody else",
            hint="leave it empty, or have the program change the user (sudo)",
        )
    return found


def environment_of(hooks: HookSettings, *, only_passed: bool = False) -> Mapping[str, str]:
    """What the programs find in their environment besides what every program finds there."""
    passed = {name: os.environ[name] for name in hooks.pass_environment if name in os.environ}
    return passed if only_passed else {**hooks.environment, **passed}


def shown(output: str, secrets: Mapping[str, str]) -> list[str]:
    """The last lines of a program's output, without values of *secrets* and whatever else looks like one."""
    for value in secrets.values():
        if len(value) > 3:
            output = output.replace(value, "***")
    lines = [line for line in mask(output).splitlines() if line.strip()]
    return [
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line) for line in lines[-_SHOWN_LINES:]
    ]


def _write_durably(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_TRUNC | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, data)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


class Gate(Protocol):
    """What a group tells the backup of one of its members."""

    def ready(self) -> None:
        """The backup could begin to read; returns when it may. :raises MingusError:"""

    def all_read(self) -> Mapping[str, Any]:
        """It has read everything; returns when all members have, with facts about the group. :raises MingusError:"""


class AtRest:
    """What stands still while a backup reads: for its own hooks, and for the group that it is part of.

    A context manager: entered, everything stands still.
    """

    def __init__(self, hooks: Hooks | None = None, gate: Gate | None = None) -> None:
        self._hooks, self._gate = hooks, gate

    def __enter__(self) -> Self:
        if self._gate is not None:
            self._gate.ready()
        if self._hooks is not None:
            self._hooks.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._hooks is not None:
            self._hooks.close()

    def read(self) -> dict[str, Any]:
        """Everything was read, nothing is committed: facts for the manifest.

        :raises MingusError: the group is not at one moment.
        """
        facts: dict[str, Any] = {}
        if self._hooks is not None:
            self._hooks.end()
            facts["hooks"] = self._hooks.facts
        if self._gate is not None:
            facts["group"] = dict(self._gate.all_read())
        return facts
