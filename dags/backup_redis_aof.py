"""# Append-only file, or command stream, of every Redis source

Runs hourly: what the nightly snapshot is to a day, this is to an hour. For each source on its own: **back up → ship**.

* `select_sources` — the sources of the settings (but those with `aof_scheduled: false`), or those of the parameter
  *sources*. Red: a misspelt source.
* `source.back_up` — where the server's data directory can be read, its multi-part append-only file, by the procedure of
  the Redis documentation; unchanged parts are not stored again. Elsewhere (a remote or managed server) the commands
  since the last run, received as a replica receives them. Red: nothing was committed; look at the server, its rights,
  the repository's disk. The server's `auto-aof-rewrite-percentage` is put back in every outcome.
* `source.ship` — copies to each further repository of the chain. Red: **the backup itself is safe** in the first one;
  look at the network, credentials or space of the destination.

Beside `mingus redis stream sessions`, the service that is seconds behind the server, this ships what the service
stored.

## It is red. What now?
1. Open the task's **Logs**: the last lines say what failed, on which object, and a *hint*. **Report**, the button on
   the task's page, shows what a finished task returned.
2. *"may pass by itself"*: Airflow tries again, later each time; the next hour's run needs nothing of this one.
   *"not retried"*: mend the cause, then **Clear** the task.
3. The manifest of the append-only file is *missing*, or names *not exactly one base*: the server has just begun to
   write one (`appendonly yes` was set a moment ago) or is rewriting it. Such files restore to an **empty** server: that
   is why this is red. Wait for `aof_rewrite_in_progress:0` and run it again.
4. A **GAP** in the commands: the server forgot some before they were read (`repl-backlog-size` is too small for an
   hour). A new snapshot begins after it, and recording goes on; no restore reaches a moment inside the gap.

The same by hand, on the machine of the worker, also when Airflow is down:

```
mingus check sessions
mingus redis aof sessions
mingus windows sessions        # from when to when it can be restored
```
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG

from mingus_airflow.alerting import told
from mingus_airflow.operators import RedisAofOperator
from mingus_airflow.pipelines import back_up_each
from mingus_airflow.selection import sources_param
from mingus_airflow.wiring import load_settings, schedule, wiring

SETTINGS = load_settings()
WIRING = wiring(SETTINGS)
SOURCES = [source.id for source in SETTINGS.sources if source.kind == "redis" and source.redis.aof_scheduled]

with DAG(
    dag_id="backup_redis_aof",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "backup_redis_aof"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    tags=["mingus", "backup", "redis"],
    **told(SETTINGS, "backup_redis_aof"),
    params={
        "sources": sources_param(SOURCES),
    },
):
    back_up_each(SOURCES, WIRING, RedisAofOperator, job="back_up_aof", level=None)
