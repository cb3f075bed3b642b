"""# Recover a PostgreSQL source

Started by a person: **Trigger**, fill in the form. **plan → (drill | approve → restore → check, or extract) → report**.

* `plan` — which snapshot, how much, where to, from when to when the source can be restored. **Report** on its page
  shows it. Nothing is written. Red: the order cannot be carried out as it is; the log says why.
* `drill` — restores to a scratch directory, starts a server on it, checks it, wipes it. Needs no approval.
* `approve` — waits for **somebody else** than who triggered the run: *Required actions* of the task shows order and
  plan, with *Approve* and *Reject*.
* `restore` — to a directory of the worker, ready to start. `extract` — a database or tables into a running server.
  Both ask Airflow again who approved what, and do nothing else than that.
* `check` — reads what was restored back from the disk and compares it with its manifest, before anybody starts it.
* `report` — what was done, approved by whom, and what to do next.

Runbooks, command by command: docs/runbooks. The same from a terminal:

```
airflow dags trigger recover_postgres --conf '{"source": "ledger", "mode": "drill"}'
mingus restore ledger /empty/directory            # also when Airflow is down
```

## It is red. What now?
1. `plan`: the last lines of its log name what is wrong with the order. Trigger again with another one.
2. `approve` is red although somebody answered: that happens when the answer came within seconds of the question.
   Let somebody who will not approve clear `approve`; the question is put again.
3. `restore` or `extract` says *not approved*: read why. An approval serves one try of one order; who cleared, marked
   or edited anything of this run cannot approve it. When in doubt, trigger a new run.
4. `check` is red: do not start a server on that directory; look at the disk, restore again elsewhere.
5. `restore` failed half-way: what was written was removed. `extract` failed: the destination is as it was before.
   Mend the cause, trigger a new run.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from mingus_airflow.alerting import told
from mingus_airflow.operators import (
    PgExtractOperator,
    PgRecoveryPlanOperator,
    PgRestoredCheckOperator,
    PgRestoreOperator,
)
from mingus_airflow.recovering import TEXT, common_fields, destinations, recover
from mingus_airflow.wiring import load_settings, wiring

SETTINGS = load_settings()

with DAG(
    dag_id="recover_postgres",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=16,
    tags=["mingus", "recovery", "postgres"],
    **told(SETTINGS, "recover_postgres"),
    params={
        **common_fields(
            SETTINGS,
            "postgres",
            extract="a database or tables into a running server",
            moment="latest · immediate · time:2026-11-23T14:29:59+01:00 (without an offset: UTC) · lsn:16/B374D848 ·"
            " xid:12345 · name:RESTORE-POINT; empty = the end of the snapshot.",
        ),
        "timeline": Param(
            None,
            type=["null", "integer"],
            minimum=1,
            section="2. From when",
            title="Timeline",
            description="Empty = the newest.",
        ),
        "exclusive": Param(
            False,
            type="boolean",
            section="2. From when",
            title="Exclusive",
            description="Without what is exactly at the moment.",
        ),
        "directory": Param(
            None,
            **TEXT,
            pattern="^(/.*)?$",
            section="3. Restore",
            title="Directory",
            description="Absolute, on the worker; empty or not there.",
        ),
        "tablespaces": Param(
            [],
            type="array",
            items={"type": "string", "pattern": "^.+=/"},
            section="3. Restore",
            title="Tablespaces",
            description="OID=/DIRECTORY each, to put one elsewhere.",
        ),
        "what": Param(
            None,
            **TEXT,
            section="4. Extract",
            title="What",
            description="DATABASE, or DATABASE:schema.table,…",
        ),
        "into": Param(
            None,
            type=["null", "string"],
            enum=[None, *destinations(SETTINGS, "postgres")],
            section="4. Extract",
            title="Into",
            description="A destination of the settings, or the server of a source.",
        ),
        "new_name": Param(
            None,
            **TEXT,
            section="4. Extract",
            title="As",
            description="A new database of this name. Empty = a database keeps its name, tables go into the database of"
            " the destination's connection.",
        ),
        "overwrite": Param(
            False,
            type="boolean",
            section="4. Extract",
            title="Overwrite",
            description="Replace what is there of that name, all or nothing.",
        ),
        "no_owner": Param(
            False,
            type="boolean",
            section="4. Extract",
            title="No owners",
            description="Leave out owners and rights.",
        ),
    },
):
    recover(
        wiring(SETTINGS),
        PgRecoveryPlanOperator,
        {"restore": PgRestoreOperator, "extract": PgExtractOperator},
        check_type=PgRestoredCheckOperator,
    )
