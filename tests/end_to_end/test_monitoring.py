"""The whole way: run → StatsD → exporter → Prometheus → rule → Alertmanager → mail and Slack; and the dashboards."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from mingus_engine.jobs.health.gauges import METRICS
from scripts.dashboards.__main__ import TARGET
from tests.end_to_end.conftest import DAG, Installation
from tests.monitoring.test_mapping import clean, line_of, own, sent, without_last_rule
from tests.support.directories import make_directory
from tests.support.monitoring import Monitoring, running_exporter, running_monitoring
from tests.support.processes import wait_until

pytestmark = [
    pytest.mark.airflow,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


# What this installation has no reason to send: no log is archived, no alert channel set up, no page is bad, no escrow
# key at hand, no backup due since it was made. The panels of these are shown to work with a made-up value.
NOT_HERE = {
    *("slot_lost", "slot_retained_bytes", "wal_archive_lag_bytes", "redis_aof_rewrite_left_disabled"),
    *("alert_sent_total", "alert_failure_total", "page_checksum_failures_total", "key_escrow_ok"),
    *("recovery_failure_total", "ship_failure_total", "schedule_last_success_timestamp_seconds"),
}


@pytest.fixture(scope="module")
def monitoring(installation: Installation) -> Iterator[Monitoring]:
    """The monitoring of the session's Airflow, with all that it sent so far."""
    directory = make_directory(installation.home / "monitoring")
    with running_monitoring(directory) as found, installation.statsd.passing_to(found.exporter):
        yield found


def test_a_failed_backup_is_told_by_mail_and_slack(installation: Installation, monitoring: Monitoring) -> None:
    run_id = installation.trigger(sources=["gone"])
    assert installation.wait(run_id) == "failed"
    mail = monitoring.mail_about("full backup of gone failed")
    assert "Next step: Read the task's log" in mail
    slack = json.loads(monitoring.slack_about("full backup of gone failed"))
    assert "full backup of gone failed" in slack["attachments"][0]["title"]
    failures = monitoring.prometheus.query('sum by (source) (backup_failure_total{operation="full"})')
    # The first try and its retry.
    assert [(found["metric"]["source"], found["value"][1]) for found in failures] == [("gone", "2")]
    everything = "".join(text for _, text in monitoring.mails.texts()) + "".join(monitoring.posts.to("/slack"))
    for what, secret in installation.secrets.items():
        assert secret not in everything, what


def test_nothing_that_a_real_airflow_sends_is_left_over_for_the_last_rule(
    installation: Installation, proven: str
) -> None:
    directory = make_directory(installation.home / "mapping")
    lines = installation.statsd.lines()
    assert any(line.startswith("airflow.mingus.backup_success_total,") for line in lines)
    with running_exporter(directory, without_last_rule(directory)) as exporter:
        series = sent(exporter, lines)
    clean(series)
    names = {re.sub(r"(_bucket|_sum|_count)$", "", name.split("{")[0]) for name in own(series)}
    assert {name for name in names if not name.startswith("airflow_")} <= METRICS.keys()
    assert {"airflow_scheduler_heartbeat_total", "airflow_ti_finish_total", "airflow_pool_open_slots"} <= names
    # No run, job or try is a label, and no value of a label is a part of a name.
    assert not [name for name in own(series) if re.search(r'(run_id|job_id|try_number)="', name)]
    assert not [name for name in names if DAG in name]


def test_each_panel_of_each_dashboard_has_data(
    installation: Installation, proven: str, proven_sessions: str, monitoring: Monitoring
) -> None:
    installation.airflow.api.wait_for_dag("probe")
    installation.airflow.api.unpause("probe")
    run_id = installation.trigger(dag="probe")
    assert installation.wait(run_id, dag="probe") == "success", installation.task_log(run_id, "probe", dag="probe")
    said = {line.split(".")[2].partition(":")[0].partition(",")[0] for line in own_lines(installation)}
    assert METRICS.keys() - said <= NOT_HERE
    monitoring.exporter.send(line_of(METRICS[name], {"source": "ledger"}) for name in METRICS.keys() - said)
    wait_until(lambda: monitoring.prometheus.query("mingus:rpo_ok"), "recording rules have data")
    queries = {
        f"{board['title']}: {panel['title']}: {target['expr']}": target["expr"]
        for board in (json.loads(path.read_text()) for path in TARGET.glob("*.json"))
        for panel in board["panels"]
        for target in panel.get("targets", [])
    }

    def empty() -> set[str]:
        return {what for what, query in queries.items() if not monitoring.prometheus.query(filled(query))}

    wait_until(lambda: not empty(), f"no panel is empty; now: {sorted(empty())}", timeout_s=60)


def own_lines(installation: Installation) -> list[str]:
    """The lines of MINGUS' own metrics."""
    return [line for line in installation.statsd.lines() if line.startswith("airflow.mingus.")]


def filled(query: str) -> str:
    """A query with Grafana's variables filled in: all sources, all repositories."""
    return query.replace("$source", ".*").replace("$repository", ".*")
