"""One job beside the main thread."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from mingus_airflow.running import JobRunner, provenance_of, size
from mingus_engine.errors import Cancelled
from mingus_engine.jobs.context import JobContext, Report
from tests.mingus_airflow.support import FakeReport

pytestmark = pytest.mark.airflow

LOG = logging.getLogger("tests.running")
DONE = FakeReport(job="back_up", source="ledger", duration_s=1.0)


class TimedOut(BaseException):
    """As Airflow's AirflowTaskTimeout: no Exception, raised at any instruction of the main thread."""


def runner(**options: Any) -> JobRunner:
    return JobRunner(**{"provenance": {}, "log": LOG, "interval_s": 0.02, **options})


def test_the_report_of_the_job_is_returned() -> None:
    assert runner().run(lambda _: DONE) is DONE


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3)])
def test_what_the_job_raises_is_raised(error: BaseException) -> None:
    def job(context: JobContext) -> Report:
        raise error

    with pytest.raises(type(error)) as caught:
        runner().run(job)
    assert caught.value is error


def test_progress_is_logged_with_rate_and_share(caplog: pytest.LogCaptureFixture) -> None:
    def job(context: JobContext) -> Report:
        context.progress("reading", 256 << 20, 1 << 30, "base/5/1259")
        while "25 %" not in caplog.text:
            threading.Event().wait(0.01)
        context.progress("reading", 512 << 20, 1 << 30)
        while "s left" not in caplog.text:
            threading.Event().wait(0.01)
        return DONE

    with caplog.at_level(logging.INFO):
        runner().run(job)
    assert "progress: reading 256.0 MiB of 1.0 GiB (25 %)" in caplog.text
    assert "base/5/1259" in caplog.text
    assert "MiB/s" in caplog.text or "GiB/s" in caplog.text


def test_a_job_that_says_nothing_yet_is_seen_to_live(caplog: pytest.LogCaptureFixture) -> None:
    def job(context: JobContext) -> Report:
        while "progress: starting" not in caplog.text:
            threading.Event().wait(0.01)
        return DONE

    with caplog.at_level(logging.INFO):
        runner().run(job)


def test_cancelling_stops_the_job_at_its_next_checkpoint() -> None:
    running = runner()

    def job(context: JobContext) -> Report:
        running.cancel()
        context.checkpoint()
        return DONE

    with pytest.raises(Cancelled):
        running.run(job)


def test_a_time_out_in_the_main_thread_waits_until_the_job_has_tidied_up() -> None:
    tidied = threading.Event()

    class Hurried(logging.Handler):
        """Raises where Airflow's time-out would: between two instructions of the main thread."""

        def emit(self, record: logging.LogRecord) -> None:
            raise TimedOut

    def job(context: JobContext) -> Report:
        context.cancel.wait()
        tidied.set()
        raise Cancelled("stopped")

    log = logging.getLogger("tests.hurried")
    log.addHandler(Hurried())
    log.setLevel(logging.INFO)
    with pytest.raises(TimedOut):
        runner(log=log).run(job)
    assert tidied.is_set()


def test_provenance_holds_texts_only_and_says_who_asked() -> None:
    ti = SimpleNamespace(
        dag_id="d", run_id="manual__2026-11-23T02:00:00+00:00", task_id="source.back_up", map_index=0, try_number=2
    )
    run = SimpleNamespace(run_type=SimpleNamespace(value="manual"), triggering_user_name="anna")
    assert provenance_of({"ti": ti, "dag_run": run}, "worker-1") == {
        "dag_id": "d",
        "run_id": "manual__2026-11-23T02:00:00+00:00",
        "task_id": "source.back_up",
        "map_index": "0",
        "try_number": "2",
        "run_type": "manual",
        "triggered_by": "anna",
        "hostname": "worker-1",
    }


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (5 << 50, "5120.0 TiB")])
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text
