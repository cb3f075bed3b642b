"""What every command is given: the console, the settings when it asks for them, and how to run a job."""

from __future__ import annotations

import argparse
import os
import pwd
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import mingus_engine
from mingus_engine.cli.console import Console
from mingus_engine.errors import MingusError
from mingus_engine.jobs.context import JobContext

if TYPE_CHECKING:
    from mingus_engine.cli.progress import ProgressDisplay
    from mingus_engine.settings import Settings

T = TypeVar("T")


class Session:
    """One invocation.

    :param cancel: set by Ctrl-C and SIGTERM; jobs stop at their next checkpoint and clean up.
    """

    def __init__(self, args: argparse.Namespace, console: Console) -> None:
        self.args, self.console = args, console
        self.cancel = threading.Event()

    @cached_property
    def settings(self) -> Settings:
        """The settings of ``--config``. :raises SettingsError: not there or wrong."""
        from mingus_engine.settings import load

        return load(self.args.config)

    @property
    def settings_file(self) -> Path:
        """Where the settings are, absolute."""
        from mingus_engine.settings import file_of

        return file_of(self.args.config).absolute()

    def run(self, job: Callable[[JobContext], T], *, notes: bool = True) -> T:
        """Call *job* with a context and show its progress.

        :param notes: show what the job logs; else only with ``--verbose``.
        """
        display = self.console.progress()
        with display or nullcontext():
            return job(self.context(display, notes=notes))

    def context(self, display: ProgressDisplay | None = None, *, notes: bool = True) -> JobContext:
        """What a job is given, for one that shows its progress in its own way."""
        return JobContext(
            provenance=self.provenance(),
            on_progress=display.update if display else None,
            cancel=self.cancel,
            log=self.console.note if notes or self.console.verbose else lambda _: None,
        )

    def provenance(self) -> dict[str, str]:
        """Who asks, for the run's record in the repository. No arguments: they are not ours to publish."""
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            user = str(os.geteuid())
        program = f"mingus {mingus_engine.__version__}"
        return {"host": socket.gethostname(), "user": user, "program": program, "command": self.args.command}


class Failed(MingusError):
    """A command ended with a result that says that something is wrong: both are shown.

    :param document: the JSON result, completed by the error.
    """

    def __init__(self, error: MingusError, document: Mapping[str, Any]) -> None:
        super().__init__(error.message, hint=error.hint)
        self.error, self.document = error, document
        self.exit_code = error.exit_code
