"""Follows a DAG run on the console and says at the end what came of it."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from demo.console import Console
from demo.supervisor import Airflow

_EXIT_CODE = re.compile(r"exit code (\d+)\]")
_NOISE = ("::", "progress: ", "GitWildMatch", "DAG bundles", "Filling up", "Worker startup", "Pushing xcom")
_POLL_S = 0.4
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


class Watch:
    """One run of one DAG."""

    def __init__(self, airflow: Airflow, console: Console, dag_id: str, run_id: str) -> None:
        self._airflow = airflow
        self._console = console
        self._dag_id = dag_id
        self._run_id = run_id
        self._seen: dict[tuple[str, int], str] = {}

    def follow(self) -> bool:
        """Show the tasks' states and progress until the run ends; returns whether it succeeded."""
        while True:
            state = self._airflow.api.run_state(self._dag_id, self._run_id)
            tasks = self._airflow.api.tasks(self._dag_id, self._run_id)
            for task in tasks:
                self._show(task)
            if state in ("success", "failed"):
                self._console.end_live()
                for task in tasks:
                    if task["state"] == "failed":
                        self._console.plain(f"\n{task['task_id']} failed; the end of its log:\n{self._log_end(task)}\n")
                return state == "success"
            self._airflow.check()
            time.sleep(_POLL_S)

    def reports(self) -> dict[str, Any]:
        """What each finished task returned, by its last name (``back_up``); of the first source."""
        return {
            task["task_id"].rpartition(".")[2]: self._airflow.api.report(
                self._dag_id, self._run_id, task["task_id"], task["map_index"]
            )
            for task in reversed(self._airflow.api.tasks(self._dag_id, self._run_id))
        }

    def exit_code(self) -> int:
        """The exit code of the engine's failure that a failed task's log names, else 1."""
        for task in self._airflow.api.tasks(self._dag_id, self._run_id):
            if task["state"] == "failed" and (found := _EXIT_CODE.findall("\n".join(self._events(task)))):
                return int(found[-1])
        return 1

    def _show(self, task: dict[str, Any]) -> None:
        key, state = (task["task_id"], task["map_index"]), task["state"] or "waiting"
        label = task.get("rendered_map_index")  # a bare number until the task has begun
        name = task["task_id"] + (f" [{label}]" if label and not label.isdigit() else "")
        if self._seen.get(key) != state:
            self._seen[key] = state
            if state not in ("waiting", "scheduled", "queued"):
                took = f" in {task['duration']:.1f} s" if task.get("duration") and state != "running" else ""
                self._console.say(f"  {name}: {state}{took}")
        if state == "running":
            progress = [event for event in self._events(task) if event.startswith("progress: ")]
            self._console.live(f"  {name}: {progress[-1].removeprefix('progress: ') if progress else 'running'}")

    def _events(self, task: dict[str, Any]) -> list[str]:
        """The messages in a task's log: from its file, since it is served only when the task has ended."""
        folder = (
            self._airflow.logs
            / "tasks"
            / f"dag_id={self._dag_id}"
            / f"run_id={self._run_id}"
            / f"task_id={task['task_id']}"
        )
        if task["map_index"] >= 0:
            folder /= f"map_index={task['map_index']}"
        return _messages(folder / f"attempt={max(1, task['try_number'])}.log")

    def _log_end(self, task: dict[str, Any]) -> str:
        telling = [event for event in self._events(task) if not event.startswith(_NOISE)]
        return "\n".join(f"    {line}" for line in telling[-12:])


def summary(reports: dict[str, Any], wall_s: float, size_bytes: int | None = None) -> str:
    """The table at the end; of a failed run what there is.

    :param size_bytes: of the database that was backed up, where that is one.
    """
    rows = [("database", size(size_bytes))] if size_bytes is not None else []
    if backup := reports.get("back_up"):
        rows += [
            ("read", f"{size(backup['bytes_read'])} in {backup['files']} files"),
            ("stored, encrypted", f"{size(backup['bytes_stored'])} (ratio {backup['ratio']})"),
            ("backup", f"{backup['duration_s']:.1f} s, snapshot {backup['snapshot']}"),
        ]
    if ship := reports.get("ship"):
        further = ", ".join(ship["repositories"][1:])
        rows.append(("shipped", f"{size(ship['bytes_put'])} to {further} in {ship['duration_s']:.1f} s"))
    if verify := reports.get("verify"):
        checks = verify["checks"]
        good = sum(1 for check in checks if check["ok"])
        rows += [
            ("restored from", f"{verify['repository']}, verified at level {verify['level']}"),
            ("RTO", f"{verify.get('rto_s', 0):.1f} s until it was back"),
            ("checks", f"{good} of {len(checks)} good"),
            *((f"  {check['name']}", _line(check)) for check in checks),
            ("proof", verify["proof"]),
        ]
    rows.append(("the run took", f"{wall_s:.0f} s"))
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name.ljust(width)}  {value}".rstrip() for name, value in rows)


def _line(check: dict[str, Any]) -> str:
    detail = f"  {check['detail']}" if check.get("detail") else ""
    return ("ok" if check["ok"] else "FAILED") + detail


def size(count: float) -> str:
    """*count* bytes for people."""
    for unit in _UNITS[:-1]:
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} {_UNITS[-1]}"


def _messages(log: Path) -> list[str]:
    """The messages of a task's log of JSON lines; what is being written or is none is left out."""
    if not log.exists():
        return []
    found = []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
            errors = [f"{error['exc_type']}: {error['exc_value']}" for error in record.get("error_detail") or ()]
            found.append(": ".join([str(record.get("event", "")), *errors]))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found
