"""# The weekly recovery test

Runs on Sundays (02:00 unless the settings say otherwise), for **every source of every kind on its own**. The nightly
backups prove their own snapshot; this asks what a disaster would ask: *this* copy, at *any* moment, how long?

* `select_sources` — the sources of the settings, or those of the parameter *sources*. Red: a misspelt source.
* `test` — from the repository of the source's chain whose turn it is (they alternate by the week, among those that hold
  a snapshot; one that does not answer keeps its turn): restored to a scratch directory, started, checked, wiped.
  PostgreSQL and Redis to a random second of their newest window, files as they were. The result is a signed record in
  that repository. Red: it is not good, nothing is stored, or it took longer than `health.rto_s`.
* `report` — **one table of all**: its log, and **Report** on its page. Red when one source failed, or left no result.

## It is red. What now?
1. Open `report`: the row of the source says what failed and **what can still be recovered**, repository by repository:
   the newest window, the newest snapshot that was proven.
2. *check FAILED*: that copy is not good. Is the other repository's? `mingus recovery-test ledger --repository primary`.
   Then a fresh full backup: trigger the source's nightly DAG with *kind* `full`, and let it be shipped.
3. *restoring took … more than*: the data are good, the objective is missed. A faster scratch directory, worker or store
   helps, or an objective that can be kept.
4. *not reachable*, *not found*: the repository does not answer. Its turn is not passed on: a copy that cannot be read
   for months must not go unnoticed.
5. *the test ended without a result*: the worker was killed (memory? disk?). Clear the task.

The same by hand, on the machine of the worker, also when Airflow is down:

```
mingus recovery-test                       # all of them
mingus recovery-test ledger --repository offsite
mingus list ledger                         # snapshots, and which of them are proven
```
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from mingus_airflow.alerting import told
from mingus_airflow.operators import RecoveryTestOperator, RecoveryTestReportOperator
from mingus_airflow.pipelines import SHOWN, chosen_sources
from mingus_airflow.selection import sources_param
from mingus_airflow.wiring import load_settings, schedule, wiring

SETTINGS = load_settings()
SOURCES = [source.id for source in SETTINGS.sources]

with DAG(
    dag_id="recovery_test",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "recovery_test"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=48),
    tags=["mingus", "recovery", "verification"],
    **told(SETTINGS, "recovery_test"),
    params={
        "sources": sources_param(SOURCES),
        "repository": Param(
            None,
            type=["null", "string"],
            enum=[None, *(repository.name for repository in SETTINGS.repositories)],
            title="Repository",
            description="Empty = the one whose turn it is this week, for each source.",
        ),
    },
):
    chosen = chosen_sources(SOURCES)
    tested = RecoveryTestOperator.partial(
        task_id="test",
        repository="{{ params.repository or '' }}",
        **SHOWN,
        **wiring(SETTINGS).arguments("verify"),
    ).expand(source=chosen)
    tested >> RecoveryTestReportOperator(
        task_id="report", sources=chosen, tested="test", trigger_rule="all_done", retries=0
    )
