"""Throw-away PostgreSQL clusters: made by initdb as a non-root user, on an own port and socket, gone after the test.

The postmaster is a direct child of the test process (no pg_ctl), so its end is seen at once and it cannot outlive the
tests. Port and socket are given on its command line, never in a file: a copy of the data directory starts elsewhere
unchanged. ``fsync`` is off by default. Unix socket: every role without a password; TCP: SCRAM (replication
connections too).
"""

import itertools
import os
import secrets
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from tests.support import processes
from tests.support.directories import give_tree, make_directory
from tests.support.pg_versions import PgVersion
from tests.support.processes import Argument, unprivileged_user, wait_until

SUPERUSER = "postgres"
START_TIMEOUT_S = 60.0
# Small and quiet, and quick to start: many clusters live on two cores at once. Values of postgresql.conf.
DEFAULTS: dict[str, str] = {
    "fsync": "off",
    "shared_buffers": "32MB",
    "max_connections": "40",
    "wal_level": "replica",
    "max_wal_senders": "10",
    "max_replication_slots": "10",
    "log_timezone": "UTC",
    "timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%u@%d ",
}
# What a role that is not superuser needs for the `local` and `sql` transports; grants are per database.
BACKUP_FUNCTIONS = (
    "pg_backup_start(text, boolean)",
    "pg_backup_stop(boolean)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
)


@dataclass
class PgCluster:
    """One data directory and, between ``start`` and ``stop``, the server on it; made by the class methods."""

    version: PgVersion
    data_directory: Path
    log: Path
    socket_directory: Path
    port: int
    password: str | None = None
    passwords: dict[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = None

    # -- making -------------------------------------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        version: PgVersion,
        directory: Path,
        *,
        checksums: bool = True,
        wal_segment_mib: int = 16,
        conf: Mapping[str, str] | None = None,
        hba: Sequence[str] = (),
    ) -> "PgCluster":
        """Make a cluster below ``directory`` (made here too); not started.

        ``conf`` goes into postgresql.conf after ``DEFAULTS``; ``hba`` lines come before initdb's own.
        """
        user = unprivileged_user()
        make_directory(directory, owner=user)
        password = secrets.token_hex(12)
        secret = directory / "initdb-password"
        secret.write_text(password)
        give_tree(secret, user)
        switch = ["--data-checksums"] if checksums else ["--no-data-checksums"] if version.major >= 18 else []
        data = directory / "data"
        processes.run(
            [
                version.tool("initdb"),
                *("--pgdata", data, "--username", SUPERUSER, "--pwfile", secret, "--no-sync"),
                *("--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"),
                f"--wal-segsize={wal_segment_mib}",
                *switch,
            ],
            user=user,
        )
        secret.unlink()
        settings = {**DEFAULTS, **(conf or {})}
        with (data / "postgresql.conf").open("a") as out:
            out.writelines(f"{name} = '{value.replace(chr(39), chr(39) * 2)}'\n" for name, value in settings.items())
        access = data / "pg_hba.conf"
        access.write_text("".join(f"{line}\n" for line in hba) + access.read_text())
        return cls.of_directory(version, data, password=password)

    @classmethod
    def of_directory(
        cls, version: PgVersion, data_directory: Path, *, password: str | None = None, arguments: Sequence[str] = ()
    ) -> "PgCluster":
        """A cluster on an existing data directory (a restore, a copy); not started.

        The directory is given to the unprivileged user; socket and log go beside it. ``password`` is the superuser's,
        for TCP. ``arguments`` are given to the postmaster.
        """
        user = unprivileged_user()
        give_tree(data_directory, user)
        number = next(i for i in itertools.count() if not (data_directory.parent / f"s{i}").exists())
        sockets = make_directory(data_directory.parent / f"s{number}", owner=user)
        log = data_directory.parent / f"server{number}.log"
        return cls(version, data_directory, log, sockets, processes.free_port(), password, arguments=tuple(arguments))

    @classmethod
    def standby_of(cls, primary: "PgCluster", directory: Path) -> "PgCluster":
        """A streaming standby of a running cluster, made by pg_basebackup below ``directory``; not started.

        Tablespaces of the primary are copied to ``<directory>/<their folder's name>``.
        """
        user = unprivileged_user()
        make_directory(directory, owner=user)
        mapping = [
            argument
            for (location,) in primary.rows("select pg_tablespace_location(oid) from pg_tablespace where oid >= 16384")
            for argument in ("--tablespace-mapping", f"{location}={directory / Path(location).name}")
        ]
        data = directory / "data"
        processes.run(
            [
                primary.version.tool("pg_basebackup"),
                *("-D", data, "-R", "-X", "stream", "-c", "fast", "--no-sync", "-d", primary.dsn()),
                *mapping,
            ],
            user=user,
        )
        return cls.of_directory(primary.version, data, password=primary.password)

    # -- running ------------------------------------------------------------------------------------------------------

    def start(self, *, wait: bool = True, timeout_s: float = START_TIMEOUT_S) -> "PgCluster":
        """Start the server and wait until it answers (also read-only, as a standby does); returns self.

        Raises AssertionError with the end of the server's log if it ends or stays silent. ``wait=False``: returns at
        once.
        """
        for attempt in itertools.count(1):
            self._launch()
            if not wait:
                return self
            try:
                wait_until(self._answers_or_ended, f"server on {self.data_directory} answers", timeout_s=timeout_s)
            except processes.DeadlineExceededError as error:
                self.stop("immediate")
                raise AssertionError(f"{error}\n{self.log_tail()}") from None
            if self.is_running:
                return self
            # Another process took the port between free_port() and the bind.
            if attempt == 3 or "could not bind" not in self.log_tail():
                raise AssertionError(f"server on {self.data_directory} did not start\n{self.log_tail()}")
            self.port = processes.free_port()
        raise AssertionError("unreachable")

    def _launch(self) -> None:
        with self.log.open("ab") as log:
            self._process = processes.start(
                [
                    self.version.tool("postgres"),
                    *("-D", self.data_directory, "-p", str(self.port)),
                    *("-k", self.socket_directory, "-h", "127.0.0.1"),
                    *self.arguments,
                ],
                log=log,
                user=unprivileged_user(),
                cwd=self.data_directory,
                # SIGQUIT, unlike SIGKILL, lets the postmaster take its children and shared memory with it.
                parent_death_signal="QUIT",
            )

    def _answers_or_ended(self) -> bool:
        if not self.is_running:
            return True
        try:
            self.connect().close()
        except psycopg.OperationalError:
            return False
        return True

    @property
    def is_running(self) -> bool:
        """True while the postmaster lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The postmaster's pid; raises AssertionError when the server was not started."""
        if self._process is None:
            raise AssertionError(f"server on {self.data_directory} was not started")
        return self._process.pid

    def wait_ended(self, timeout_s: float = START_TIMEOUT_S) -> int:
        """Wait for a server that is expected to end by itself; returns its exit status."""
        if self._process is None:
            raise AssertionError(f"server on {self.data_directory} was not started")
        return self._process.wait(timeout_s)

    def stop(self, mode: str = "fast", *, timeout_s: float = 60) -> None:
        """Shut down (``smart``, ``fast``, ``immediate``); a server that does not end in time is killed. Idempotent."""
        if self._process is None:
            return
        numbers = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}
        if self.is_running:
            # The postmaster alone: it tells its children, and a signal to the group would reach them twice.
            os.kill(self._process.pid, numbers[mode])
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """``kill -9`` of the postmaster and all its children, as a power cut would; returns when all are gone."""
        if self._process is None or not self.is_running:
            return
        everyone = [self._process.pid, *processes.children(self._process.pid)]
        for pid in everyone:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self._process.wait()
        wait_until(lambda: not any(map(processes.is_running, everyone)), "killed server's children are gone")

    def restart(self, mode: str = "fast") -> "PgCluster":
        """Stop and start; returns self."""
        self.stop(mode)
        return self.start()

    def reload(self) -> None:
        """Make the server read its configuration files again (asynchronous)."""
        os.kill(self.pid, signal.SIGHUP)

    def promote(self) -> None:
        """Promote a standby and wait until it accepts writes."""
        self.value("select pg_promote(true, 60)")
        wait_until(lambda: not self.value("select pg_is_in_recovery()"), "standby was promoted")

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of the server's log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    def __enter__(self) -> "PgCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop("immediate")

    # -- asking -------------------------------------------------------------------------------------------------------

    def dsn(self, dbname: str = "postgres", user: str = SUPERUSER, *, tcp: bool = False, **parameters: Any) -> str:
        """A libpq connection string by Unix socket or, with ``tcp``, by 127.0.0.1 with the role's password."""
        if tcp:
            password = self.password if user == SUPERUSER else self.passwords.get(user)
            host = {"host": "127.0.0.1", "password": password, "sslmode": "disable"}
        else:
            host = {"host": str(self.socket_directory)}
        return make_conninfo(**{"port": self.port, "dbname": dbname, "user": user, **host, **parameters})

    def connect(self, dbname: str = "postgres", user: str = SUPERUSER, **parameters: Any) -> psycopg.Connection[Any]:
        """An autocommit connection; the caller closes it. ``parameters`` as for ``dsn``."""
        return psycopg.connect(self.dsn(dbname, user, **parameters), autocommit=True)

    def rows(self, query: str, *values: Any, dbname: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement as superuser and return its rows (none for a statement without)."""
        with self.connect(dbname) as connection:
            cursor = connection.execute(query, values or None)
            return cursor.fetchall() if cursor.description else []

    def value(self, query: str, *values: Any, dbname: str = "postgres") -> Any:
        """The single value that a query returns."""
        ((value,),) = self.rows(query, *values, dbname=dbname)
        return value

    def execute(self, *statements: str, dbname: str = "postgres") -> None:
        """Run statements as superuser, each in a transaction of its own."""
        with self.connect(dbname) as connection:
            for statement in statements:
                connection.execute(statement)

    def psql(self, script: str, *, dbname: str = "postgres") -> str:
        """Run a script with psql, stopping at the first error; returns its unaligned output."""
        command: list[Argument] = [self.version.tool("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.dsn(dbname)]
        return processes.run(command, stdin=script).stdout

    def tool(self, name: str, *arguments: Argument, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a program of this version as the server's user; ``options`` as for ``processes.run``."""
        return processes.run([self.version.tool(name), *arguments], user=unprivileged_user(), **options)

    def flush_lsn(self) -> str:
        """The end of the WAL flushed so far, as PostgreSQL writes it, e.g. ``0/3000148``."""
        return str(self.value("select pg_current_wal_flush_lsn()"))

    # -- furnishing ---------------------------------------------------------------------------------------------------

    def create_role(
        self,
        name: str,
        *,
        options: str = "",
        member_of: Sequence[str] = (),
        execute: Sequence[str] = (),
        dbname: str = "postgres",
    ) -> str:
        """Make a login role with a random password (returned, and used by ``dsn``).

        ``options`` as in ``CREATE ROLE``, e.g. ``REPLICATION``; ``execute`` lists functions granted in ``dbname``.
        """
        self.passwords[name] = secrets.token_hex(12)
        role = sql.Identifier(name)
        with self.connect(dbname) as connection:
            statement = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} " + options)
            connection.execute(statement.format(role, sql.Literal(self.passwords[name])))
            for group in member_of:
                connection.execute(sql.SQL("GRANT {} TO {}").format(sql.Identifier(group), role))
            for function in execute:
                connection.execute(sql.SQL("GRANT EXECUTE ON FUNCTION " + function + " TO {}").format(role))
        return self.passwords[name]

    def create_tablespace(self, name: str) -> Path:
        """Make a tablespace in a new folder beside the data directory; returns the folder."""
        folder = make_directory(
            self.data_directory.parent / f"tablespace-{name}", owner=unprivileged_user(), mode=0o700
        )
        self.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'")
        return folder

    @contextmanager
    def temporary_database(self) -> Iterator[str]:
        """The name of a new, empty database, dropped at the end: how tests share one server."""
        name = f"t_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield name
        finally:
            self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def pgbench_init(self, scale: int = 1, *, dbname: str = "postgres") -> None:
        """Fill pgbench's tables: about 15 MB and 100,000 accounts per unit of ``scale``."""
        self.tool("pgbench", "-i", "-q", "-s", str(scale), self.dsn(dbname), timeout_s=600)

    @contextmanager
    def pgbench(self, *, clients: int = 2, dbname: str = "postgres", arguments: Sequence[str] = ()) -> Iterator[None]:
        """A pgbench load in the background; under way when the block begins, ended with it.

        Raises AssertionError with its output if it ended by itself.
        """
        output = self.data_directory.parent / f"pgbench-{secrets.token_hex(4)}.log"
        before = self._commits(dbname)
        with output.open("wb") as log:
            command: list[Argument] = [
                self.version.tool("pgbench"),
                "-n",
                "-c",
                str(clients),
                "-T",
                "3600",
                *arguments,
                self.dsn(dbname),
            ]
            load = processes.start(command, log=log, user=unprivileged_user())
        try:
            # The counters are flushed about once a second.
            wait_until(lambda: load.poll() is not None or self._commits(dbname) > before + 10, "pgbench is under way")
            yield
            if load.poll() is not None:
                raise AssertionError(f"pgbench ended with {load.returncode}\n{output.read_text(errors='replace')}")
        finally:
            processes.stop(load)

    def _commits(self, dbname: str) -> int:
        return int(self.value("select xact_commit from pg_stat_database where datname = %s", dbname))
