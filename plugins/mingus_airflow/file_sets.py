"""What the DAGs that back up file sets have in common: they differ in which sets, when, and whether they prove."""

from __future__ import annotations

from datetime import timedelta
from functools import partial

from airflow.sdk import DAG, Param

from mingus_airflow.alerting import told
from mingus_airflow.operators import FileBackupOperator
from mingus_airflow.operators.back_up import FULL, INCREMENTAL
from mingus_airflow.pipelines import back_up_each
from mingus_airflow.selection import level_param, sources_param
from mingus_airflow.wiring import alone, load_settings, schedule, wiring

# What their documentation has in common, behind what each of them says of itself.
STEPS = """
* `select_sources` — the sets of the settings (at night without those that `backup_groups` covers), or those of the
  parameter *sources*. Red: a misspelt set.
* `source.back_up` — reads what seems changed since the newest good snapshot and stores what is new; the result restores
  by itself. When there is nothing to build on (no snapshot yet, the chain is older than `full_every_days`), it stores
  everything; *reasons* in the report says why. Red: nothing was committed: a root is not there (not mounted?), or more
  files than `unreadable_max_share` cannot be read.
* `source.ship` — copies what is new to each further repository of the chain. Red: **the backup itself is safe** in the
  first one; look at the network, credentials or space of the destination.
"""
PROOF = """\
* `source.verify` — restores the snapshot from the *last* repository of the chain into a scratch directory and compares
  every byte and attribute with what was recorded; records the time it took (RTO). Red: **look at once**; either the
  worker lacks room (`verify.scratch_directory`) or the copy is not good.
"""
RUNBOOK = """
## It is red. What now?
1. Open the task's **Logs**: the last lines say what failed, on which object, and a *hint*. **Report**, the button on
   the task's page, shows what a finished task returned.
2. Green, but *FLAGGED* in the log of `source.back_up`: the set is empty or much smaller, content changed silently,
   directories cannot be listed, or many files were **replaced by what looks encrypted**. What is there was stored, but
   nothing is built on it. Look at the files first, before anything else writes there; *checks* in the report names
   some.
3. *"may pass by itself"*: Airflow tries again, later each time. *"not retried"*: mend the cause, then **Clear** the
   task; those after it follow. Nothing half-written counts as a backup.
4. The same by hand, on the machine of the worker, also when Airflow is down:

```
mingus list documents                  # snapshots, and which of them are proven
mingus backup documents --incremental
mingus backup documents --full         # when you do not trust the chain: builds on nothing
mingus ship documents
mingus verify documents
mingus restore documents /empty/directory
```
"""


def back_up_file_sets(
    dag_id: str, doc: str | None, *, of: str | None = None, prove: bool, most: timedelta = timedelta(hours=36)
) -> DAG:
    """A DAG that takes each file set of the settings on its own: back up → ship, and → verify if it is to *prove*.

    :param doc: documentation of its own, in front of what all have. :param of: only sets of this kind, as in
        ``files.set``; ``None`` = all. :param prove: then sets of scheduled groups are left out:
        ``backup_groups`` proves them. :param most: how long one run may take.
    :raises SettingsError: the settings cannot be read.
    """
    settings = load_settings()
    sets = [s.id for s in settings.sources if s.kind == "files" and of in {None, s.files.set}]
    if prove:
        sets = alone(settings, sets)
    kind = Param(
        INCREMENTAL,
        type="string",
        enum=[INCREMENTAL, FULL],
        title="Kind",
        description="incremental: reads what seems changed since the newest good snapshot. full: builds on nothing.",
    )
    with DAG(
        dag_id=dag_id,
        doc_md=(doc or "") + STEPS + (PROOF if prove else "") + RUNBOOK,
        schedule=schedule(settings, dag_id),
        catchup=False,
        max_active_runs=1,
        dagrun_timeout=most,
        tags=["mingus", "backup", "files"],
        **told(settings, dag_id),
        params={"sources": sources_param(sets), "kind": kind, **({"level": level_param()} if prove else {})},
    ) as dag:
        back_up_each(
            sets,
            wiring(settings),
            partial(FileBackupOperator, kind="{{ params.kind }}"),
            job="back_up_files",
            level="{{ params.level or '' }}" if prove else None,
        )
    return dag
