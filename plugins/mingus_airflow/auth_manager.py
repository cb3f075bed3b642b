"""The FAB auth manager, with approvers known by name.

Airflow assigns a question to user *ids*. FAB's are numbers that nobody can write into settings, so with FAB as it is an
approval that names its approvers could be given by nobody, administrators included.
``AIRFLOW__CORE__AUTH_MANAGER=mingus_airflow.auth_manager.MingusAuthManager``.
"""

from __future__ import annotations

from airflow.providers.fab.auth_manager.fab_auth_manager import FabAuthManager
from airflow.providers.fab.auth_manager.models import User


class MingusAuthManager(FabAuthManager):
    """Roles and accounts in Airflow's database, as in FAB; whom a question is assigned to may be said by user name."""

    def is_authorized_hitl_task(self, *, assigned_users: set[str], user: User) -> bool:
        """Whether *user* may answer a question that is assigned to *assigned_users*: names, or FAB's ids.

        FAB compares user names without regard to case, so this does too.
        """
        name = (user.username or "").casefold()
        named = bool(name) and name in {assigned.casefold() for assigned in assigned_users}
        return named or bool(super().is_authorized_hitl_task(assigned_users=assigned_users, user=user))
