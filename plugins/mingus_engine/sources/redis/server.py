"""What a server says of itself, once: ``INFO``, and what else explains its data or is needed beside it.

Configuration and users are secrets: they go into sealed files of a snapshot and nowhere else.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from mingus_engine.errors import SourceError, SourceUnreachable, SourceUnsupported
from mingus_engine.redis.client import ask, connected, mapped, place
from mingus_engine.settings import RedisConnection
from mingus_engine.sources.base import FileKind, SourceFile

#: PEXPIRETIME, functions and multi-part append-only files are of 7.0.
SINCE = (7, 0)
# Directives whose values explain a restored server and hold no secret.
_TOLD = (
    "appendonly", "save", "appenddirname", "appendfilename", "dbfilename", "databases", "maxmemory",
    "client-output-buffer-limit", "repl-backlog-size", "rdbchecksum",
)  # fmt: skip
#: What says whether data survive a restart.
PERSISTENCE = ("save", "appendonly")
# What moves when anything was written; all of ``INFO``.
_WRITES = ("rdb_changes_since_last_save", "rdb_saves", "expired_keys", "evicted_keys", "run_id")
_KEYSPACE = re.compile(r"keys=(\d+),expires=(\d+)")
_CONFIG_FILE_MAX_BYTES = 1 << 20
_LOCAL_HOSTS = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class Info:
    """``INFO everything``: section → field → text, and what follows from it."""

    sections: Mapping[str, Mapping[str, str]]

    def get(self, name: str, default: str = "") -> str:
        """One field, whatever its section."""
        for fields in self.sections.values():
            if name in fields:
                return fields[name]
        return default

    def number(self, name: str) -> int:
        """One field; 0 = it is not there, or no number."""
        text = self.get(name)
        return int(text) if re.fullmatch(r"-?\d+", text) else 0

    @property
    def engine(self) -> str:
        """``redis`` or ``valkey``."""
        return "valkey" if self.get("server_name") == "valkey" or self.get("valkey_version") else "redis"

    @property
    def version(self) -> str:
        """Of the engine."""
        return self.get("valkey_version") or self.get("redis_version")

    @property
    def is_replica(self) -> bool:
        """Whether it follows another server."""
        return self.get("role") == "slave"

    @property
    def databases(self) -> dict[int, tuple[int, int]]:
        """Number of each database that is not empty → its keys, and how many of them expire."""
        found = {}
        for name, text in self.sections.get("keyspace", {}).items():
            match = _KEYSPACE.match(text)
            if match and name[2:].isdigit():
                found[int(name[2:])] = (int(match[1]), int(match[2]))
        return found

    def same_data(self, later: Info) -> bool:
        """Whether nothing was written between this moment and *later*."""
        return self.databases == later.databases and all(self.get(n) == later.get(n) for n in _WRITES)


@dataclass(frozen=True)
class Surroundings:
    """What is stored beside the RDB.

    :param config: directives; ``None`` = the user may not ask. :param lacking: what could not be had, and why.
    """

    files: Sequence[tuple[SourceFile, bytes]]
    config: Mapping[str, str] | None
    lacking: Sequence[str]

    @property
    def told(self) -> dict[str, str]:
        """The directives that go into plain facts; none of them is a secret."""
        return {name: value for name in _TOLD if (value := (self.config or {}).get(name)) is not None}


def read_info(client: redis.Redis, conn: RedisConnection) -> Info:
    """:raises SourceError: see ``client.client_error``."""
    with mapped(conn, "INFO"):
        return parse_info(ask(client, "INFO", "everything"))


def parse_info(raw: bytes) -> Info:
    """The text of ``INFO``."""
    sections: dict[str, dict[str, str]] = {}
    fields: dict[str, str] = {}
    for line in raw.decode("utf-8", "replace").splitlines():
        if line.startswith("# "):
            fields = sections.setdefault(line[2:].strip().lower(), {})
        elif ":" in line:
            name, _, value = line.partition(":")
            # Modules and the like repeat their names.
            fields[name if name not in fields else f"{name}#{len(fields)}"] = value
    return Info(sections)


def refuse_unusable(info: Info, conn: RedisConnection) -> None:
    """:raises SourceUnsupported: too old. :raises SourceUnreachable: it loads its data."""
    numbers = tuple(int(n) for n in re.findall(r"\d+", info.version)[:2])
    if numbers < SINCE:
        raise SourceUnsupported(
            f"{place(conn)}: {info.engine} {info.version or 'of unknown version'}", hint="supported: Redis 7, Valkey 7"
        )
    if info.get("loading") == "1" or info.get("async_loading") == "1":
        raise SourceUnreachable(f"{place(conn)}: is loading its data", hint="the next try may find it ready")


def read_surroundings(
    client: redis.Redis, conn: RedisConnection, info: Info, *, prefix: bytes = b"", config_file: str = ""
) -> Surroundings:
    """Ask for everything; a right that is missing costs what it is for, not the backup.

    :param prefix: of the files' paths. :param config_file: where it can be read here; empty = where the server says,
        if the server runs on this machine.
    :raises SourceError: the connection broke.
    """
    found: dict[str, bytes] = {"mingus-origin/info.json": _json(info.sections)}
    lacking: list[str] = []

    def may(what: str, *command: str) -> Any:
        try:
            return ask(client, *command)
        except redis.ResponseError as error:
            lacking.append(f"{what} ({' '.join(command[:2])}: {' '.join(str(error).split())[:100]})")
            return None

    with mapped(conn, "asking for configuration, users, functions and modules"):
        pairs = may("configuration", "CONFIG", "GET", "*")
        users = may("users", "ACL", "LIST")
        functions = may("functions", "FUNCTION", "DUMP")
        modules = may("modules", "MODULE", "LIST")
        nodes = may("nodes of the cluster", "CLUSTER", "NODES") if info.get("cluster_enabled") == "1" else None
    config = {_text(n): _text(v) for n, v in zip(pairs[::2], pairs[1::2], strict=True)} if pairs is not None else None
    if config is not None:
        found["mingus-config/config.json"] = _json(config)
    if users is not None:
        found["mingus-config/users.acl"] = b"".join(line + b"\n" for line in users)
    if functions is not None:
        found["mingus-config/functions.bin"] = functions
    if modules is not None:
        found["mingus-origin/modules.json"] = _json([_plain(module) for module in modules])
    if nodes is not None:
        found["nodes.conf"] = nodes
    file = _config_file(conn, info, config_file)
    if isinstance(file, bytes):
        found["mingus-config/redis.conf"] = file
    elif file:
        lacking.append(file)
    return Surroundings(list(_files(prefix, found)), config, lacking)


def directives(conn: RedisConnection, *names: str) -> dict[str, str] | None:
    """These directives of a server; ``None`` = it cannot be asked."""
    try:
        with connected(conn, raw=True) as client, mapped(conn, "CONFIG GET"):
            found: dict[str, str] = {}
            for name in names:
                pair = ask(client, "CONFIG", "GET", name)
                found |= {_text(n): _text(v) for n, v in zip(pair[::2], pair[1::2], strict=True)}
            return found
    except SourceError:
        return None


def _config_file(conn: RedisConnection, info: Info, given: str) -> bytes | str:
    """Its content, or why it was not read; empty = there is none."""
    here = bool(conn.socket) or conn.host in _LOCAL_HOSTS
    path = given or (info.get("config_file") if here else "")
    if not path:
        return ""
    try:
        with Path(path).open("rb") as file:
            content = file.read(_CONFIG_FILE_MAX_BYTES + 1)
    except OSError as error:
        return f"configuration file ({path}: {error.strerror})"
    if len(content) > _CONFIG_FILE_MAX_BYTES:
        return f"configuration file ({path}: larger than {_CONFIG_FILE_MAX_BYTES} bytes)"
    return content


def _files(prefix: bytes, found: Mapping[str, bytes]) -> Iterator[tuple[SourceFile, bytes]]:
    now = time.time_ns()
    for name, content in found.items():
        yield SourceFile(prefix + name.encode(), FileKind.FILE, 0o600, mtime_ns=now, size=len(content)), content


def _json(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def _plain(value: Any) -> Any:
    """JSON types; a flat list of names and values becomes an object."""
    if isinstance(value, list) and len(value) % 2 == 0 and all(isinstance(name, bytes) for name in value[::2]):
        return {_text(name): _plain(of) for name, of in zip(value[::2], value[1::2], strict=True)}
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return _text(value) if isinstance(value, bytes) else value


def _text(raw: Any) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
