"""# Recover files

Started by a person: **Trigger**, fill in the form. **plan → (drill | approve → restore) → report**.

* `plan` — which snapshot, how much, where to, and **what it would do to the files** there: `+` new, `~` differs, `-`
  not in the snapshot; how many of each, and the first by name. **Report** on its page shows it. Nothing is written.
  Red: the order cannot be carried out as it is (no snapshot that old, a file that is there and *conflict* is `fail`);
  the log says why.
* `drill` — restores the whole set to a scratch directory, compares every byte and attribute, wipes it. Needs no
  approval.
* `approve` — waits for **somebody else** than who triggered the run: *Required actions* of the task shows order and
  plan, with *Approve* and *Reject*.
* `restore` — mode *restore*: the whole set into a new directory of the worker. Mode *extract*: all of it, or some paths
  and patterns, to where they were (*into* `original`) or into a directory that may hold files. It asks Airflow again
  who approved what, and does nothing else than that.
* `report` — what was done, approved by whom.

Runbook, command by command: docs/runbooks/lost-files.md. The same from a terminal:

```
airflow dags trigger recover_files --conf '{"source": "documents", "mode": "drill"}'
mingus restore documents /empty/directory           # also when Airflow is down
mingus restore documents --original --path contracts/2026/offer.odt --dry-run
```

## It is red. What now?
1. `plan`: the last lines of its log name what is wrong with the order. Trigger again with another one.
2. `approve` is red although somebody answered: that happens when the answer came within seconds of the question.
   Let somebody who will not approve clear `approve`; the question is put again.
3. `restore` says *not approved*: read why. An approval serves one try of one order; who cleared, marked or edited
   anything of this run cannot approve it. When in doubt, trigger a new run.
4. `restore` failed half-way: a new directory was removed again. In a place that held files each file is either as it
   was or as in the snapshot; the log says how many were done. Mend the cause (room? rights?), trigger a new run with
   *delta*.
5. The report names something under *lost*: owners, attributes or devices that the worker's account or the file system
   does not allow. The contents are there; run it as root, or on another file system.

A worker restores to its own disks: with several workers, the queue of this DAG must lead to the machine that has the
files.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from mingus_airflow.alerting import told
from mingus_airflow.operators import FilesRecoveryPlanOperator, FilesRestoreOperator
from mingus_airflow.recovering import TEXT, common_fields, recover
from mingus_airflow.recovery_files import CONFLICTS, ORIGINAL, OWNERS
from mingus_airflow.wiring import load_settings, wiring

SETTINGS = load_settings()
PLACE, SOME = "3. Where to", "4. Extract"

with DAG(
    dag_id="recover_files",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=16,
    tags=["mingus", "recovery", "files"],
    **told(SETTINGS, "recover_files"),
    params={
        **common_fields(
            SETTINGS,
            "files",
            extract="all or some files to where they were, or into a directory that may hold files",
            moment="time:2026-11-23T14:29:59+01:00 (without an offset: UTC): the newest snapshot that had ended by"
            " then; empty = the newest.",
        ),
        "directory": Param(
            None,
            **TEXT,
            pattern="^(/.*)?$",
            section=PLACE,
            title="Directory",
            description="Absolute, on the worker. To restore: empty or not there.",
        ),
        "into": Param(
            None,
            type=["null", "string"],
            enum=[None, ORIGINAL],
            section=PLACE,
            title="Into",
            description="To extract, instead of a directory: original = where the files were.",
        ),
        "owners": Param(
            None,
            type=["null", "string"],
            enum=[None, *OWNERS],
            section=PLACE,
            title="Owners",
            description="By their ids, by their names, or all mine: the worker's. Empty = ids if it is root.",
        ),
        "paths": Param(
            [],
            type="array",
            items={"type": "string", "minLength": 1},
            section=SOME,
            title="Paths",
            description="As `mingus ls` shows them, one a line; a directory with all below.",
        ),
        "patterns": Param(
            [],
            type="array",
            items={"type": "string", "minLength": 1},
            section=SOME,
            title="Patterns",
            description="As in .gitignore, e.g. *.odt; neither paths nor patterns = everything.",
        ),
        "conflict": Param(
            CONFLICTS[0],
            type="string",
            enum=list(CONFLICTS),
            section=SOME,
            title="A file that is there",
            description="fail: nothing is written at all. skip: it stays. newer: overwritten when the snapshot's is."
            " overwrite: always.",
        ),
        "delta": Param(
            False,
            type="boolean",
            section=SOME,
            title="Delta",
            description="Write only what differs. Of everything (no paths, no patterns) also REMOVE what is not in the"
            " snapshot.",
        ),
    },
):
    # A set has snapshots and no moments between: the plan says which one a time means.
    recover(wiring(SETTINGS), FilesRecoveryPlanOperator, {"restore": FilesRestoreOperator}, moments=False)
