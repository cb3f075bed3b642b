"""Asking Airflow about itself over its REST API: tasks may not read the metadata database (DESIGN §2)."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from airflow.sdk import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowException, AirflowNotFoundException
from airflow.sdk.log import mask_secret

_TIMEOUT_S = 30.0
_ATTEMPTS = 4
_ANSWER_MAX_BYTES = 16 << 20
_PAGE = 100


class ApiError(AirflowException):
    """Airflow's API did not answer, or refused.

    :param status: HTTP status; 0 = no answer.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class AirflowApi:
    """A reader of Airflow's REST API, logged in as a service account.

    :param url: of the API server, without a path. :param user, password: of an account that may read runs, task
        instances and the event log, and nothing else.
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        self._url = url.rstrip("/")
        self._user = user
        self._login = json.dumps({"username": user, "password": password}).encode()
        self._token = ""
        # The account's password must not pass through a proxy that the environment happens to name.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    @classmethod
    def of_connection(cls, name: str) -> AirflowApi:
        """The API as the Airflow connection *name* says; without a host it is ``[api] base_url``.

        :raises ApiError: there is no such connection, or it names no account.
        """
        try:
            found = BaseHook.get_connection(name)
        except AirflowNotFoundException:
            raise ApiError(f"the Airflow connection {name!r} does not exist: approvals cannot be checked") from None
        if not (found.login and found.password):
            raise ApiError(f"the Airflow connection {name!r} names no account")
        mask_secret(found.password)
        url = conf.get("api", "base_url", fallback="")
        if found.host:
            url = found.host if "://" in found.host else f"{found.schema or 'https'}://{found.host}"
            url += f":{found.port}" if found.port else ""
        if not url.startswith(("http://", "https://")):
            raise ApiError(f"the Airflow connection {name!r} has no http(s) address")
        return cls(url, found.login, found.password)

    def get(self, path: str, **query: Any) -> Any:
        """What the API answers to a GET below ``/api/v2``.

        :param path: segments that hold data must be quoted by the caller (run ids contain ``+``).
        :raises ApiError: it refused, or did not answer after some tries.
        """
        text = f"?{urllib.parse.urlencode(query, doseq=True)}" if query else ""
        if not self._token:
            self._token = str(self._request("POST", "/auth/token", self._login)["access_token"])
        return self._request("GET", f"/api/v2{path}{text}")

    def all(self, path: str, member: str, **query: Any) -> list[dict[str, Any]]:
        """All entries of a list that the API gives in pages.

        :raises ApiError: as :meth:`get`.
        """
        found: list[dict[str, Any]] = []
        while True:
            answer = self.get(path, limit=_PAGE, offset=len(found), **query)
            found += answer[member]
            if not answer[member] or len(found) >= int(answer["total_entries"]):
                return found

    def _request(self, method: str, path: str, body: bytes | None = None) -> Any:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url + path, method=method, data=body, headers=headers)  # noqa: S310
        where = f"{method} {path.partition('?')[0]} as {self._user!r}"
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                with self._opener.open(request, timeout=_TIMEOUT_S) as answer:
                    return json.loads(answer.read(_ANSWER_MAX_BYTES))
            except urllib.error.HTTPError as error:
                if error.code < 500 or attempt == _ATTEMPTS:
                    raise ApiError(f"Airflow's API refused {where}: HTTP {error.code}", error.code) from None
            except (OSError, http.client.HTTPException, ValueError) as error:
                if attempt == _ATTEMPTS:
                    raise ApiError(f"Airflow's API did not answer {where}: {type(error).__name__}") from None
            time.sleep(0.5 * 2**attempt)
        raise ApiError(f"Airflow's API did not answer {where}")


def run_path(dag_id: str, run_id: str) -> str:
    """The path of a run."""
    return f"/dags/{urllib.parse.quote(dag_id, safe='')}/dagRuns/{urllib.parse.quote(run_id, safe='')}"
