"""# Recover a Redis source

Started by a person: **Trigger**, fill in the form. **plan → (drill | approve → restore) → report**.

* `plan` — which snapshot, how much, where to; for keys into a running server how many they are, and how many are there
  already. **Report** on its page shows it. Nothing is written. Red: the order cannot be carried out as it is (a target
  outside the window, a directory that is not empty, a server too old for the snapshot); the log says why.
* `drill` — restores to a scratch directory, starts a server without a network on it, compares it with what was
  recorded, wipes it. Needs no approval.
* `approve` — waits for **somebody else** than who triggered the run: *Required actions* of the task shows order and
  plan, with *Approve* and *Reject*.
* `restore` — mode *restore*: to a directory of the worker, ready to start; the report has the command line. Mode
  *extract*: all keys, or those of a pattern such as `session:*`, into a running server, with their times to live.
  It asks Airflow again who approved what, and does nothing else than that.
* `report` — what was done, approved by whom, and what to do next.

Runbooks, command by command: docs/runbooks. The same from a terminal:

```
airflow dags trigger recover_redis --conf '{"source": "sessions", "mode": "drill"}'
mingus restore sessions /empty/directory            # also when Airflow is down
mingus restore sessions --into spare --keys 'session:*'
```

## It is red. What now?
1. `plan`: the last lines of its log name what is wrong with the order. Trigger again with another one.
2. `approve` is red although somebody answered: that happens when the answer came within seconds of the question.
   Let somebody who will not approve clear `approve`; the question is put again.
3. `restore` says *not approved*: read why. An approval serves one try of one order; who cleared, marked or edited
   anything of this run cannot approve it. When in doubt, trigger a new run.
4. `restore` to a directory failed half-way: what was written cannot be started. Into a server: the log says how many
   keys are in. Mend the cause, trigger a new run, with *conflict* `skip` to go on or `replace` to begin again.

Start the server with the command line of the report and no other: a Redis with `appendonly yes` on a directory that has
only an RDB starts **empty**, and an empty primary empties its replicas.
"""

from __future__ import annotations

from airflow.sdk import DAG, Param

from mingus_airflow.alerting import told
from mingus_airflow.operators import RedisRecoveryPlanOperator, RedisRestoreOperator
from mingus_airflow.recovering import TEXT, common_fields, destinations, recover
from mingus_airflow.recovery_redis import CONFLICTS, FORMS
from mingus_airflow.wiring import load_settings, wiring

SETTINGS = load_settings()
FILES, KEYS = "3. Restore", "4. Extract"

with DAG(
    dag_id="recover_redis",
    doc_md=__doc__,
    schedule=None,
    catchup=False,
    max_active_runs=16,
    tags=["mingus", "recovery", "redis"],
    **told(SETTINGS, "recover_redis"),
    params={
        **common_fields(
            SETTINGS,
            "redis",
            extract="all or some keys into a running server",
            moment="latest · time:2026-11-23T14:29:59+01:00 (without an offset: UTC) · offset:123456789 (of"
            " replication); empty = the snapshot as it is.",
        ),
        "directory": Param(
            None,
            **TEXT,
            pattern="^(/.*)?$",
            section=FILES,
            title="Directory",
            description="Absolute, on the worker; empty or not there.",
        ),
        "form": Param(
            None,
            type=["null", "string"],
            enum=[None, *FORMS],
            section=FILES,
            title="Form",
            description="As an RDB, or as an append-only file; empty = as the server was configured.",
        ),
        "shard": Param(
            None, **TEXT, section=FILES, title="Shard", description="Of a cluster: only this one, as shard-0."
        ),
        "configuration": Param(
            False,
            type="boolean",
            section=FILES,
            title="Configuration",
            description="Write the server's configuration beside the data. It holds its passwords.",
        ),
        "acl": Param(
            False, type="boolean", section=FILES, title="Users", description="Write the users beside the data."
        ),
        "into": Param(
            None,
            type=["null", "string"],
            enum=[None, *destinations(SETTINGS, "redis")],
            section=KEYS,
            title="Into",
            description="A destination of the settings, or the server of a source.",
        ),
        "keys": Param(
            [],
            type="array",
            items={"type": "string", "minLength": 1},
            section=KEYS,
            title="Keys",
            description="Patterns as of the command KEYS, one a line, e.g. session:*; none = all.",
        ),
        "databases": Param(
            [],
            type="array",
            items={"type": "string", "pattern": "^[0-9]+$"},
            section=KEYS,
            title="Databases",
            description="Numbers; none = all.",
        ),
        "database_map": Param(
            [],
            type="array",
            items={"type": "string", "pattern": "^[0-9]+=[0-9]+$"},
            section=KEYS,
            title="Other databases",
            description="OLD=NEW each: what was in database OLD goes into NEW.",
        ),
        "conflict": Param(
            CONFLICTS[0],
            type="string",
            enum=list(CONFLICTS),
            section=KEYS,
            title="A key that is there",
            description="fail: nothing is written at all. skip: it stays. replace: it is replaced.",
        ),
        "rate_keys_per_s": Param(
            0, type="integer", minimum=0, section=KEYS, title="Keys a second", description="At most; 0 = no limit."
        ),
        "functions": Param(
            False, type="boolean", section=KEYS, title="Functions", description="Restore the functions as well."
        ),
    },
):
    recover(wiring(SETTINGS), RedisRecoveryPlanOperator, {"restore": RedisRestoreOperator})
