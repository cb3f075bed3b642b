"""# Full backup of every PostgreSQL source, shipped and proven

Runs nightly. For each source on its own: **back up → ship → verify**. One source's failure does not stop another's. A
night is good when every `verify` is green: the snapshot was restored from the *last* repository of the chain, started,
and its numbers were right.

* `select_sources` — the sources of the settings that no scheduled group covers (`backup_groups`), or those of
  the parameter *sources*. Red: a misspelt source.
* `source.back_up` — reads the cluster once, encrypts, stores in the first repository, WAL included. Red: nothing was
  committed; look at the server, its rights, the repository's disk.
* `source.ship` — copies to each further repository of the chain. Red: **the backup itself is safe** in the first one;
  look at the network, credentials or space of the destination.
* `source.verify` — restores to a scratch directory, starts a server on it, checks pages, indexes and the invariants of
  the settings, and records the time it took (RTO). Red: **look at once**; either the worker lacks room or programs, or
  the copy is not good.

## It is red. What now?
1. Open the task's **Logs**: the last lines say what failed, on which object, and a *hint*. **Report**, the button on
   the task's page, shows what a finished task returned.
2. *"may pass by itself"*: Airflow tries again, later each time. *"not retried"*: mend the cause, then **Clear** the
   task; those after it follow. A retry stores again only what is missing; nothing half-written counts as a backup.
3. The same by hand, on the machine of the worker, also when Airflow is down:

```
mingus check ledger            # rights, slot, checksums, space, a WAL round trip
mingus list ledger             # snapshots, and which of them are proven
mingus backup ledger
mingus ship ledger              # everything a repository lacks, older nights too
mingus verify ledger           # --level L1 compares all stored bytes without restoring
mingus restore ledger /empty/directory
```

Never delete anything in a repository to "make it work". If `verify` says *damaged*, the other repositories are likely
intact: `mingus verify ledger --repository primary`.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mingus_airflow.alerting import told
from mingus_airflow.operators import PgBaseBackupOperator
from mingus_airflow.pipelines import back_up_each
from mingus_airflow.selection import level_param, sources_param
from mingus_airflow.wiring import alone, load_settings, schedule, wiring

SETTINGS = load_settings()
WIRING = wiring(SETTINGS)
SOURCES = alone(SETTINGS, SETTINGS.of_kind("postgres"))

with DAG(
    dag_id="backup_postgres_full",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "backup_postgres_full"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=36),
    tags=["mingus", "backup", "postgres"],
    **told(SETTINGS, "backup_postgres_full"),
    params={
        "sources": sources_param(SOURCES),
        "level": level_param(),
    },
):
    back_up_each(SOURCES, WIRING, PgBaseBackupOperator, level="{{ params.level or '' }}")
