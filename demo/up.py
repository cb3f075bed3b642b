"""``python -m demo up``: from nothing to a proven backup, then Airflow until Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from demo import places, repositories, traces
from demo.console import Console
from demo.errors import DemoError
from demo.ledger import Ledger
from demo.places import Places
from demo.supervisor import ADMIN, Airflow
from demo.watching import Watch, summary

DAG = "backup_postgres_full"


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
        ledger, key = Ledger(here, size_mb=size_mb), repositories.new_key()
        airflow = Airflow(here.airflow, mark=root, environment=repositories.environment(here, key))
        try:
            _prepare(console, here, ledger, airflow, key)
            return _prove(console, here, ledger, airflow)
        except KeyboardInterrupt:
            console.end_live()
            console.say("stopping")
            return 0
        finally:
            airflow.stop()
            ledger.stop()
            traces.end(root, here.servers)
            (here.root / "status.json").unlink(missing_ok=True)


def _prepare(console: Console, here: Places, ledger: Ledger, airflow: Airflow, key: str) -> None:
    """Everything before the run. What waits for different things goes side by side; servers start in this thread."""
    console.say(
        f"everything goes to {here.root}" + ("" if here.servers.parent == here.root else f" and {here.servers}")
    )
    airflow.migrate()
    with console.phase("empty PostgreSQL cluster"):
        ledger.make()
        ledger.start(filling=True)
    filling = _Background(lambda: _fill(console, ledger))
    with console.phase("two repositories"):
        repositories.write_settings(here, ledger)
        repositories.write_environment(here, key)
        sheet = repositories.initialise(here, key)
    for name, escrow in sheet.items():
        console.plain(f"          escrow key of {name}, shown once: {escrow}")
    console.plain(f"          (also in {here.escrow_sheet}; in earnest: print it, lock it away, delete the file)")
    with console.phase("Airflow"):
        airflow.start()
        airflow.wait_healthy()
    _register(airflow, ledger)
    filling.join()
    ledger.stop()
    ledger.start()
    airflow.api.wait_for_dag(DAG)
    status = here.root / "status.json"
    status.touch(mode=0o600)
    status.write_text(json.dumps({"url": airflow.url, "user": ADMIN, "password": airflow.password}), encoding="utf-8")


def _prove(console: Console, here: Places, ledger: Ledger, airflow: Airflow) -> int:
    """Trigger the run, follow it, sum it up, stay."""
    begin = time.monotonic()
    airflow.api.unpause(DAG)
    run_id = airflow.api.trigger(DAG)
    console.say(f"{DAG}: started")
    watch = Watch(airflow, console, DAG, run_id)
    good = watch.follow()
    code = 0 if good else watch.exit_code()
    console.say("PROVEN: backed up, encrypted, shipped, restored and checked" if good else "the run FAILED")
    console.plain("\n" + summary(watch.reports(), ledger.size_bytes(), time.monotonic() - begin))
    console.plain(
        f"\n  Airflow   {airflow.url}/dags/{DAG}   login: {ADMIN} / {airflow.password}"
        f"\n  by hand   . {here.root}/env && mingus list"
        f"\n  logs      {here.logs}, {airflow.logs}\n"
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


def _register(airflow: Airflow, ledger: Ledger) -> None:
    """What an operator does once: the source's connection and the pools."""
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
