"""What the recovery DAGs have in common: fields of their forms, and the approval in front of whatever writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Param, task

from mingus_airflow.operators import RecoveryApprovalOperator, RecoveryReportOperator, RestoreVerifyOperator
from mingus_airflow.operators.approved import ApprovedOperator, OrderOperator
from mingus_airflow.operators.recovery_plan import RecoveryPlanOperator
from mingus_airflow.recovery import DRILL, MODES
from mingus_airflow.wiring import Wiring
from mingus_engine.settings import Settings

#: Type of a field that may be left empty.
TEXT: Mapping[str, Any] = {"type": ["null", "string"]}
# The order is what the form says; a misspelt parameter of --conf is refused by the plan.
_ORDER = "{{ params | tojson }}"


def common_fields(settings: Settings, kind: str, *, extract: str, moment: str) -> dict[str, Param]:
    """The fields ``source``, ``mode``, ``snapshot``, ``repository`` and ``to`` of a form.

    :param extract: what that mode does. :param moment: what can be said in ``to``.
    """
    what, when = {"section": "1. What"}, {"section": "2. From when"}
    return {
        "source": Param(type="string", enum=settings.of_kind(kind), title="Source", **what),
        "mode": Param(
            DRILL,
            type="string",
            enum=list(MODES),
            title="Mode",
            description="drill: scratch directory, checked and wiped. restore: to a directory. extract:"
            f" {extract}. All but the drill need somebody else's approval.",
            **what,
        ),
        "snapshot": Param(
            None, **TEXT, title="Snapshot", description="ULID or its beginning; empty = the newest.", **when
        ),
        "repository": Param(
            None,
            type=["null", "string"],
            enum=[None, *(repository.name for repository in settings.repositories)],
            title="Repository",
            description="Empty = the first reachable one of the source's chain.",
            **when,
        ),
        "to": Param(None, **TEXT, title="Moment", description=moment, **when),
    }


def destinations(settings: Settings, kind: str) -> list[str]:
    """Names of the servers of *kind* that something may be restored into."""
    named = (destination.name for destination in settings.destinations if destination.kind == kind)
    return sorted({*named, *settings.of_kind(kind)})


def recover(
    wiring: Wiring,
    plan_type: type[RecoveryPlanOperator],
    restoring: Mapping[str, type[ApprovedOperator]],
    *,
    check_type: type[OrderOperator] | None = None,
    moments: bool = True,
) -> None:
    """``plan`` → (``drill`` | ``approve`` → those of *restoring*) → ``report``.

    :param restoring: task id → operator; each skips itself when the order is not of its mode. :param check_type: what
        looks again at what the task ``restore`` wrote. :param moments: whether a drill ends at the moment ``to``; else
        at the end of the snapshot that the plan chose.
    """
    bounds = wiring.arguments("recover")
    plan = plan_type(task_id="plan", order=_ORDER, **bounds)

    @task.branch(task_id="choose", retries=0)
    def choose(params: dict) -> list[str]:
        """A drill needs no approval; anything else does."""
        return ["drill"] if params["mode"] == DRILL else ["approve"]

    drill = RestoreVerifyOperator(
        task_id="drill",
        source="{{ params.source }}",
        snapshot=plan.output,
        repository="{{ ti.xcom_pull(task_ids='plan')['repository'] }}",
        level="L4",
        target="{{ params.to or '' }}" if moments else "",
        **wiring.arguments("verify"),
    )
    approve = RecoveryApprovalOperator(
        task_id="approve", order=_ORDER, order_type=plan_type.order_type, plan=plan.output
    )
    writing = {
        name: operator(task_id=name, order=_ORDER, plan=plan.output, **bounds) for name, operator in restoring.items()
    }
    report = RecoveryReportOperator(
        task_id="report",
        outcomes=[drill.output, *(writer.output for writer in writing.values())],
        trigger_rule="none_failed_min_one_success",
        retries=0,
    )
    plan >> choose() >> [drill, approve]
    # Each of them skips itself when the order is not its own: a branch would not skip what follows the approval.
    approve >> list(writing.values())
    if check_type is not None:
        writing["restore"] >> check_type(task_id="check", order=_ORDER, **bounds) >> report
