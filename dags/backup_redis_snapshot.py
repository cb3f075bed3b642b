"""# Snapshot of every Redis source, shipped and proven

Runs nightly. For each source on its own: **back up → ship → verify**. One source's failure does not stop another's. A
night is good when every `verify` is green: the snapshot was restored from the *last* repository of the chain, a
throw-away server loaded it, and it held what the source held — not merely: it started. A Redis that comes up empty
without any error is the classic disaster; nothing here is green that could end so.

* `select_sources` — the sources of the settings that no scheduled group covers (`backup_groups`), or those of
  the parameter *sources*. Red: a misspelt source.
* `source.back_up` — receives the data as a replica would (from a replica where there is a healthy one), looks at every
  byte of it, encrypts, stores it in the first repository together with configuration, users and functions. Of a cluster
  all primaries at once. Red: nothing was committed; look at the server, its rights, the repository's disk. An empty
  server is red, too, unless its settings say `may_be_empty`.
* `source.ship` — copies to each further repository of the chain. Red: **the backup itself is safe** in the first one;
  look at the network, credentials or space of the destination.
* `source.verify` — restores to a scratch directory, starts a server without a network on it, compares the keys of every
  database, their types, times to live and sampled contents with what was recorded, and the invariants of the settings;
  records the time it took (RTO). Red: **look at once**; either the worker lacks memory or programs, or the copy is not
  good.

## It is red. What now?
1. Open the task's **Logs**: the last lines say what failed, on which object, and a *hint*. **Report**, the button on
   the task's page, shows what a finished task returned.
2. *"may pass by itself"*: Airflow tries again, later each time. *"not retried"*: mend the cause, then **Clear** the
   task; those after it follow. Nothing half-written counts as a backup.
3. *the server closed the connection* in the middle: its `client-output-buffer-limit replica` is too small for how fast
   the repository takes the data; the hint has the number.
4. The same by hand, on the machine of the worker, also when Airflow is down:

```
mingus check sessions          # rights, persistence, memory for the fork, buffer limits
mingus list sessions           # snapshots, and which of them are proven
mingus backup sessions
mingus ship sessions
mingus verify sessions
mingus restore sessions /empty/directory
```

Never delete anything in a repository to "make it work", and never start a Redis on a directory of which you do not know
that it holds the data: an empty primary empties its replicas.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mingus_airflow.alerting import told
from mingus_airflow.operators import RedisSnapshotOperator
from mingus_airflow.pipelines import back_up_each
from mingus_airflow.selection import level_param, sources_param
from mingus_airflow.wiring import alone, load_settings, schedule, wiring

SETTINGS = load_settings()
WIRING = wiring(SETTINGS)
SOURCES = alone(SETTINGS, SETTINGS.of_kind("redis"))

with DAG(
    dag_id="backup_redis_snapshot",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "backup_redis_snapshot"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=36),
    tags=["mingus", "backup", "redis"],
    **told(SETTINGS, "backup_redis_snapshot"),
    params={
        "sources": sources_param(SOURCES),
        "level": level_param(),
    },
):
    back_up_each(SOURCES, WIRING, RedisSnapshotOperator, level="{{ params.level or '' }}")
