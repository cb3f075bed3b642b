"""Which sources a run covers and how deep it looks: the fields that the forms of the backup DAGs share."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from airflow.sdk import Param
from airflow.sdk.exceptions import AirflowFailException

LEVELS = ("L0", "L1", "L2", "L3", "L4")


def sources_param(known: Sequence[str]) -> Param:
    """The field ``sources`` of a DAG's form: some of *known*; none chosen = all."""
    return Param(
        [],
        type="array",
        title="Sources",
        description="Only these; none chosen = all.",
        items={"type": "string", "enum": list(known)},
        examples=list(known),
    )


def groups_param(known: Sequence[str]) -> Param:
    """The field ``groups`` of a DAG's form: some of *known*; none chosen = all."""
    return Param(
        [],
        type="array",
        title="Groups",
        description="Only these; none chosen = all.",
        items={"type": "string", "enum": list(known)},
        examples=list(known),
    )


def level_param() -> Param:
    """The field ``level`` of a DAG's form; empty = as the settings of each source say."""
    return Param(
        None,
        type=["null", "string"],
        enum=[None, *LEVELS],
        title="Level of the verification",
        description="Default: as the source's settings say (L4 = restored, started, checked).",
    )


def select_sources(known: Sequence[str], wanted: Sequence[str] | None, what: str = "source") -> list[str]:
    """The *wanted* sources (or *what* they are) in the order of *known*; all when nothing is wanted in particular.

    :raises AirflowFailException: one of them is not known; a typing error must not read as "nothing to do".
    """
    for name in wanted or ():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            said = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known) or 'none'}"
            raise AirflowFailException(f"the settings have no {what} {name!r} for this DAG; {said}")
    return [name for name in known if not wanted or name in wanted]
