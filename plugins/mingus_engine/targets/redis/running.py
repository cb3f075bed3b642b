"""A running Redis or Valkey, or a cluster of them, that keys are restored into: what it is, and where each key goes.

Nothing is written here but functions; :mod:`.writer` writes the keys over the pipelines that this opens. A key's place
in a cluster is asked once and again when a node says that it has moved.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import hiredis
import redis
from redis.crc import key_slot

from mingus_engine.errors import (
    Cancelled,
    SourceDenied,
    SourceError,
    SourceUnreachable,
    TargetError,
    TargetNotEmpty,
    TargetUnreachable,
)  # fmt: skip
from mingus_engine.redis import client, versions
from mingus_engine.redis.link import Link, command_bytes
from mingus_engine.redis.pipeline import Pipeline
from mingus_engine.settings import RedisConnection

_LIBRARY = re.compile(rb"#!\S+[^\n]*?\bname=(\w+)")
_PASSING = ("LOADING", "BUSY ", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN")
_HINTS = {
    "OOM": "raise maxmemory or free memory there, then complete it by --conflict skip",
    "READONLY": "name the primary, not a replica",
    "MISCONF": "its last save failed: look at the server's log and disk",
    "NOPERM": "the user needs RESTORE, EXISTS, SELECT, INFO and CLUSTER SLOTS on these keys",
    "ERR unknown command": "the command was renamed or taken away there",
}


@dataclass
class Node:
    """One server and the pipeline to it. *database* is the one that the pipeline is in."""

    conn: RedisConnection
    pipeline: Pipeline
    database: int = 0


@dataclass(frozen=True)
class ServerFacts:
    """What one server says of itself. :param keys: per database how many keys."""

    address: str
    engine: str
    version: str
    role: str
    loading: bool
    cluster: bool
    modules: frozenset[str]
    keys: dict[int, int] = field(default_factory=dict)
    evicted: int = 0
    maxmemory: int = 0

    @property
    def shown(self) -> str:
        """``Redis 7.0.15``."""
        return versions.shown(self.engine, self.version)


class RunningRedis:
    """A context manager; used by one thread.

    :param conn: of the server, or with ``cluster`` of any node. :param name: what people call it.
    :param cancel: ends whatever waits.
    :raises TargetError: it cannot be reached, is a replica, or loads its data.
    :ivar facts: of every primary.
    """

    def __init__(self, conn: RedisConnection, name: str, cancel: threading.Event) -> None:
        self.conn, self.name, self._cancel = conn, name, cancel
        self._stack = ExitStack()
        self._nodes: dict[tuple[str, int], Node] = {}
        self._slots: list[Node] = []
        self.facts: list[ServerFacts] = []
        try:
            with self.translated("connecting"):
                self._open()
        except BaseException:
            self.close()
            raise

    def __str__(self) -> str:
        where = self.conn.socket or f"{self.conn.host}:{self.conn.port}"
        return self.name if self.name == where else f"{self.name} ({where})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every connection. Idempotent."""
        self._stack.close()

    # -- what it is ---------------------------------------------------------------------------------------------------

    @property
    def cluster(self) -> bool:
        """Whether keys are spread over several servers; there is only database 0."""
        return bool(self._slots)

    def keys(self, database: int) -> int:
        """How many keys the database has, of all nodes, as of when they were asked."""
        return sum(facts.keys.get(database, 0) for facts in self.facts)

    def now_ms(self) -> int:
        """What time it is there, ms since 1970."""
        return int((time.time() + self._ahead_s) * 1000)

    def require_reads(self, rdb_version: int, origin: str) -> None:
        """:param origin: who wrote it, as text. :raises TargetError: a server is too old for an RDB of that version."""
        for facts in self.facts:
            if not versions.can_read(facts.engine, facts.version, rdb_version):
                raise TargetError(
                    f"RDB {rdb_version}{f' ({origin})' if origin else ''} → {self}: {facts.shown} reads RDB up to"
                    f" {versions.reads(facts.engine, facts.version)}",
                    hint="restore into a server of the same or a newer version of the same engine",
                )

    def lacks_module(self, name: str) -> bool:
        """Whether a server has not loaded the module whose values are of type *name* (nine letters)."""
        # A module's data type is not its name; only a trial tells. Without any module there is none.
        return bool(name) and any(not facts.modules for facts in self.facts)

    def measure(self) -> list[ServerFacts]:
        """Ask every primary again what it is."""
        with self.translated("reading INFO"):
            found = []
            for node in self._nodes.values():
                with client.connected(node.conn) as connected:
                    found.append(_facts(node.conn, connected))
        return found

    # -- where keys go ------------------------------------------------------------------------------------------------

    def node_of(self, name: bytes) -> Node:
        """Who holds the key *name*."""
        return self._slots[key_slot(name)] if self._slots else next(iter(self._nodes.values()))

    @property
    def nodes(self) -> list[Node]:
        """Every primary."""
        return list(self._nodes.values())

    def node_at(self, host: str, port: int) -> Node:
        """The node of a cluster at an address, connected now if it is new. :raises SourceError:"""
        found = self._nodes.get((host, port))
        if found is None:
            conn = client.node_of(self.conn, host, port)
            found = self._nodes[host, port] = Node(conn, self._pipeline(conn))
        return found

    def moved(self, slot: int, node: Node) -> None:
        """From now on *node* holds the keys of *slot*."""
        self._slots[slot] = node

    def wait(self) -> None:
        """A moment, for a cluster that is changing. :raises Cancelled:"""
        if self._cancel.wait(0.2):
            raise Cancelled("the job was cancelled")

    def select(self, node: Node, database: int) -> None:
        """Go to *database* at *node*.

        :raises TargetError: there is none of that number.
        """
        if node.database != database:
            answer = node.pipeline.ask(command_bytes("SELECT", database))
            if isinstance(answer, hiredis.ReplyError):
                raise TargetError(f"{self}: database {database}: {answer}", hint="`databases` of its configuration")
            node.database = database

    # -- functions ----------------------------------------------------------------------------------------------------

    def load_function(self, code: bytes, conflict: str) -> bool:
        """Load a library of functions at every primary; whether any of them took it.

        :param conflict: ``fail``, ``skip`` or ``replace`` a library of that name.
        :raises TargetNotEmpty: there is one of that name, and *conflict* is ``fail``. :raises TargetError:
        """
        name = library_name(code)
        taken = False
        for node in self.nodes:
            there = node.pipeline.ask(command_bytes("FUNCTION", "LIST", "LIBRARYNAME", name))
            if isinstance(there, list) and there and conflict != "replace":
                if conflict == "fail":
                    raise TargetNotEmpty(
                        f"{self} has a library of functions named {name.decode('utf-8', 'replace')!r}",
                        hint="--conflict skip keeps it, --conflict replace replaces it",
                    )
                continue
            answer = node.pipeline.ask(command_bytes("FUNCTION", "LOAD", "REPLACE", code))
            if isinstance(answer, hiredis.ReplyError):
                raise self.refused(str(answer), f"loading functions {name.decode('utf-8', 'replace')!r}")
            taken = True
        return taken

    # -- errors -------------------------------------------------------------------------------------------------------

    @contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Errors of connections inside the block as errors of a target."""
        try:
            yield
        except SourceUnreachable as error:
            raise TargetUnreachable(f"destination {self.name}: {doing}: {error.message}") from None
        except SourceDenied as error:
            raise TargetError(
                f"destination {self.name}: {doing}: {error.message}",
                hint="check user and password of the destination, and what the user may do",
            ) from None
        except SourceError as error:
            raise TargetError(f"destination {self.name}: {doing}: {error.message}", hint=error.hint) from None
        except (redis.RedisError, OSError) as error:
            raise TargetError(
                f"destination {self.name}: {doing}: {client.client_error(self.conn, error, doing).message}"
            ) from None

    def refused(self, text: str, doing: str) -> TargetError:
        """Our error for an error of the server."""
        if text.startswith(_PASSING):
            return TargetUnreachable(f"{self}: {doing}: {text}")
        hint = next((hint for begin, hint in _HINTS.items() if text.startswith(begin)), "")
        return TargetError(f"{self}: {doing}: {text}", hint=hint)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        with client.connected(self.conn) as connected:
            first = _facts(self.conn, connected)
            seconds, micros = client.ask(connected, "TIME")
            self._ahead_s = int(seconds) + int(micros) / 1e6 - time.time()
            if first.cluster:
                self._open_cluster(client.ask(connected, "CLUSTER", "SLOTS"))
        if not first.cluster:
            self._nodes["", 0] = Node(self.conn, self._pipeline(self.conn))
            self.facts = [first]
        for facts in self.facts:
            if facts.loading:
                raise TargetUnreachable(f"{self}: {facts.address} is loading its data")
            if facts.role != "master":
                raise TargetError(f"{self}: {facts.address} is a replica", hint=_HINTS["READONLY"])

    def _open_cluster(self, answer: Any) -> None:
        """:param answer: of CLUSTER SLOTS: first slot, last slot, the primary's address, port and id, replicas."""
        slots: list[Node | None] = [None] * 16384
        for begin, end, primary, *_ in answer:
            host = bytes(primary[0] or b"").decode() or self.conn.host
            node = self.node_at(host, int(primary[1]))
            slots[int(begin) : int(end) + 1] = [node] * (int(end) + 1 - int(begin))
        if without := slots.count(None):
            raise TargetError(
                f"{self}: {without} slots of the cluster belong to no node", hint="`redis-cli --cluster check`"
            )
        self._slots = [node for node in slots if node is not None]
        self.facts = self.measure()

    def _pipeline(self, conn: RedisConnection) -> Pipeline:
        return Pipeline(self._stack.enter_context(Link(conn, self._cancel)))


def library_name(code: bytes) -> bytes:
    """The name in the first line of a library of functions.

    :raises TargetError: there is none.
    """
    found = _LIBRARY.match(code)
    if found is None:
        raise TargetError("a library of functions in the snapshot does not begin with its name")
    return found[1]


def _facts(conn: RedisConnection, connected: redis.Redis) -> ServerFacts:
    info: dict[str, Any] = connected.info("everything")
    modules = info.get("modules") or []
    return ServerFacts(
        address=conn.socket or f"{conn.host}:{conn.port}",
        engine="valkey" if info.get("server_name") == "valkey" else "redis",
        version=str(info.get("valkey_version") or info["redis_version"]),
        role=str(info["role"]),
        loading=bool(info["loading"]),
        cluster=bool(info.get("cluster_enabled")),
        modules=frozenset(str(module.get("name")) for module in modules),
        keys={int(name[2:]): int(found["keys"]) for name, found in info.items() if re.fullmatch(r"db\d+", name)},
        evicted=int(info["evicted_keys"]),
        maxmemory=int(info["maxmemory"]),
    )
