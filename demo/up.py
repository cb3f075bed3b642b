"""``python -m demo up``: from nothing to proven backups, one of them needed and restored, then Airflow until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from demo import places, repositories, traces
from demo.console import Console
from demo.errors import DemoError
from demo.ledger import Ledger
from demo.monitoring import Monitoring
from demo.papers import Papers
from demo.papers import compare as compare_papers
from demo.places import Places
from demo.sessions import Sessions, compare
from demo.supervisor import ADMIN, Airflow
from demo.watching import Watch, summary

DAG = "backup_postgres_full"
DAGS = (DAG, "backup_redis_snapshot", "backup_documents", "backup_configuration", "backup_code")
_PROVEN = "PROVEN: backed up, encrypted, shipped, restored and checked"


@dataclass(frozen=True)
class _Demo:
    """Everything that takes part. ``key``: of the repositories."""

    console: Console
    here: Places
    ledger: Ledger
    sessions: Sessions
    papers: Papers
    airflow: Airflow
    monitoring: Monitoring
    key: str


def up(console: Console) -> int:
    """Run the demo; returns the exit code."""
    root = places.chosen_directory()
    places.refuse_foreign(root)
    size_mb = _size_mb()
    if places.runner(root) is not None:
        raise DemoError(f"a demo is running already (process {places.runner(root)}); `make demo-down` ends it")
    if (left := places.find(root)) is not None:
        traces.end(root, left.servers)
        places.remove(left)
    here = places.make(root)
    signal.signal(signal.SIGTERM, _terminated)
    with places.running(root):
        key = repositories.new_key()
        monitoring = Monitoring(here)
        environment = {**repositories.environment(here, key), **monitoring.environment}
        airflow = Airflow(here.airflow, mark=root, environment=environment)
        servers = (Ledger(here, size_mb=size_mb), Sessions(here))
        demo = _Demo(console, here, *servers, Papers(here), airflow, monitoring, key)
        try:
            _prepare(demo)
            code = _prove(demo)
            if code == 0:
                _lose_and_restore(demo)
                _lose_and_restore_papers(demo)
            if demo.monitoring.listens:
                # The figures that Prometheus' alerts are about; from now on every five minutes.
                airflow.api.unpause("probe")
                airflow.api.trigger("probe")
            return _stay(demo, code)
        except KeyboardInterrupt:
            console.end_live()
            console.say("stopping")
            return 0
        finally:
            airflow.stop()
            demo.ledger.stop()
            demo.sessions.stop()
            monitoring.stop()
            traces.end(root, here.servers)
            (here.root / "status.json").unlink(missing_ok=True)


def _prepare(demo: _Demo) -> None:
    """Everything before the run. What waits for different things goes side by side; servers start in this thread."""
    console, here, ledger, sessions, airflow = demo.console, demo.here, demo.ledger, demo.sessions, demo.airflow
    console.say(
        f"everything goes to {here.root}" + ("" if here.servers.parent == here.root else f" and {here.servers}")
    )
    airflow.migrate()
    demo.monitoring.start()
    with console.phase("empty PostgreSQL cluster"):
        ledger.make()
        ledger.start(filling=True)
    sessions.start()
    filling = _Background(lambda: _fill(console, ledger))
    filling_sessions = _Background(lambda: _fill_sessions(console, sessions))
    with console.phase("documents, configuration and code"):
        demo.papers.make()
    with console.phase("two repositories"):
        repositories.write_settings(here, ledger, sessions, demo.papers)
        repositories.write_environment(here, demo.key)
        sheet = repositories.initialise(here, demo.key)
    for name, escrow in sheet.items():
        console.plain(f"          escrow key of {name}, shown once: {escrow}")
    console.plain(f"          (also in {here.escrow_sheet}; in earnest: print it, lock it away, delete the file)")
    with console.phase("Airflow"):
        airflow.start()
        airflow.wait_healthy()
    _register(airflow, ledger, sessions)
    filling_sessions.join()
    filling.join()
    ledger.stop()
    ledger.start()
    for dag in DAGS:
        airflow.api.wait_for_dag(dag)
    status = here.root / "status.json"
    status.touch(mode=0o600)
    status.write_text(json.dumps({"url": airflow.url, "user": ADMIN, "password": airflow.password}), encoding="utf-8")


def _prove(demo: _Demo) -> int:
    """Trigger the runs, follow them, sum them up; 0, or the exit code of what failed."""
    console, airflow = demo.console, demo.airflow
    begin, code = time.monotonic(), 0
    watches = {}
    for dag in DAGS:
        airflow.api.unpause(dag)
        watches[dag] = Watch(airflow, console, dag, airflow.api.trigger(dag))
        console.say(f"{dag}: started")
    for dag, watch in watches.items():
        good = watch.follow()
        code = code or (0 if good else watch.exit_code())
        console.say(f"{dag}: " + (_PROVEN if good else "the run FAILED"))
        size = demo.ledger.size_bytes() if dag == DAG else None
        console.plain("\n" + summary(watch.reports(), time.monotonic() - begin, size) + "\n")
    return code


def _lose_and_restore(demo: _Demo) -> None:
    """What a backup is for: everything is lost, and comes back from the last repository, without Airflow."""
    console, sessions = demo.console, demo.sessions
    before = sessions.keys()
    sessions.lose()
    console.say(f"Redis: FLUSHALL, kill -9, files removed: {len(before)} keys are lost")
    with console.phase("restore of Redis by the engine alone"):
        report = repositories.restore_sessions(demo.here, demo.key, sessions.restored)
        sessions.start(sessions.restored)
    said = compare(before, sessions.keys(), int(time.time() * 1000))
    console.say(f"RESTORED from {report['repository']}: {said}")


def _lose_and_restore_papers(demo: _Demo) -> None:
    """The commonest loss: somebody deleted a directory, and a file."""
    console, papers = demo.console, demo.papers
    before = papers.tree()
    lost = papers.lose()
    console.say(f"files: {lost} documents were deleted by mistake")
    with console.phase("restore of what is lost, and of nothing else"):
        report = repositories.restore_papers(demo.here, demo.key)
    created = report["actions"].get("created", {}).get("count", 0)
    said = compare_papers(before, papers.tree())
    console.say(f"RESTORED from {report['repository']}: {created} files and directories made again; {said}")


def _stay(demo: _Demo, code: int) -> int:
    """Airflow until Ctrl-C, unless it shall end at once; *code*."""
    console, here, airflow = demo.console, demo.here, demo.airflow
    console.plain(
        f"\n  Airflow   {airflow.url}/dags/{DAG}   login: {ADMIN} / {airflow.password}"
        f"\n  by hand   . {here.root}/env && mingus list"
        f"\n  logs      {here.logs}, {airflow.logs}" + "".join(f"\n  {line}" for line in demo.monitoring.lines()) + "\n"
    )
    if os.environ.get("MINGUS_DEMO_ONCE") == "1":
        return code
    console.say("Airflow stays until Ctrl-C; `make demo-down` removes everything")
    while True:
        airflow.check()
        time.sleep(1)


def _fill(console: Console, ledger: Ledger) -> None:
    with console.phase("ledger database"):
        ledger.fill()


def _fill_sessions(console: Console, sessions: Sessions) -> None:
    with console.phase("sessions in Redis"):
        sessions.fill()


def _register(airflow: Airflow, ledger: Ledger, sessions: Sessions) -> None:
    """What an operator does once: the sources' connections and the pools."""
    airflow.api.call(
        "POST",
        "/connections",
        {
            "connection_id": repositories.SESSIONS_CONNECTION,
            "conn_type": "redis",
            "description": "the sessions that the demo backs up",
            "host": "127.0.0.1",
            "port": sessions.port,
            "password": sessions.password,
        },
    )
    airflow.api.call(
        "POST",
        "/connections",
        {
            "connection_id": repositories.CONNECTION,
            "conn_type": "postgres",
            "description": "the ledger that the demo backs up",
            "host": "127.0.0.1",
            "port": ledger.port,
            "login": repositories.BACKUP_ROLE,
            "password": ledger.password,
            "schema": repositories.DATABASE,
            "extra": json.dumps({"sslmode": "disable"}),
        },
    )
    for job, (pool, slots) in repositories.POOLS.items():
        airflow.api.call(
            "POST", "/pools", {"name": pool, "slots": slots, "description": f"MINGUS: {job} tasks at once"}
        )


class _Background:
    """A function in a thread whose failure is raised where it is joined."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(function,), daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, function: Callable[[], None]) -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised by join()
            self._error = error


def _size_mb() -> int:
    text = os.environ.get("MINGUS_DEMO_SIZE_MB") or "1000"
    if not text.isdigit() or not 10 <= int(text) <= 100_000:
        raise DemoError(f"MINGUS_DEMO_SIZE_MB is {text!r}: a number of megabytes from 10 to 100000 is needed")
    return int(text)


def _terminated(number: int, frame: object) -> NoReturn:  # noqa: ARG001 - a signal handler's signature
    raise KeyboardInterrupt
