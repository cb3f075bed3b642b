"""Who may do what in Airflow: the roles of a deployment with the FAB auth manager, as a table.

Airflow's rule: to do something to a run of a DAG takes ``can_edit`` on *that DAG* and the deed on its runs or tasks. So
a role's rights over runs are global, and which DAGs they reach is said DAG by DAG, never by a global ``can_edit``.

The rights over DAGs are granted here and not by ``access_control`` in the DAGs: a DAG that names a role which does not
exist is an import error, and takes its whole file with it. A DAG of no known kind is the administrators' alone.
``mingus_airflow.initialise`` makes the database agree with this table.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

Right = tuple[str, str]

#: Airflow's own: everything, accounts included.
ADMINISTRATOR = "Admin"
VIEWER = "MINGUS Viewer"
BACKUP_OPERATOR = "MINGUS Backup Operator"
RECOVERY_OPERATOR = "MINGUS Recovery Operator"
AUDITOR = "MINGUS Auditor"
#: Of the account that asks Airflow who approved what, and when which schedule last ran.
SERVICE = "MINGUS Service"

_READ, _EDIT, _CREATE, _MENU = "can_read", "can_edit", "can_create", "menu_access"

_SERVICE: frozenset[Right] = frozenset(
    # FAB gives "Website" to every role by itself.
    (_READ, resource)
    for resource in ("DAGs", "DAG Runs", "Task Instances", "HITL Detail", "Audit Logs", "Website")
)
_VIEWER: frozenset[Right] = frozenset(
    {
        *(
            (_READ, resource)
            for resource in (
                *("DAGs", "DAG Code", "DAG Dependencies", "DAG Runs", "DAG Versions", "DAG Warnings"),
                *("Task Instances", "Task Logs", "XComs", "HITL Detail", "Assets", "Asset Aliases", "Backfills"),
                *("Cluster Activity", "ImportError", "Jobs", "Pools", "Website", "My Password", "My Profile"),
            )
        ),
        (_EDIT, "My Password"),
        (_EDIT, "My Profile"),
        *(
            (_MENU, resource)
            for resource in ("Browse", "DAGs", "DAG Dependencies", "DAG Runs", "Task Instances", "HITL Detail")
        ),
        *((_MENU, resource) for resource in ("Assets", "Cluster Activity", "Documentation", "Docs", "Jobs")),
    }
)
_AUDITOR = _VIEWER | {(_READ, "Audit Logs"), (_MENU, "Audit Logs")}
# Clearing a task, which the DAGs' own documentation asks for, is an edit of runs and tasks.
_BACKUP = _VIEWER | {(_CREATE, "DAG Runs"), (_EDIT, "DAG Runs"), (_EDIT, "Task Instances")}
# No edit of runs or tasks: whoever recovers can start, approve what somebody else started, and mark nothing as done.
_RECOVERY = _VIEWER | {(_CREATE, "DAG Runs"), (_EDIT, "HITL Detail")}


@dataclass(frozen=True)
class Role:
    """A role: what it may do anywhere, and the beginnings of the names of the DAGs that it may start and change."""

    name: str
    rights: frozenset[Right]
    dags: tuple[str, ...] = ()

    def reaches(self, dag_id: str) -> bool:
        """Whether the role may start and change the DAG."""
        return dag_id.startswith(self.dags)

    def all_rights(self, dag_ids: Iterable[str]) -> frozenset[Right]:
        """What the role may do in a deployment of the DAGs *dag_ids*."""
        own = {(action, f"DAG:{dag_id}") for dag_id in dag_ids if self.reaches(dag_id) for action in (_READ, _EDIT)}
        return self.rights | own


_CHECKS = ("health_check", "probe", "recovery_test")
#: All that there are besides the administrator's.
ROLES = (
    Role(VIEWER, _VIEWER),
    Role(BACKUP_OPERATOR, _BACKUP, ("backup_", *_CHECKS)),
    Role(RECOVERY_OPERATOR, _RECOVERY, ("recover_", *_CHECKS)),
    Role(AUDITOR, _AUDITOR),
    Role(SERVICE, _SERVICE),
)
