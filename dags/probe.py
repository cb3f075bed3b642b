"""# A light look at everything, every five minutes: what dashboards and alert rules live on.

Looks at every source and repository, changes nothing, and sends the gauges (docs/AIRFLOW.md, "Metrics"). Green also
when something is wrong: alarms come from the gauges. What the probe sends of itself is the dead man's switch of the
rules.

## It is red. What now?
The settings could not be read, or the worker is out of means: the last lines of the log say so. Backups go on; the
dashboards stand still until it is green again.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mingus_airflow.alerting import told
from mingus_airflow.operators import ProbeOperator
from mingus_airflow.wiring import load_settings, schedule, wiring

SETTINGS = load_settings()
with DAG(
    dag_id="probe",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "probe"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=1),
    tags=["mingus", "health"],
    **told(SETTINGS, "probe"),
):
    ProbeOperator(task_id="probe", **wiring(SETTINGS).arguments("probe"))
