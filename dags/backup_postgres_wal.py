"""# Write-ahead log of every PostgreSQL source, archived every five minutes

What the nightly backup is to a day, this is to five minutes: everything that was committed is stored, encrypted, in
every repository of the chain, and a cluster can be restored to any moment. For each source on its own.

* `select_sources` — the sources of the settings (but those with `wal: {scheduled: false}`), or those of the parameter
  *sources*. Red: a misspelt source.
* `archive` — reads what the source's replication slot holds, stores whole segments and the beginning of the unfinished
  one, ships them, and finds a marker that it wrote in **each** repository. Red: see below. While it is red the server
  keeps its log on its own disk (unless `max_slot_wal_keep_size` bounds that), and nothing is lost.

Beside `mingus wal stream ledger`, the service that is seconds behind the server, this ships what the service stored,
and is red when the service is behind.

## It is red. What now?
1. Open the task's **Logs**: the last lines say what failed, on which object, and a *hint*.
2. *not everywhere*: the log **is safe** in the first repository; look at the network, credentials or space of the one
   that is named. The next run ships what is missing.
3. *is active for PID*: another archiver holds the slot and does not get on. Is the service running, on this machine or
   on another? `journalctl -u mingus-wal@ledger`.
4. *is not the one that is stored*: **look at once**. Two servers archive as one source: a copy that was started, or an
   old primary that went on after a failover. Stop the wrong one; nothing of it was stored.
5. A **GAP** in the log: WAL was removed from the server before it was archived. Archiving goes on, but no restore
   crosses the gap: start `backup_postgres_full` now.

The same by hand, on the machine of the worker, also when Airflow is down:

```
mingus check ledger            # the slot, what it holds, how much more is safe
mingus wal archive ledger
mingus windows ledger          # from when to when it can be restored
```

Never drop the slot to free the server's disk: that makes a gap. Mend what keeps the archiver, or give the disk room.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mingus_airflow.alerting import told
from mingus_airflow.operators import PgWalArchiveOperator
from mingus_airflow.pipelines import SHOWN, chosen_sources
from mingus_airflow.selection import sources_param
from mingus_airflow.wiring import load_settings, schedule, wiring

SETTINGS = load_settings()
WIRING = wiring(SETTINGS)
SOURCES = [source.id for source in SETTINGS.sources if source.kind == "postgres" and source.wal.scheduled]

with DAG(
    dag_id="backup_postgres_wal",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "backup_postgres_wal"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=24),
    tags=["mingus", "backup", "postgres", "wal"],
    **told(SETTINGS, "backup_postgres_wal"),
    params={
        "sources": sources_param(SOURCES),
    },
):
    PgWalArchiveOperator.partial(task_id="archive", **SHOWN, **WIRING.arguments("archive_wal")).expand(
        source=chosen_sources(SOURCES)
    )
