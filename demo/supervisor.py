"""Airflow's four components under one parent: log files instead of pipes, one free port, gone when the parent is.

``airflow standalone`` leaves orphans when it is terminated and prints its password once; this does neither. Used by the
demo and by the end-to-end tests.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from demo import processes
from demo.api import AirflowApi
from demo.errors import DemoError
from demo.places import REPOSITORY_ROOT, free_ports

ADMIN = "admin"
# The log servers would listen on every interface; the API server reads the files itself.
_COMPONENTS = {
    "api-server": ("--host", "127.0.0.1", "--workers", "1"),
    "scheduler": ("--skip-serve-logs",),
    "dag-processor": (),
    "triggerer": ("--skip-serve-logs",),
}
# Without triggers to clean up it would still take ten seconds to end.
_TRIGGERER_STOP_S = 2.0
_HEALTH_TIMEOUT_S = 180.0


class Airflow:
    """One Airflow of its own: SQLite, ``LocalExecutor``, a random password.

    :param home: ``AIRFLOW_HOME``; made here.
    :param mark: directory whose mark the processes carry (``demo.processes``).
    :param environment: further variables for all components, e.g. ``MINGUS_CONFIG`` and the repositories' key.
    :param parallelism: tasks at once; each is a process, forked up front.
    :param users: further users, name → role of the simple auth manager (``viewer``, ``user``, ``op``, ``admin``).
    """

    def __init__(
        self,
        home: Path,
        *,
        mark: Path,
        environment: Mapping[str, str],
        parallelism: int = 4,
        dags: Path | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        self._home = home
        self._mark = mark
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._roles = {ADMIN: "admin", **(users or {})}
        self.passwords = {name: secrets.token_urlsafe(12) for name in self._roles}
        self.password = self.passwords[ADMIN]
        home.mkdir(mode=0o755, parents=True, exist_ok=True)
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = self._settings(dags or REPOSITORY_ROOT / "dags", parallelism)
        self.environment |= environment
        self.api = self.api_of(ADMIN)

    def api_of(self, user: str) -> AirflowApi:
        """The REST API as one of the users."""
        return AirflowApi(self.url, user, self.passwords[user])

    @property
    def logs(self) -> Path:
        """The components' logs; the tasks' are below ``tasks``."""
        return self._home / "logs"

    def migrate(self) -> subprocess.Popen[bytes]:
        """Begin to make the metadata database; wait for it by :meth:`start`."""
        self.logs.mkdir(exist_ok=True)
        self._write_passwords()
        migration = self._spawn("db-migrate", "db", "migrate")
        self._running["db-migrate"] = migration
        return migration

    def start(self) -> None:
        """Start the components; call it in the main thread (see ``demo.processes``).

        :raises DemoError: the metadata database could not be made.
        """
        migration = self._running.pop("db-migrate", None) or self.migrate()
        self._running.pop("db-migrate", None)
        if migration.wait(_HEALTH_TIMEOUT_S) != 0:
            raise DemoError(f"airflow db migrate failed:\n{self.log_tail('db-migrate')}")
        for name, options in _COMPONENTS.items():
            port = ("--port", str(self.port)) if name == "api-server" else ()
            self._running[name] = self._spawn(name, name, *options, *port)

    def wait_healthy(self, timeout_s: float = _HEALTH_TIMEOUT_S) -> None:
        """Return when all components say that they are healthy.

        :raises DemoError: one of them ended, or not in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.api.healthy():
            self.check()
            if time.monotonic() > deadline:
                raise DemoError(f"Airflow is not healthy after {timeout_s:.0f} s; logs: {self.logs}")
            time.sleep(0.25)

    def check(self) -> None:
        """See that every component runs.

        :raises DemoError: one of them ended; the text holds the end of its log.
        """
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DemoError(f"airflow {name} ended with {process.returncode}:\n{self.log_tail(name)}")

    def stop(self) -> None:
        """End all components and what they started; idempotent."""
        for process in self._running.values():
            processes.ask(process)
        if (triggerer := self._running.pop("triggerer", None)) is not None:
            processes.stop([triggerer], timeout_s=_TRIGGERER_STOP_S)
        processes.stop(self._running.values())
        self._running.clear()

    def command(self, *arguments: str, timeout_s: float = 120) -> str:
        """Run ``airflow …`` against this Airflow and return its output.

        :raises DemoError: it failed.
        """
        return processes.run(
            [*_AIRFLOW, *arguments], mark=self._mark, env=self.environment, cwd=self._home, timeout_s=timeout_s
        )

    def log_tail(self, component: str) -> str:
        """The last lines of a component's log."""
        return processes.log_tail(self.logs / f"{component}.log")

    def _spawn(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        return processes.start(
            [*_AIRFLOW, *arguments],
            mark=self._mark,
            log=self.logs / f"{name}.log",
            env=self.environment,
            # The settings and the plugins are named by absolute paths: no component depends on the current directory.
            cwd=self._home,
        )

    def _write_passwords(self) -> None:
        passwords = self._home / "passwords.json"
        passwords.touch(mode=0o600)
        passwords.write_text(json.dumps(self.passwords), encoding="utf-8")

    def _settings(self, dags: Path, parallelism: int) -> dict[str, str | None]:
        options = {
            "CORE__DAGS_FOLDER": dags,
            "CORE__PLUGINS_FOLDER": REPOSITORY_ROOT / "plugins",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": parallelism,
            "CORE__FERNET_KEY": _fernet_key(),
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in self._roles.items()),
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": self._home / "passwords.json",
            "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{self._home}/airflow.db",
            "API__BASE_URL": self.url,
            "API__SECRET_KEY": secrets.token_urlsafe(32),
            "API_AUTH__JWT_SECRET": secrets.token_urlsafe(64),
            "LOGGING__BASE_LOG_FOLDER": self._home / "logs" / "tasks",
            "LOGGING__LOGGING_LEVEL": "INFO",
            "DAG_PROCESSOR__REFRESH_INTERVAL": 30,
            "DAG_PROCESSOR__PARSING_PROCESSES": 1,
            "SCHEDULER__ENABLE_HEALTH_CHECK": False,
        }
        # Whatever the shell says about another Airflow must not reach this one.
        cleared: dict[str, str | None] = {
            name: None for name in os.environ if name.startswith("AIRFLOW__") or name == "PYTHONPATH"
        }
        return cleared | {
            "AIRFLOW_HOME": str(self._home),
            **{f"AIRFLOW__{name}": str(value) for name, value in options.items()},
            "PYTHONUNBUFFERED": "1",
            "NO_COLOR": "1",
        }


_AIRFLOW = (sys.executable, "-m", "airflow")


def _fernet_key() -> str:
    from cryptography.fernet import Fernet

    return Fernet.generate_key().decode()
