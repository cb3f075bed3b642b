"""What the tasks of the backup DAGs have in common: which sources, and each one on its own through its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk import task, task_group

from mingus_airflow.operators import EncryptAndShipOperator, GroupBackupOperator, RestoreVerifyOperator
from mingus_airflow.operators.base import EngineOperator
from mingus_airflow.selection import select_sources
from mingus_airflow.wiring import Wiring

# A mapped task shows the source it is for instead of a number.
SHOWN = {"map_index_template": "{{ task.source }}"}


def chosen_sources(known: Sequence[str]) -> Any:
    """The task ``select_sources``: those of *known* that the DAG's parameter ``sources`` names, all when it names none.

    :returns: what mapped tasks expand over.
    """

    @task(task_id="select_sources", retries=0)
    def choose(params: dict) -> list[str]:
        """Which sources this run covers."""
        return select_sources(known, params["sources"])

    return choose()


def back_up_each(
    known: Sequence[str],
    wiring: Wiring,
    back_up: Callable[..., EngineOperator],
    *,
    job: str = "back_up",
    level: str | None,
) -> None:
    """For each chosen source on its own: ``source.back_up`` → ``source.ship`` → ``source.verify``.

    :param back_up: makes the operator that backs up. :param job: whose bounds it has, of the settings' ``airflow``.
    :param level: of the verification, a template; ``None`` = no such task.
    """

    @task_group(group_id="source")
    def steps(source: str) -> None:
        shown = {"source": source, **SHOWN}
        backup = back_up(task_id="back_up", **shown, **wiring.arguments(job))
        ship = EncryptAndShipOperator(task_id="ship", snapshot=backup.output, **shown, **wiring.arguments("ship"))
        backup >> ship
        if level is not None:
            ship >> RestoreVerifyOperator(
                task_id="verify", snapshot=backup.output, level=level, **shown, **wiring.arguments("verify")
            )

    steps.expand(source=chosen_sources(known))


def back_up_groups(known: Sequence[str], wiring: Wiring, *, kind: str, level: str) -> None:
    """For each chosen group: ``back_up``; then for each member of those that are whole ``source.ship`` →
    ``source.verify``. A group that fails keeps no other from that, but the run fails: ``all_good`` is not reached.

    :param kind: ``full`` or ``incremental``, a template. :param level: of the verification, a template.
    """

    @task(task_id="select_groups", retries=0)
    def choose(params: dict) -> list[str]:
        """Which groups this run covers."""
        return select_sources(known, params["groups"], "group")

    # What failed has returned nothing, and must not keep the members of other groups from being shipped.
    @task(task_id="select_members", retries=0, trigger_rule="all_done")
    def members(reports: Any) -> list[dict[str, Any]]:
        """The members' snapshots of the groups that are whole."""
        return [
            {"source": member, "snapshot": {"snapshot": made["snapshot"], "repository": made["repository"]}}
            for report in reports or ()
            for member, made in report["members"].items()
        ]

    # A run is as good as its last tasks: without this one it would be green when `back_up` failed and the others were
    # skipped.
    @task(task_id="all_good", retries=0, trigger_rule="none_failed")
    def all_good() -> None:
        """Every group, and every copy of its members."""

    @task_group(group_id="source")
    def steps(source: str, snapshot: Any) -> None:
        shown = {"source": source, "snapshot": snapshot, **SHOWN}
        ship = EncryptAndShipOperator(task_id="ship", **shown, **wiring.arguments("ship"))
        ship >> RestoreVerifyOperator(task_id="verify", level=level, **shown, **wiring.arguments("verify"))

    backup = GroupBackupOperator.partial(
        task_id="back_up", kind=kind, **SHOWN, **wiring.arguments("back_up_group")
    ).expand(source=choose())
    last = all_good()
    backup >> last
    steps.expand_kwargs(members(backup.output)) >> last
