"""# Is everything that backups and recoveries need in order? Nightly at 04:00, on one page.

Checks every source and repository as `mingus check` does, the write-ahead log by a marker that must be found in each
repository, recovery windows, proofs, replication, certificates, clocks, keys, this worker, and the last runs of every
schedule. The task's **Report** (*Details*) is one page, also in its log; each failed check says what to do.

## It is red. What now?
Something critical failed: the last lines of the log of `check` name it, worst first, each with what to do. Runbook:
docs/OPERATIONS.md, "Health checks". `mingus health` shows the same page in a terminal; trigger again when it is mended.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mingus_airflow.alerting import told
from mingus_airflow.operators import HealthCheckOperator
from mingus_airflow.wiring import load_settings, schedule, wiring

SETTINGS = load_settings()
with DAG(
    dag_id="health_check",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "health_check"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=3),
    tags=["mingus", "health"],
    **told(SETTINGS, "health_check"),
):
    HealthCheckOperator(task_id="check", **wiring(SETTINGS).arguments("health_check"))
