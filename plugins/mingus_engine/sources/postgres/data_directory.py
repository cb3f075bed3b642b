"""Finding the data directory of the server we are connected to, and proving that it is."""

from __future__ import annotations

import stat
from pathlib import Path

from mingus_engine.errors import SourceDenied
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.postgres import control_file, tree
from mingus_engine.sources.postgres.connection import place
from mingus_engine.sources.postgres.facts import ServerFacts


def find_data_directory(settings: SourceSettings, server: ServerFacts, slot: str) -> Path:
    """The data directory; never another cluster's, nor another server's of the same cluster.

    The system id tells clusters apart, but a standby on the same machine has the primary's. A slot is a directory in
    ``pg_replslot`` of one server only, so a slot that was just made on our connection proves whose directory it is.

    :param slot: name of that slot.
    :raises SourceDenied: not known, not readable, or not this server's.
    """
    where = place(settings.connection)
    directory = settings.data_directory or server.settings.get("data_directory", "")
    if not directory:
        raise SourceDenied(
            f"{where}: may not ask for data_directory",
            hint="grant pg_read_all_settings to the role, or set data_directory of the source",
        )
    root = Path(directory)
    control = control_file.read(root)
    if control.system_id != server.system_id:
        found = f"cluster {control.system_id}, the server is {server.system_id}"
    elif not _is_directory(root / "pg_replslot" / slot):
        found = "not the server's own directory (a copy, or another server of the same cluster)"
    else:
        return root
    raise SourceDenied(
        f"{where}: data directory {root} holds {found}",
        hint="correct data_directory, host or port; on a remote server use the replication transport",
    )


def _is_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise tree.read_error(str(path), error) from None
