"""A throw-away server on a restored data directory: private, mute, and gone in every outcome."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import psycopg

from mingus_engine.errors import VerificationFailed
from mingus_engine.postgres import control_data
from mingus_engine.postgres.programs import Programs
from mingus_engine.programs.accounts import Account
from mingus_engine.programs.running import Guarded
from mingus_engine.targets.paths import shown
from mingus_engine.targets.postgres import configuration, libraries, workplace
from mingus_engine.targets.postgres.options import server_options, session_options
from mingus_engine.targets.postgres.server_log import ServerLog

# Orders to the guardian, and how long each may take in seconds: a fast shutdown writes a checkpoint, without fsync; an
# immediate one only ends processes.
_FAST = (b"f", 120.0)
_IMMEDIATELY = ((b"i", 15.0),)
_POLL_S = 0.05


@dataclass(frozen=True)
class Started:
    """How a server came up; part of the RTO.

    :param consistent_s: seconds until the log said that the state is consistent, ``None`` when it was not said.
    :param accepting_s: seconds until it accepted connections, all WAL replayed.
    :param consistent_lsn: where it became consistent. :param redo_lsn: the last record read. :param first_lsn: the
        first. :param stopping: it stopped ``before`` or ``after`` the last one, or ``at`` a restore point. Empty = not
        said.
    :param dropped_libraries: of shared_preload_libraries, with the reason.
    """

    accepting_s: float
    consistent_s: float | None
    consistent_lsn: str
    redo_lsn: str
    first_lsn: str = ""
    stopping: str = ""
    dropped_libraries: Mapping[str, str] = field(default_factory=dict)


class ThrowAwayServer:
    """Starts with ``start`` (or ``with``), ends with ``close``, which may be called in any state and more than once.

    The data directory is changed by it, as by any server; its configuration is not read. When the engine dies, the
    server ends at once (:mod:`mingus_engine.programs.guardian`).

    :param account: who runs it when the engine is root, and owns *data_directory*.
    :param work_dir: existing directory, for the log and the socket.
    :param primary: settings of the primary as far as known (``shared_preload_libraries``, parameters of hot standby).
    :param superuser: a role of the cluster that may do everything.
    :param recovery: recovery target settings (e.g. ``recovery_target_lsn``); the server is promoted when it got there.
        ``None`` = replay what is in ``pg_wal``.
    :param checkpoint: called some times a second while waiting; what it raises ends the server.
    """

    def __init__(
        self,
        data_directory: Path,
        programs: Programs,
        *,
        account: Account | None,
        work_dir: Path,
        primary: Mapping[str, str] = MappingProxyType({}),
        superuser: str = "postgres",
        recovery: Mapping[str, str] | None = None,
        start_timeout_s: float = 3600,
        checkpoint: Callable[[], None] = lambda: None,
    ) -> None:
        self.data_directory = data_directory.absolute()
        self.programs = programs
        self.account = account
        self.superuser = superuser
        self._work_dir = work_dir.absolute()
        self._primary = primary
        self._recovery = recovery
        self._timeout_s = start_timeout_s
        self._checkpoint = checkpoint
        self._place: workplace.Workplace | None = None
        self._server: Guarded | None = None

    def start(self) -> Started:
        """Start the server and wait until it accepts writes.

        :raises VerificationFailed: it ended, or did not become consistent in time; the message has its log's lines.
        :raises ComponentMissing: a program is missing. :raises TargetError: the directory is not usable by *account*.
        """
        try:
            return self._start()
        except BaseException:
            # A shutdown checkpoint of a server that failed, or that nobody waits for any more, is of no use.
            self._end(orders=_IMMEDIATELY)
            self.close()
            raise

    def connect(self, dbname: str = "postgres", **parameters: Any) -> psycopg.Connection[Any]:
        """An autocommit connection as superuser over the private socket; the caller closes it.

        :raises psycopg.OperationalError: the server refused.
        """
        chosen = {**self.connection_parameters(dbname), "autocommit": True, **parameters}
        return psycopg.connect(**chosen)

    def connection_parameters(self, dbname: str = "postgres") -> dict[str, Any]:
        """What libpq needs; given completely, so that no ``PG*`` variable of the engine decides anything."""
        return {
            "host": str(self._place.socket_directory) if self._place else "/nonexistent",
            "port": workplace.PORT,
            "user": self.superuser,
            "dbname": dbname,
            "options": session_options(self.programs.version),
            "application_name": "mingus",
            "passfile": "/nonexistent",
            "sslmode": "disable",
            "gssencmode": "disable",
            "client_encoding": "UTF8",
            "connect_timeout": 60,
            "target_session_attrs": "any",
        }

    def databases(self) -> list[str]:
        """Names of the databases that can be connected to."""
        with self.connect() as connection:
            rows = connection.execute("select datname from pg_catalog.pg_database where datallowconn order by 1")
            return [str(name) for (name,) in rows]

    def stop(self) -> bool:
        """End the server: fast, then immediate, then by SIGKILL. True when it shut down cleanly. Idempotent."""
        return self._end(orders=(_FAST, *_IMMEDIATELY))

    def close(self) -> None:
        """End the server and remove what it needed: socket, log, options; idempotent."""
        try:
            self.stop()
        finally:
            workplace.put_back(self.data_directory)
            if self._place is not None:
                self._place.remove()
                self._place = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> Started:
        workplace.require_usable(self.data_directory, self._work_dir, self.account)
        control = control_data.read(self.data_directory, self.programs, self.account)
        chosen = libraries.choose(
            self._primary.get("shared_preload_libraries", ""),
            libraries.installed_in(self.programs.library_directory),
        )
        workplace.neutralise(self.data_directory, self.account, signal_recovery=self._recovery is not None)
        place = self._place = workplace.Workplace(self._work_dir, self.account)
        options = server_options(self.programs.version, control, self._primary, chosen, self._recovery)
        options |= {
            "config_file": str(place.configuration),
            "hba_file": str(place.access),
            "ident_file": str(place.identities),
            "unix_socket_directories": str(place.socket_directory),
            "unix_socket_permissions": "0700",
            "port": str(workplace.PORT),
        }
        log = ServerLog(place.log)
        started = time.monotonic()
        with place.log.open("ab") as output:
            self._server = self.programs.start(
                "postgres",
                ["-D", str(self.data_directory), *configuration.arguments(options)],
                account=self.account,
                output=output.fileno(),
                orphan_signal=signal.SIGQUIT,
            )
        consistent_s = self._wait(self._server, log, started)
        return Started(
            accepting_s=round(time.monotonic() - started, 3),
            consistent_s=consistent_s,
            consistent_lsn=log.consistent_at,
            redo_lsn=log.redo_done_at,
            first_lsn=log.redo_started_at,
            stopping=log.stopping,
            dropped_libraries=chosen.dropped,
        )

    def _end(self, orders: tuple[tuple[bytes, float], ...]) -> bool:
        server, self._server = self._server, None
        if server is None:
            return False
        for letter, patience_s in orders:
            server.order(letter)
            if server.wait(patience_s):
                break
        else:
            server.kill()
        workplace.remove_shared_memory(self.data_directory)
        return server.code == 0

    def _wait(self, server: Guarded, log: ServerLog, started: float) -> float | None:
        """Wait until the server accepts writes; seconds until it was consistent."""
        consistent_s = None
        where = f"the server of PostgreSQL {self.programs.version} on {shown(self.data_directory)}"
        while True:
            ended = server.wait(_POLL_S)
            log.follow()
            seconds = round(time.monotonic() - started, 3)
            if log.consistent_at and consistent_s is None:
                consistent_s = seconds
            if ended:
                raise VerificationFailed(f"{where} did not start (exit status {server.code}): {log.explain()}")
            if self._accepts_writes():
                log.follow()
                return consistent_s if consistent_s is not None or not log.consistent_at else seconds
            if seconds > self._timeout_s:
                state = "consistent" if log.consistent_at else "not consistent"
                raise VerificationFailed(f"{where} is {state} but not up after {seconds:.0f} s: {log.explain()}")
            self._checkpoint()

    def _accepts_writes(self) -> bool:
        if self._place is None or not (self._place.socket_directory / workplace.SOCKET).exists():
            return False
        try:
            with self.connect("template1", connect_timeout=2) as connection:
                row = connection.execute("select pg_catalog.pg_is_in_recovery()").fetchone()
        except psycopg.OperationalError as error:
            # A missing superuser does not come by waiting.
            if "does not exist" in str(error) or "not permitted to log in" in str(error):
                raise VerificationFailed(
                    f"role {self.superuser!r} cannot log in to the restored cluster",
                    hint="name a superuser of the cluster that may log in",
                ) from None
            return False
        return row is not None and row[0] is False
