"""One measured run of the engine in a process of its own, as the command line would make it.

``python -m benchmarks.engine back-up|restore|restore-files|restore-into|init SETTINGS ARGUMENTS…`` prints the job's
report as one line of JSON, with the peak of the process's memory and the names of all modules it had loaded at its end.
``… imports`` reads such names from its standard input, imports them and does nothing: what it then takes is what they
alone cost.

``… task SETTINGS SOURCE`` backs up as a task of Airflow does: it loads what Airflow's task runner loads, the DAG file,
and calls the operator's ``execute``. A worker that is forked off a scheduler shares much of that memory with it.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import re
import runpy
import sys
import sysconfig
import time
import types
from pathlib import Path
from typing import Any


def peak_kib() -> int:
    """The most memory this process ever had (``VmHWM``), in KiB."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0


def _job(verb: str, settings_file: str, arguments: list[str]) -> dict[str, Any]:
    from mingus_engine import settings
    from mingus_engine.jobs.context import JobContext

    _let_an_older_python_speak_redis()
    if verb == "task":
        return _task(settings_file, arguments[0])
    loaded, context = settings.load(settings_file), JobContext()
    if verb == "init":
        from mingus_engine.jobs.initialise import initialise

        return initialise(loaded, arguments[0], context=context).as_dict()
    if verb == "back-up":
        from mingus_engine.jobs.back_up import back_up

        return back_up(loaded, arguments[0], context=context, incremental=arguments[1] == "incremental").as_dict()
    if verb == "archive":
        from mingus_engine.jobs.postgres.archive_wal import archive_wal

        return archive_wal(loaded, arguments[0], context=context, canary=False).as_dict()
    if verb == "restore-into":
        from mingus_engine.jobs.redis.restore_into import restore_into

        keys = tuple(arguments[2:])
        return restore_into(loaded, arguments[0], into=arguments[1], keys=keys, context=context).as_dict()
    if verb == "restore-files":
        from mingus_engine.jobs.files.restore import restore_files

        return restore_files(loaded, arguments[0], directory=Path(arguments[1]), context=context).as_dict()
    from mingus_engine.jobs.postgres.restore import restore

    if len(arguments) > 2 and int(arguments[2]):
        _delay_requests(int(arguments[2]) / 1000)
    recovery: dict[str, Any] = {}
    if arguments[3:]:
        _let_the_server_run_python()
        recovery = {"to": arguments[3], "wal": "fetch", "settings_file": Path(settings_file)}
    return restore(loaded, arguments[0], directory=Path(arguments[1]), context=context, **recovery).as_dict()


def _let_an_older_python_speak_redis() -> None:
    """redis-py asks for a package below Python 3.11.3: the system's may be run here in the place of a newer one that
    lies in a closed directory, whose packages lack it.
    """
    if sys.version_info < (3, 11, 3):
        sys.modules.setdefault("async_timeout", types.SimpleNamespace(timeout=asyncio.timeout))  # type: ignore[arg-type]


def _let_the_server_run_python() -> None:
    """The server's user runs ``wal fetch``: by the system's Python where this one lies in a closed directory."""
    from mingus_engine.jobs.postgres import fetch_wal

    if os.access(sys.executable, os.X_OK):
        return
    paths = os.pathsep.join([str(fetch_wal._package()), sysconfig.get_path("purelib")])
    fetch_wal.sys = types.SimpleNamespace(executable=f"/usr/bin/python3.{sys.version_info.minor}")  # type: ignore[assignment]
    fetch_wal._package = lambda: paths  # type: ignore[assignment,return-value]


def _delay_requests(seconds: float) -> None:
    """As on a long line: every request to an S3 store takes so much longer."""
    from botocore.httpsession import URLLib3Session

    send = URLLib3Session.send

    def delayed(self: URLLib3Session, request: object) -> object:
        time.sleep(seconds)
        return send(self, request)

    URLLib3Session.send = delayed


def _task(settings_file: str, source: str) -> dict[str, Any]:
    os.environ["MINGUS_CONFIG"] = settings_file
    importlib.import_module("airflow.sdk.execution_time.task_runner")
    runpy.run_path(str(Path(__file__).resolve().parent.parent / "dags" / "backup_postgres_full.py"))
    from mingus_airflow.operators import PgBaseBackupOperator

    ti = types.SimpleNamespace(dag_id="benchmark", run_id="benchmark", task_id="back_up", map_index=-1, try_number=1)
    return PgBaseBackupOperator(task_id="back_up", source=source).execute({"ti": ti})


def _imports() -> dict[str, Any]:
    for name in json.load(sys.stdin):
        with contextlib.suppress(ImportError, AttributeError):  # made at run time, not by an import
            importlib.import_module(name)
    return {}


def main(arguments: list[str]) -> None:
    """See the module."""
    if arguments[0] == "imports":
        print(json.dumps({**_imports(), "peak_kib": peak_kib()}))
        return
    report = _job(arguments[0], arguments[1], arguments[2:])
    modules = [name for name in sys.modules if name != "__main__" and not name.startswith("benchmarks")]
    print(json.dumps({"report": report, "peak_kib": peak_kib(), "modules": modules, "pid": os.getpid()}))


if __name__ == "__main__":
    main(sys.argv[1:])
