"""What the tasks of the backup DAGs have in common: which sources, and each one on its own through its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from airflow.sdk import task, task_group

from mingus_airflow.operators import EncryptAndShipOperator, RestoreVerifyOperator
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
