"""# Incremental backup of every PostgreSQL source, shipped

Runs hourly in office hours. For each source on its own: **back up → ship → verify**. What changed since the newest good
snapshot is stored, and the result restores by itself, in one pass, as a full one does: nothing has to be combined.

* `select_sources` — the sources of the settings, or those of the parameter *sources*. Red: a misspelt source.
* `source.back_up` — stores what changed. When there is nothing to build on (no snapshot yet, the chain is older than
  `full_every_days`, a failover, a restore, another version), it takes a full one; *reasons* in the report says why.
  Red: nothing was committed; look at the server, its rights, the repository's disk.
* `source.ship` — copies what is new to each further repository of the chain. Red: **the backup itself is safe** in the
  first one; look at the network, credentials or space of the destination.
* `source.verify` — level L0: every object the snapshot needs is in the *last* repository, with its size. The nightly
  full run restores and starts; a deeper level here reads everything the snapshot consists of, not only what is new.
  Red: **look at once**: the copy is not whole.

## It is red. What now?
1. Open the task's **Logs**: the last lines say what failed, on which object, and a *hint*. **Report**, the button on
   the task's page, shows what a finished task returned.
2. *"may pass by itself"*: Airflow tries again, later each time. *"not retried"*: mend the cause, then **Clear** the
   task; those after it follow. A retry stores again only what is missing; nothing half-written counts as a backup. The
   next hour's run needs nothing of this one.
3. The same by hand, on the machine of the worker, also when Airflow is down:

```
mingus backup ledger --incremental
mingus ship ledger              # everything a repository lacks
mingus verify ledger            # restored, started, checked
mingus backup ledger --full     # when you do not trust the chain: builds on nothing
```

A snapshot that is damaged is not built on: once `mingus verify` has said so, the next run takes a full one.
"""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from airflow.sdk import DAG, Param

from mingus_airflow.alerting import told
from mingus_airflow.operators import PgBaseBackupOperator
from mingus_airflow.pipelines import back_up_each
from mingus_airflow.selection import LEVELS, sources_param
from mingus_airflow.wiring import load_settings, schedule, wiring

SETTINGS = load_settings()
WIRING = wiring(SETTINGS)
SOURCES = SETTINGS.of_kind("postgres")

with DAG(
    dag_id="backup_postgres_incremental",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "backup_postgres_incremental"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    tags=["mingus", "backup", "postgres"],
    **told(SETTINGS, "backup_postgres_incremental"),
    params={
        "sources": sources_param(SOURCES),
        "level": Param(
            "L0",
            type="string",
            enum=list(LEVELS),
            title="Level of the verification",
            description="L0 looks that everything is there; from L1 on all that the snapshot needs is read.",
        ),
    },
):
    back_up_each(SOURCES, WIRING, partial(PgBaseBackupOperator, kind="incremental"), level="{{ params.level }}")
