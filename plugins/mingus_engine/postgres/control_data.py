"""``global/pg_control``, as ``pg_controldata`` prints it.

The file's layout changes between versions and the program of the right version reads it, so only the first eight bytes,
the system identifier, are read here directly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.errors import Damaged
from mingus_engine.postgres.programs import Programs
from mingus_engine.programs.accounts import Account

# What a server in recovery must have at least as large as the primary (PostgreSQL documentation, "Hot Standby",
# "Administrator's Overview"): names in the settings by names in pg_controldata's output.
STANDBY_PARAMETERS = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}


@dataclass(frozen=True)
class ControlData:
    """What is needed of it. ``minimums`` are settings by name (:data:`STANDBY_PARAMETERS`)."""

    system_identifier: int
    state: str
    checksums: bool
    wal_segment_bytes: int
    minimums: Mapping[str, int]


def system_identifier(content: bytes) -> int:
    """The system identifier in the raw bytes of ``pg_control`` (little-endian machines).

    :raises Damaged: too short to be one.
    """
    if len(content) < 8:
        raise Damaged(f"global/pg_control has {len(content)} bytes")
    return int.from_bytes(content[:8], "little")


def read(data_directory: Path, programs: Programs, account: Account | None) -> ControlData:
    """Ask ``pg_controldata``.

    :raises Damaged: the program refused the file, or warns that its checksum is wrong.
    """
    done = programs.run("pg_controldata", ["-D", str(data_directory)], account=account, timeout_s=60)
    values = dict(line.split(":", 1) for line in done.output.splitlines() if ":" in line)
    # A wrong CRC is only a warning to the program; what it prints then is garbage.
    if done.code != 0 or "warning" in done.output.lower():
        raise Damaged(f"pg_controldata cannot read {data_directory}/global/pg_control: {done.first_lines(3)}")
    try:
        return ControlData(
            system_identifier=int(values["Database system identifier"]),
            state=values["Database cluster state"].strip(),
            checksums=int(values["Data page checksum version"]) != 0,
            wal_segment_bytes=int(values["Bytes per WAL segment"]),
            minimums={name: int(values[label]) for label, name in STANDBY_PARAMETERS.items()},
        )
    except (KeyError, ValueError) as error:
        raise Damaged(f"pg_controldata's output of {data_directory} lacks {error}") from None
