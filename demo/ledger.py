"""The demo's PostgreSQL cluster: made by ``initdb``, filled with a ledger, reached over loopback with a password."""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from demo import processes
from demo.errors import DemoError
from demo.places import Places, free_ports

DATABASE = "ledger"
BACKUP_ROLE = "mingus_backup"
SUPERUSER = "demo_admin"
# What a backup needs and no more; `mingus check ledger` names what is missing.
_FUNCTIONS = "pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_switch_wal()"
_GRANTS = (
    f"CREATE ROLE {BACKUP_ROLE} LOGIN REPLICATION PASSWORD {{password}}",
    f"GRANT pg_read_all_data, pg_read_all_settings, pg_monitor TO {BACKUP_ROLE}",
    f"GRANT EXECUTE ON FUNCTION {_FUNCTIONS} TO {BACKUP_ROLE}",
)
# Throw-away data: what it costs to survive a power cut is not worth waiting for.
_CONFIGURATION = """
fsync = off
shared_buffers = 128MB
maintenance_work_mem = 256MB
max_wal_size = 4GB
wal_level = replica
listen_addresses = '127.0.0.1'
logging_collector = off
autovacuum_naptime = 5min
"""
# Rows per MB of database, measured; one entry has two postings.
_ROWS_PER_MB = {"users": 53, "accounts": 106, "entries": 1575, "documents": 10.3}
_START_TIMEOUT_S = 60.0


class Ledger:
    """One cluster below ``places.servers``.

    :param size_mb: about how large the database becomes.
    """

    def __init__(self, places: Places, *, size_mb: int = 1000) -> None:
        self._places = places
        self._size_mb = size_mb
        self._programs = newest_programs()
        self._process: subprocess.Popen[bytes] | None = None
        self.home = places.servers / "ledger"
        self.port = 0
        self.password = secrets.token_urlsafe(24)
        self._admin_password = secrets.token_urlsafe(24)

    @property
    def log(self) -> Path:
        """The server's log."""
        return self._places.logs / "postgres.log"

    @property
    def data_directory(self) -> Path:
        """``PGDATA``."""
        return self.home / "data"

    def make(self) -> None:
        """Make the empty cluster: page checksums, passwords for every connection over TCP."""
        self.home.mkdir(mode=0o700)
        secret = self.home / "password"
        secret.touch(mode=0o600)
        secret.write_text(self._admin_password, encoding="utf-8")
        if self._places.account is not None:
            for path in (self.home, secret):
                os.chown(path, self._places.account.uid, self._places.account.gid)
        processes.run(
            [
                self._programs / "initdb",
                *("--pgdata", self.data_directory, "--username", SUPERUSER, "--pwfile", secret),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C.UTF-8"),
                *("--data-checksums", "--no-sync"),
            ],
            mark=self._places.root,
            account=self._places.account,
            cwd=self._places.servers,
        )
        secret.unlink()
        with (self.data_directory / "postgresql.conf").open("a", encoding="utf-8") as conf:
            conf.write(_CONFIGURATION)

    def start(self, *, filling: bool = False) -> None:
        """Start the server; call it in the main thread (see ``demo.processes``).

        :param filling: write no WAL where that is possible; :meth:`start` again before a backup.
        :raises DemoError: it does not answer in time.
        """
        for attempt in (1, 2, 3):
            self.port = self.port or free_ports(1)[0]
            options = ["-c", "wal_level=minimal", "-c", "max_wal_senders=0", "-c", "autovacuum=off"] if filling else []
            self._process = processes.start(
                [
                    self._programs / "postgres",
                    *("-D", self.data_directory, "-p", str(self.port), "-k", "", *options),
                ],
                mark=self._places.root,
                log=self.log,
                account=self._places.account,
                cwd=self.data_directory,
                # SIGQUIT lets the postmaster take its children and shared memory with it.
                death_signal="QUIT",
            )
            if self._answers():
                return
            tail = processes.log_tail(self.log)
            self.stop()
            if attempt == 3 or "could not bind" not in tail:
                raise DemoError(f"PostgreSQL did not start:\n{tail}")
            self.port = 0  # somebody took it first

    def stop(self) -> None:
        """Shut the server down; idempotent."""
        if self._process is not None:
            processes.stop([self._process], first=signal.SIGINT)
            self._process = None

    def fill(self, say: Callable[[str], None] = lambda _: None) -> None:
        """Make the roles, the database and its rows.

        :param say: told the name of each step.
        """
        with self._admin("postgres") as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        rows = {name: max(8, round(self._size_mb * per_mb)) for name, per_mb in _ROWS_PER_MB.items()}
        rows["accounts"] -= rows["accounts"] % 4
        script = Path(__file__).with_name("ledger.sql").read_text("utf-8")
        for row, count in rows.items():
            script = script.replace(f"{{{row}}}", str(count))
        steps = re.split(r"^-- step (\w+)\n", script, flags=re.MULTILINE)
        with self._admin(DATABASE) as connection:
            for name, statements in zip(steps[1::2], steps[2::2], strict=True):
                say(name)
                with connection.transaction():
                    connection.execute(statements)
            connection.execute("ANALYZE")
            for statement in _GRANTS:
                connection.execute(statement.format(password=psycopg.sql.Literal(self.password).as_string(connection)))

    def size_bytes(self) -> int:
        """Size of the database."""
        with self._admin(DATABASE) as connection:
            ((size,),) = connection.execute("SELECT pg_database_size(current_database())").fetchall()
        return int(size)

    def _admin(self, database: str) -> psycopg.Connection[Any]:
        return psycopg.connect(
            host="127.0.0.1",
            port=self.port,
            user=SUPERUSER,
            password=self._admin_password,
            dbname=database,
            sslmode="disable",
            autocommit=True,
        )

    def _answers(self) -> bool:
        """Wait until the server answers; ``False`` when it ended instead.

        :raises DemoError: neither in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while self._process is not None and self._process.poll() is None:
            try:
                self._admin("postgres").close()
                return True
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise DemoError(f"PostgreSQL does not answer:\n{processes.log_tail(self.log)}") from None
                time.sleep(0.1)
        return False


def newest_programs() -> Path:
    """The directory of Debian's newest PostgreSQL programs that the engine supports.

    :raises DemoError: there is none.
    """
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    supported = [path for path in found if path.parent.name.isdigit() and 15 <= int(path.parent.name) <= 18]
    if not supported:
        raise DemoError("no PostgreSQL 15 to 18 is installed: apt-get install postgresql")
    return max(supported, key=lambda path: int(path.parent.name))
