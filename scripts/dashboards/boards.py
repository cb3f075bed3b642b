"""What is on the dashboards. Thresholds of lines are the promises of ``rules/targets.yml``."""

from __future__ import annotations

from scripts.dashboards.panels import GREEN, RED, YELLOW, Board, Panel

RPO_S, RTO_S, BACKUP_S = 3600, 14400, 7200
HOUR, DAY = 3600, 86400
OF_SOURCE = '{source=~"$source"}'
OF_COPY = '{source=~"$source",repository=~"$repository"}'
OF_REPOSITORY = '{repository=~"$repository"}'
# Legends.
COPY, TRY = "{{source}} in {{repository}}", "{{source}} {{operation}}"
GOOD = ((None, RED), (1, GREEN))
NONE_OR_RED = ((None, GREEN), (1, RED))
LEVELS = {"-1": "never", "0": "present", "1": "bytes", "2": "opened", "3": "restored", "4": "started"}
OK = {"1": "ok", "0": "FAILED"}
LINKS = {
    "DAG grid": "/dags",
    "Full backups": "/dags/backup_postgres_full/runs",
    "Log archive": "/dags/backup_postgres_wal/runs",
    "Recovery": "/dags/recover_postgres/runs",
    "Recovery tests": "/dags/recovery_test/runs",
}
DAG_LINK = "/dags/${__field.labels.dag_id}/runs"


def stat(title: str, query: str, description: str, **more: object) -> Panel:
    """One number."""
    return Panel(title, {query: ""}, description, kind="stat", width=4, height=4, **more)  # type: ignore[arg-type]


RECOVERY_POINTS = Panel(
    "Recovery point age",
    {f"mingus:recovery_point_age_seconds{OF_SOURCE}": "{{source}}"},
    "Age of the newest moment that the best repository can restore. Log and nightly files have targets of their own.",
    unit="s",
    steps=((None, GREEN), (RPO_S, RED)),
)
ALERTS = Panel(
    "Alerts that fire",
    {'sum by (alertname, severity, source, repository) (ALERTS{alertstate="firing"})': ""},
    "Watchdog is always there. What each means: docs/MONITORING.md.",
    kind="table",
)

OVERVIEW = Board(
    "mingus-overview",
    "MINGUS Backup Overview",
    "Is everything backed up, when, how large, where?",
    {
        "Now": [
            stat("Sources that answer", f"sum(source_ok{OF_SOURCE}) / count(source_ok{OF_SOURCE})",
                 "Share of the sources that the probe reached.", unit="percentunit", steps=GOOD),
            stat("Oldest recovery point", f"max(mingus:recovery_point_age_seconds{OF_SOURCE})",
                 "Of the worst source, in its best repository.", unit="s",
                 steps=((None, GREEN), (RPO_S, YELLOW), (DAY + 2 * HOUR, RED))),
            stat("Failures in 24 h", f"sum(increase(backup_failure_total{OF_SOURCE}[1d])) or vector(0)",
                 "Failed tries of backups.", steps=NONE_OR_RED),
            stat("Alerts", 'count(ALERTS{alertstate="firing",alertname!="Watchdog"}) or vector(0)',
                 "Alerts that fire now.", steps=NONE_OR_RED),
            stat("Flagged snapshots", f"sum(snapshots_flagged{OF_COPY}) or vector(0)", "They wait for a person.",
                 steps=((None, GREEN), (1, YELLOW))),
            stat("Stored", f"sum(storage_usage_bytes{OF_COPY})", "All copies of all sources.", unit="bytes"),
        ],
        "Backups": [
            RECOVERY_POINTS,
            Panel("Since the last backup",
                  {f"time() - mingus:backup_last_success_timestamp_seconds{OF_SOURCE}": TRY},
                  "Since the newest snapshot of each kind was written.", unit="s", link=LINKS["Full backups"]),
            Panel("Behind the schedule",
                  {f"mingus:backup_behind_seconds{OF_SOURCE}": TRY},
                  "When the schedule last wanted a backup, minus when the newest was written. Below zero: in time.",
                  unit="s", steps=((None, GREEN), (BACKUP_S, RED)), link=LINKS["Full backups"]),
            Panel("Duration of backups",
                  {f"mingus:backup_duration_seconds:mean{OF_SOURCE}": TRY},
                  "Mean since the exporter started.", unit="s", steps=((None, GREEN), (BACKUP_S, RED)),
                  link=LINKS["Full backups"]),
            Panel("Backups per day",
                  {f"sum by (source, operation) (increase(backup_success_total{OF_SOURCE}[1d]))":
                   TRY},
                  "Tries that succeeded in the 24 hours before."),
            Panel("Size of the newest backup",
                  {f"max by (source, operation) (backup_size_bytes{OF_SOURCE})": "{{source}} {{operation}} read",
                   f"max by (source, operation) (backup_stored_bytes{OF_SOURCE})": "{{source}} {{operation}} stored"},
                  "What was read, and what had to be stored after comparison and compression.", unit="bytes"),
        ],
        "Repositories": [
            Panel("Stored by source", {f"storage_usage_bytes{OF_COPY}": COPY},
                  "Stored bytes.", unit="bytes"),
            Panel("Free",
                  {f"mingus:storage_free_ratio{OF_REPOSITORY}": "{{repository}}",
                   f"storage_free_threshold_percent{OF_REPOSITORY} / 100": "{{repository}} alarm"},
                  "Free share of local repositories' disks; below the second line there is an alarm.",
                  unit="percentunit"),
            Panel("Deduplication", {f"dedup_ratio{OF_COPY}": COPY},
                  "Bytes that all snapshots restore to, divided by the bytes stored for them.", unit="none"),
            Panel("Copies behind", {f"replication_lag_bytes{OF_COPY}": COPY},
                  "Bytes that the first repository holds and this one does not yet.", unit="bytes"),
        ],
    },
    LINKS,
)  # fmt: skip

RECOVERY = Board(
    "mingus-recovery",
    "MINGUS Recovery",
    "What can be restored, to which moment, how fast, and was it tried?",
    {
        "Proofs": [
            stat("Proven sources",
                 f"count(max by (source) (proof_level{OF_COPY}) >= 3) / count(max by (source) (proof_level{OF_COPY}))"
                 " or vector(0)",
                 "Share of the sources whose newest verification restored them (level 3 or 4).", unit="percentunit",
                 steps=GOOD),
            stat("Oldest proof", f"max(min by (source) (proof_age_seconds{OF_COPY}))", "Of the worst source.", unit="s",
                 steps=((None, GREEN), (8 * DAY, RED))),
            stat("Failed proofs", f"count(proof_last_ok{OF_COPY} == 0) or vector(0)",
                 "Copies whose newest verification found them bad.", steps=NONE_OR_RED),
            stat("Gaps", f"sum(recovery_window_gaps{OF_COPY})", "Stretches that cannot be restored.",
                 steps=((None, GREEN), (1, YELLOW))),
            stat("Slots lost", f"sum(slot_lost{OF_SOURCE}) or vector(0)", "Archiving slots whose log is gone.",
                 steps=NONE_OR_RED),
            stat("Failed recoveries", f"sum(increase(recovery_failure_total{OF_SOURCE}[7d])) or vector(0)",
                 "Restores, extractions and drills that failed in 7 days.", steps=NONE_OR_RED),
            Panel("Proof level", {f"proof_level{OF_COPY}": COPY},
                  "Newest verification: 1 bytes, 2 decrypted, 3 restored, 4 started and checked; -1 none.",
                  mapping=LEVELS),
            Panel("Age of proofs", {f"proof_age_seconds{OF_COPY}": COPY},
                  "Since the newest verification that found a snapshot good.", unit="s",
                  steps=((None, GREEN), (8 * DAY, RED)), link=LINKS["Recovery tests"]),
        ],
        "Moments": [
            RECOVERY_POINTS,
            Panel("Recovery point age per repository",
                  {f"recovery_point_age_seconds{OF_COPY}": COPY},
                  "A further repository is as old as its last shipping.", unit="s"),
            Panel("Length of the window", {f"time() - recovery_window_start_seconds{OF_COPY}": COPY},
                  "How far back the newest unbroken window reaches.", unit="s"),
            Panel("Objects that a copy lacks", {f"replication_lag_objects{OF_COPY}": COPY},
                  "Objects that the first repository holds and this one does not yet."),
        ],
        "Speed": [
            Panel("Duration of recoveries",
                  {f"mingus:recovery_duration_seconds:mean{OF_SOURCE}": TRY},
                  "Mean of restores, drills and restore tests since the exporter started.", unit="s",
                  steps=((None, GREEN), (RTO_S, RED)), link=LINKS["Recovery"]),
            Panel("Recoveries per week",
                  {f"sum by (source, operation) (increase(recovery_success_total{OF_SOURCE}[7d]))": TRY},
                  "That succeeded.", link=LINKS["Recovery"]),
        ],
        "Log": [
            Panel("Log not archived", {f"wal_archive_lag_bytes{OF_SOURCE}": "{{source}}"},
                  "On the server only.", unit="bytes", link=LINKS["Log archive"]),
            Panel("Log kept by slots", {f"slot_retained_bytes{OF_SOURCE}": "{{source}}"},
                  "On the server's disk until it is archived.", unit="bytes", link=LINKS["Log archive"]),
        ],
    },
    LINKS,
)  # fmt: skip

SYSTEM = Board(
    "mingus-system",
    "MINGUS System Health",
    "Does everything run that the rest relies on?",
    {
        "Alive": [
            stat("Since the last probe", "time() - max(probe_last_success_timestamp_seconds)",
                 "Everything else is as old as this.", unit="s", steps=((None, GREEN), (900, RED))),
            stat("Duration of a probe", "max(probe_duration_seconds)", "All sources and repositories.", unit="s",
                 steps=((None, GREEN), (60, YELLOW), (240, RED))),
            stat("Scheduler", "sum(increase(airflow_scheduler_heartbeat_total[5m]))", "Heartbeats in five minutes.",
                 steps=GOOD),
            stat("DAG processor", "sum(increase(airflow_dag_processor_heartbeat_total[10m]))",
                 "Heartbeats in ten minutes.", steps=GOOD),
            stat("Failed checks", "count(health_check_ok == 0) or vector(0)", "Of the newest probe or health check.",
                 steps=NONE_OR_RED),
            stat("Exporters down", "count(up == 0) or vector(0)", "That Prometheus cannot scrape.", steps=NONE_OR_RED),
            ALERTS,
            Panel("Checks", {"min by (check, source, repository) (health_check_ok)": ""},
                  "Each check of the newest probe or health check.", kind="table", mapping=OK, steps=GOOD),
            Panel("Sources", {f"source_ok{OF_SOURCE}": "{{source}}"}, "1: it answers and lets us in.", steps=GOOD,
                  mapping=OK),
            Panel("Repositories", {f"repository_ok{OF_REPOSITORY}": "{{repository}}"},
                  "1: reachable, and a key opens it.", steps=GOOD, mapping=OK),
            Panel("Scrapes", {"up": "{{job}}"}, "1: Prometheus reaches it.", steps=GOOD, mapping=OK),
            Panel("Clocks", {f"clock_offset_seconds{OF_SOURCE}": "{{source}}"}, "The source's clock minus ours.",
                  unit="s"),
        ],
        "Machines": [
            Panel("Processor", {"host_cpu_percent": "{{host}}", "host_cpu_threshold_percent": "{{host}} alarm"},
                  "In use; above the second line for half an hour there is an alarm.", unit="percent"),
            Panel("Memory", {"host_memory_percent": "{{host}}", "host_memory_threshold_percent": "{{host}} alarm"},
                  "In use; above the second line for 15 minutes there is an alarm.", unit="percent"),
            Panel("Disks of working directories",
                  {"host_disk_percent": "{{host}} {{directory}}", "host_disk_threshold_percent": "{{host}} alarm"},
                  "In use; above the last line for 10 minutes there is an alarm.", unit="percent"),
            Panel("Network", {"host_network_bytes_per_second": "{{host}} {{direction}}"},
                  "All interfaces but the loopback.", unit="Bps"),
        ],
        "Airflow": [
            Panel("Tasks that ended", {"sum by (dag_id, state) (increase(airflow_ti_finish_total[1h]))":
                                       "{{dag_id}} {{state}}"}, "In the hour before.", link=DAG_LINK),
            Panel("Duration of runs",
                  {"sum by (dag_id) (airflow_dagrun_duration_success_seconds_sum) / "
                   "sum by (dag_id) (airflow_dagrun_duration_success_seconds_count)": "{{dag_id}}"},
                  "Mean of runs that succeeded, since the exporter started.", unit="s", link=DAG_LINK),
            Panel("Free slots of pools", {"min by (pool_name) (airflow_pool_open_slots)": "{{pool_name}}"},
                  "At 0 tasks wait."),
            Panel("Metrics received", {"sum(rate(statsd_exporter_events_total[5m]))": "events a second"},
                  "By statsd_exporter.", unit="cps"),
        ],
        "Alerts": [
            Panel("Sent by Airflow", {"sum by (channel) (alert_sent_total)": "{{channel}}",
                                      "sum by (channel) (alert_failure_total)": "{{channel}} failed"},
                  "Messages of single runs since the exporter started."),
            Panel("Sent by Alertmanager",
                  {"sum by (integration) (alertmanager_notifications_total)": "{{integration}}",
                   "sum by (integration) (alertmanager_notifications_failed_total)": "{{integration}} failed"},
                  "Messages of alerts of this page since it started."),
        ],
    },
    LINKS,
)  # fmt: skip

COMPLIANCE = Board(
    "mingus-compliance",
    "MINGUS Compliance Status",
    "What an auditor asks: are promises kept and proven, are keys in order? The evidence itself: the signed records.",
    {
        "Promises": [
            stat("Recovery points in time", f"min(1 - mingus:rpo_missed:ratio_30d{OF_SOURCE})",
                 "Share of 30 days in which the target held; of the worst source. Promised: 99.9 %.",
                 unit="percentunit", steps=((None, RED), (0.999, GREEN))),
            stat("Budget left", f"min(mingus:rpo_budget_left{OF_SOURCE})",
                 "Of the month's budget of missed recovery points; of the worst source.", unit="percentunit",
                 steps=((None, RED), (0, YELLOW), (0.5, GREEN))),
            stat("Recovery tests over target", "sum(mingus:recoveries_over_target_total) or vector(0)",
                 "That took over four hours, since the exporter started.", steps=NONE_OR_RED),
            stat("Backups over target", "sum(mingus:backups_over_target_total) or vector(0)",
                 "That took over two hours, since the exporter started.", steps=NONE_OR_RED),
            stat("Fewest copies", f"min(count by (source) (snapshots{OF_COPY} > 0)) or vector(0)",
                 "Repositories that hold the source; of the worst source.", steps=((None, RED), (2, GREEN))),
            stat("Oldest key", f"max(key_epoch_age_seconds{OF_REPOSITORY})", "Since the epoch key was made.", unit="s",
                 steps=((None, GREEN), (400 * DAY, YELLOW))),
            Panel("Recovery points in time, per source", {f"1 - mingus:rpo_missed:ratio_30d{OF_SOURCE}": "{{source}}"},
                  "Share of the 30 days before in which the target held.", unit="percentunit",
                  steps=((None, RED), (0.999, GREEN))),
            Panel("Proven within eight days",
                  {f"min by (source) (proof_age_seconds{OF_COPY}) <= bool {8 * DAY}": "{{source}}"},
                  "1: a restore test found it good.", steps=GOOD, mapping=OK),
        ],
        "Evidence": [
            Panel("Snapshots", {f"snapshots{OF_COPY}": COPY}, "That are there."),
            Panel("Retention reached", {f"time() - mingus:recovery_window_start_seconds{OF_SOURCE}": "{{source}}"},
                  "How far back a moment can be chosen, in the repository that reaches furthest.", unit="s"),
            Panel("Schedules", {"time() - schedule_last_success_timestamp_seconds": ""},
                  "Seconds since each schedule last succeeded.", kind="table", unit="s"),
            Panel("Newest proofs", {f"proof_last_ok{OF_COPY}": ""}, "Of each copy: good or not.", kind="table",
                  mapping=OK, steps=GOOD),
        ],
        "Keys": [
            Panel("Escrow keys open", {f"key_escrow_ok{OF_REPOSITORY}": "{{repository}}"}, "Where it can be checked.",
                  steps=GOOD, mapping=OK),
            Panel("Age of keys", {f"key_epoch_age_seconds{OF_REPOSITORY}": "{{repository}}"},
                  "Since the current epoch key was made.", unit="s", steps=((None, GREEN), (400 * DAY, YELLOW))),
        ],
    },
    LINKS,
)  # fmt: skip

BOARDS = (OVERVIEW, RECOVERY, SYSTEM, COMPLIANCE)
