"""# Backup of every group at one moment, shipped and proven

Runs nightly (00:30 unless the settings say otherwise), for each group of the settings: **back up** all members between
the group's `before` and `after`, then for each member **ship → verify**. One group's failure does not stop another's.
The members are left out of the nightly DAGs of their kind; the hourly ones go on with them.

* `select_groups` — the groups of the settings, or those of the parameter *groups*. Red: a misspelt group.
* `back_up` — one for each group. Red: this moment is not whole. The log says of each member whether its snapshot is
  stored; before all have read everything, none is. What a member did commit restores by itself, and is shipped by the
  next run that ships its source.
* `select_members` — the members' snapshots of the groups that are whole.
* `source.ship` — copies to each further repository of the member's chain. Red: **the backup itself is safe** in the
  first one; look at the network, credentials or space of the destination.
* `source.verify` — restores the member's snapshot from the *last* repository of its chain and checks it. Red: **look at
  once**.
* `all_good` — green only when nothing above failed.

## It is red. What now?
1. Open the log of the red task: the last lines say what failed, on which member, and a *hint*. **Report**, the button
   on the task's page, shows what a finished task returned.
2. *"may pass by itself"*: Airflow tries again, all members at a new moment. *"not retried"*: mend the cause, then
   **Clear** the task and those after it.
3. The same by hand, on the machine of the worker, also when Airflow is down:

```
mingus backup --group shop --incremental
mingus groups shop             # which snapshots are of one moment, and how they are restored together
mingus ship documents
mingus verify documents
```
"""

from __future__ import annotations

from datetime import timedelta

from airflow.sdk import DAG, Param

from mingus_airflow.alerting import told
from mingus_airflow.operators.back_up import FULL, INCREMENTAL
from mingus_airflow.pipelines import back_up_groups
from mingus_airflow.selection import groups_param, level_param
from mingus_airflow.wiring import load_settings, schedule, wiring

SETTINGS = load_settings()
GROUPS = [group.name for group in SETTINGS.groups]

with DAG(
    dag_id="backup_groups",
    doc_md=__doc__,
    schedule=schedule(SETTINGS, "backup_groups"),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=36),
    tags=["mingus", "backup", "groups"],
    **told(SETTINGS, "backup_groups"),
    params={
        "groups": groups_param(GROUPS),
        "kind": Param(
            INCREMENTAL,
            type="string",
            enum=[INCREMENTAL, FULL],
            title="Kind",
            description="incremental: what changed since the newest good snapshots. full: builds on nothing.",
        ),
        "level": level_param(),
    },
):
    back_up_groups(GROUPS, wiring(SETTINGS), kind="{{ params.kind }}", level="{{ params.level or '' }}")
