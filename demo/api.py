"""The few calls of Airflow's REST API that the demo and the end-to-end tests make."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from demo.errors import DemoError

_HEALTHY = ("metadatabase", "scheduler", "dag_processor", "triggerer")
_TOKEN_LIFETIME_S = 600.0
_TIMEOUT_S = 30.0
_ATTEMPTS = 3


class AirflowApi:
    """A client of one Airflow; logs in when it must."""

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url
        self._login = {"username": user, "password": password}
        self._token = ""
        self._token_time = 0.0

    def healthy(self) -> bool:
        """Whether every component says so; ``False`` while the server does not answer."""
        try:
            states = self._request("GET", "/api/v2/monitor/health")
        except (OSError, DemoError):
            return False
        return all((states.get(name) or {}).get("status") == "healthy" for name in _HEALTHY)

    def call(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """One call below ``/api/v2``, logged in.

        :raises DemoError: refused; the text holds the answer.
        """
        if time.monotonic() - self._token_time > _TOKEN_LIFETIME_S or not self._token:
            self._token = self._request("POST", "/auth/token", self._login)["access_token"]
            self._token_time = time.monotonic()
        return self._request(method, f"/api/v2{path}", body)

    def wait_for_dag(self, dag_id: str, timeout_s: float = 90) -> None:
        """Return when the DAG was parsed and stored.

        :raises DemoError: it has an import error, or not in time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            if dag_id in {dag["dag_id"] for dag in self.call("GET", "/dags?exclude_stale=false")["dags"]}:
                return
            for broken in self.call("GET", "/importErrors")["import_errors"]:
                raise DemoError(f"{broken['filename']} cannot be imported:\n{broken['stack_trace']}")
            if time.monotonic() > deadline:
                raise DemoError(f"Airflow does not know the DAG {dag_id} after {timeout_s:.0f} s")
            time.sleep(0.3)

    def unpause(self, dag_id: str) -> None:
        """Let the scheduler run the DAG."""
        self.call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run; returns its id."""
        run = self.call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": dict(conf or {})})
        return str(run["dag_run_id"])

    def run_state(self, dag_id: str, run_id: str) -> str:
        """``queued``, ``running``, ``success`` or ``failed``."""
        return str(self.call("GET", _run(dag_id, run_id))["state"])

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """The task instances of a run."""
        found: list[dict[str, Any]] = self.call("GET", f"{_run(dag_id, run_id)}/taskInstances")["task_instances"]
        return found

    def report(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> Any:
        """What a task returned, ``None`` when it returned nothing."""
        path = f"{_run(dag_id, run_id)}/taskInstances/{task_id}/xcomEntries/return_value?map_index={map_index}"
        try:
            return self.call("GET", path)["value"]
        except DemoError:
            return None

    def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None, attempt: int = 1) -> Any:
        request = urllib.request.Request(
            self._url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json", "Authorization": f"Bearer {self._token}"},
        )
        # Loopback only: a proxy of the environment must not see it.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=_TIMEOUT_S) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace")[:500]
            raise DemoError(f"{method} {path} was answered {error.code}: {text}") from None
        except (TimeoutError, ConnectionError) as error:
            # A machine that does much else at the same time; asking again changes nothing.
            if method != "GET" or attempt == _ATTEMPTS:
                raise DemoError(f"{method} {path} was not answered: {type(error).__name__}") from None
            time.sleep(attempt)
            return self._request(method, path, body, attempt + 1)


def _run(dag_id: str, run_id: str) -> str:
    # A run id contains "+00:00", which would arrive as a blank.
    return f"/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
