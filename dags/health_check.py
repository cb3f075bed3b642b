"""Is everything that backups and recoveries need in order? Nightly at 04:00, on one page."""

from airflow.sdk import DAG

from mingus_airflow.operators import HealthCheckOperator
from mingus_airflow.wiring import load_settings, schedule, wiring

DOC = """
Checks every source and repository as `mingus check` does, the write-ahead log by a marker that must be found in each
repository, recovery windows, proofs, replication, certificates, clocks, keys, this worker, and the last runs of every
schedule. The task's **Report** is one page; each failed check says what to do. Red = something critical.
Runbook: docs/OPERATIONS.md, "Health checks".
"""

settings = load_settings()
with DAG(
    dag_id="health_check",
    doc_md=DOC,
    schedule=schedule(settings, "health_check"),
    catchup=False,
    max_active_runs=1,
    tags=["mingus", "health"],
    default_args={"owner": "mingus"},
):
    HealthCheckOperator(task_id="check", **wiring(settings).arguments("health_check"))
