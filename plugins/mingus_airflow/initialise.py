"""What a deployment needs in Airflow's database before its components start: ``python -m mingus_airflow.initialise``.

Roles (with the FAB auth manager), accounts, the connection of the account that checks approvals, and the pools that the
settings name. Idempotent: run it at every start, also twice at once. A role is made to be exactly what
``mingus_airflow.roles`` says, whatever was changed by hand; accounts, pools and passwords that exist are left alone.

``--account NAME:ROLE:FILE`` makes an account whose password is the first line of FILE, when there is none of that name.
Exit codes: 0 done; 2 usage, or the settings are wrong; 1 anything else.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import logging
import secrets
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mingus_airflow.roles import ADMINISTRATOR, ROLES, SERVICE, Role
from mingus_airflow.wiring import PerJob, Wiring, load_settings, wiring
from mingus_engine.errors import MingusError

if TYPE_CHECKING:
    from airflow.providers.fab.auth_manager.security_manager.override import FabAirflowSecurityManagerOverride

SERVICE_ACCOUNT = "mingus"
_PASSWORD_MIN_CHARACTERS = 12
# As docs/AIRFLOW.md explains them; one at a time where a pool is new and nothing is known of it.
_POOL_SLOTS = {"ship": 2, "back_up_files": 2, "recover": 2}


@dataclass(frozen=True)
class Account:
    """Somebody who is to have an account."""

    name: str
    role: str
    password_file: Path

    @classmethod
    def parse(cls, text: str) -> Account:
        """From ``NAME:ROLE:FILE``.

        :raises argparse.ArgumentTypeError: it is something else.
        """
        name, _, rest = text.partition(":")
        role, _, file = rest.partition(":")
        known = [ADMINISTRATOR, *(role.name for role in ROLES)]
        if not (name and file) or role not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME:ROLE:FILE with a ROLE of {', '.join(known)}")
        if name.isdigit() or name.casefold() == SERVICE_ACCOUNT:
            # A number could be taken for somebody's id where approvers are compared.
            raise argparse.ArgumentTypeError(f"an account cannot be named {name!r}")
        return cls(name, role, Path(file))

    def password(self) -> str:
        """The first line of the file.

        :raises ValueError: it is too short. :raises OSError: no such file.
        """
        found = (self.password_file.read_text(encoding="utf-8").splitlines() or [""])[0].strip()
        if len(found) < _PASSWORD_MIN_CHARACTERS:
            raise ValueError(f"{self.password_file}: a password has at least {_PASSWORD_MIN_CHARACTERS} characters")
        return found


def dag_ids(folder: Path) -> list[str]:
    """The names of the DAGs in *folder*: of each file its stem (DESIGN §2)."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def make_roles(manager: FabAirflowSecurityManagerOverride, names: Sequence[str]) -> Iterator[str]:
    """Make every role exactly what the table says, for the DAGs *names*; says what was changed."""
    # Airflow's own roles, and a permission for each action there is.
    manager.sync_roles()
    for role in ROLES:
        added, removed = _make_role(manager, role, names)
        if added or removed:
            yield f"role {role.name}: {added} rights given, {removed} taken away"


def _make_role(manager: FabAirflowSecurityManagerOverride, role: Role, names: Sequence[str]) -> tuple[int, int]:
    found = manager.add_role(role.name)
    wanted = role.all_rights(names)
    has = {(permission.action.name, permission.resource.name): permission for permission in found.permissions}
    for action, resource in sorted(wanted - has.keys()):
        manager.add_permission_to_role(found, manager.create_permission(action, resource))
    superfluous = sorted(has.keys() - wanted)
    for right in superfluous:
        manager.remove_permission_from_role(found, has[right])
    return len(wanted - has.keys()), len(superfluous)


def make_accounts(manager: FabAirflowSecurityManagerOverride, accounts: Iterable[Account]) -> Iterator[str]:
    """Make the accounts that are missing; says which.

    :raises ValueError: a password is too short. :raises OSError: a password's file cannot be read.
    """
    for account in accounts:
        if manager.find_user(username=account.name) is None:
            _add_user(manager, account.name, account.role, account.password())
            yield f"account {account.name} ({account.role})"


def _add_user(manager: FabAirflowSecurityManagerOverride, name: str, role: str, password: str) -> None:
    # FAB wants an address of everybody; `.invalid` is reserved for those that are none (RFC 2606).
    manager.add_user(name, name, "-", f"{name}@mingus.invalid", manager.find_role(role), password)


def make_service_account(manager: FabAirflowSecurityManagerOverride, connection_id: str) -> Iterator[str]:
    """See that the account which asks about approvals and the connection to it agree; says what was changed.

    The password is random and nobody's: it exists in the connection, encrypted by Airflow's Fernet key, and as a hash.
    """
    from airflow.models.connection import Connection
    from airflow.utils.session import create_session
    from sqlalchemy import select
    from werkzeug.security import check_password_hash

    user = manager.find_user(username=SERVICE_ACCOUNT)
    with create_session() as session:
        connection = session.scalar(select(Connection).where(Connection.conn_id == connection_id))
        if connection is not None and connection.login != SERVICE_ACCOUNT:
            # Somebody uses an account of another name, and looks after it.
            return
        role = manager.find_role(SERVICE)
        if user is not None and user.roles != [role]:
            user.roles = [role]
            manager.update_user(user)
            yield f"account {SERVICE_ACCOUNT}: only the role {SERVICE}"
        password = connection.password if connection is not None else None
        if user is not None and password and check_password_hash(user.password, password):
            return
        password = secrets.token_urlsafe(32)
        if connection is None:
            # Without a host: the address is `[api] base_url`.
            connection = Connection(conn_id=connection_id, conn_type="http", login=SERVICE_ACCOUNT)
            session.add(connection)
        connection.password = password
        if user is None:
            _add_user(manager, SERVICE_ACCOUNT, SERVICE, password)
        else:
            manager.reset_password(user.id, password)
    yield f"account {SERVICE_ACCOUNT} and connection {connection_id}"


def make_pools(chosen: Wiring) -> Iterator[str]:
    """Make the pools that the settings name and that there are not; says which."""
    from airflow.models.pool import Pool
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        known = set(session.scalars(select(Pool.pool)))
        for field in dataclasses.fields(chosen):
            bounds: Any = getattr(chosen, field.name)
            if not isinstance(bounds, PerJob) or bounds.pool in known:
                continue
            known.add(bounds.pool)
            slots = _POOL_SLOTS.get(field.name, 1)
            described = f"tasks of MINGUS at once: {field.name}"
            session.add(Pool(pool=bounds.pool, slots=slots, description=described, include_deferred=False))
            yield f"pool {bounds.pool} of {slots}"


def initialise(accounts: Sequence[Account]) -> Iterator[str]:
    """Everything; says what was changed.

    :raises SettingsError: the settings cannot be read. :raises ValueError, OSError: an account's password.
    """
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from airflow.sdk.configuration import conf

    chosen = wiring(load_settings())
    yield from make_pools(chosen)
    with get_application_builder() as builder:
        yield from make_roles(builder.sm, dag_ids(Path(conf.get("core", "dags_folder"))))
        yield from make_accounts(builder.sm, accounts)
        yield from make_service_account(builder.sm, chosen.approval.connection)


@contextmanager
def _alone() -> Iterator[None]:
    """One at a time: FAB makes no difference between "is there" and "was made by another in this moment"."""
    from airflow.configuration import AIRFLOW_HOME
    from airflow.utils.db import DBLocks, create_global_lock
    from airflow.utils.session import create_session

    # Airflow's lock spans machines, and is none on SQLite: there the file is what both have.
    with (Path(AIRFLOW_HOME) / ".mingus-initialise.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with create_session() as session, create_global_lock(session, DBLocks.MIGRATIONS):
            yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(prog="mingus_airflow.initialise", description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--account",
        action="append",
        default=[],
        type=Account.parse,
        metavar="NAME:ROLE:FILE",
        help="make this account when there is none of that name",
    )
    chosen = parser.parse_args(arguments)
    # Airflow's word on each single right would hide ours.
    logging.getLogger("airflow.providers.fab").setLevel(logging.WARNING)
    out = sys.stdout.write
    try:
        with _alone():
            for line in initialise(chosen.account):
                out(f"initialise: {line}\n")
    except MingusError as error:
        sys.stderr.write(f"initialise: error: {error}\n")
        return error.exit_code
    except (OSError, ValueError) as error:
        sys.stderr.write(f"initialise: error: {error}\n")
        return 1
    out("initialise: done\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
