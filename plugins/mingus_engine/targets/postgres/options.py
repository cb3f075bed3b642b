"""The settings of a throw-away server: nothing leaves it, nothing starts by itself, and it is allowed to be lost.

All are given on the command line, which is stronger than ``postgresql.conf`` and ``postgresql.auto.conf``; the
original's files are not read at all. Names that a version does not know are left out, since a server refuses them.
"""

from __future__ import annotations

from collections.abc import Mapping

from mingus_engine.postgres.control_data import ControlData
from mingus_engine.targets.postgres import libraries
from mingus_engine.targets.postgres.libraries import Libraries

# Of the primary's settings, those that change what a query prints; invariants compare that.
CARRIED = ("timezone", "datestyle", "intervalstyle", "bytea_output", "extra_float_digits", "default_text_search_config")

_QUIET = {
    # Nobody reaches it, it reaches nobody.
    "listen_addresses": "",
    "ssl": "off",
    "archive_mode": "off",
    "archive_command": "",
    "archive_library": "",
    "restore_command": "",
    "archive_cleanup_command": "",
    "recovery_end_command": "",
    "primary_conninfo": "",
    "primary_slot_name": "",
    "synchronous_standby_names": "",
    "max_logical_replication_workers": "0",  # subscriptions of the original would connect to their publishers
    "external_pid_file": "",
    # Nothing runs by itself.
    "autovacuum": "off",
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "jit": "off",
    "max_parallel_workers": "0",
    # Damage is an error, and a crash is the end.
    "restart_after_crash": "off",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
    # It is thrown away.
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    # It is one of several on the machine.
    "shared_buffers": "64MB",
    "huge_pages": "off",
    "wal_level": "replica",
    "hot_standby": "on",
    # Its log is read by the engine and shown to people: no statements, which may hold data.
    "log_destination": "stderr",
    "logging_collector": "off",
    "log_line_prefix": "%m [%p] ",
    "log_timezone": "UTC",
    "lc_messages": "C",
    "log_min_messages": "warning",
    "log_min_error_statement": "panic",
    "log_statement": "none",
    "log_parameter_max_length_on_error": "0",
    "log_checkpoints": "off",
    "cluster_name": "mingus throw-away",
}
_SINCE_17 = {"event_triggers": "off", "summarize_wal": "off", "sync_replication_slots": "off"}
# Stronger than what ALTER ROLE and ALTER DATABASE have set: libraries that are not here, hooks, time limits.
_SESSION = {
    "session_preload_libraries": "",
    "local_preload_libraries": "",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}


def server_options(
    version: int,
    control: ControlData,
    primary: Mapping[str, str],
    loaded: Libraries,
    recovery: Mapping[str, str] | None,
) -> dict[str, str]:
    """Settings by name.

    :param primary: settings of the primary as far as known; what a server in recovery must have at least as large is
        the greater of these and the control file's.
    :param recovery: recovery target settings; ``None`` = replay what is in ``pg_wal``, to its end.
    """
    options = dict(_QUIET)
    if version >= 17:
        options.update(_SINCE_17)
    for name, minimum in control.minimums.items():
        known = primary.get(name, "")
        options[name] = str(max(minimum, int(known) if known.isdigit() else 0))
    options.update({name: primary[name] for name in CARRIED if name in primary})
    # The defaults assume segments of 16 MiB; a server whose min_wal_size is below two of its own does not start.
    segment_mib = max(1, control.wal_segment_bytes >> 20)
    options |= {"min_wal_size": f"{5 * segment_mib}MB", "max_wal_size": f"{64 * segment_mib}MB"}
    options["shared_preload_libraries"] = libraries.as_setting(loaded.loaded)
    if recovery is not None:
        # All WAL is in pg_wal; with a recovery.signal the server insists on a command nevertheless.
        options |= {"restore_command": "false", "recovery_target_action": "promote", **recovery}
    return options


def session_options(version: int) -> str:
    """What every connection asks for, as libpq's ``options``."""
    names = {**_SESSION, **({"event_triggers": "off"} if version >= 17 else {})}
    return " ".join(f"-c {name}={value}" for name, value in names.items())
