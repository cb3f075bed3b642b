"""What a snapshot of Redis holds: its servers (one, or the shards of a cluster), their files and configuration.

The paths are those of docs/FORMAT.md; a snapshot is input like any other, so what does not fit is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mingus_engine import bounds
from mingus_engine.codec import plainjson
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import Damaged, SettingsError
from mingus_engine.redis import aof, versions
from mingus_engine.redis.aof import AofManifest
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.sources.base import FileKind
from mingus_engine.targets.redis.layout import SNAPSHOT_RDB, Names

CONFIGURATION, REDIS_CONF = b"mingus-config/config.json", b"mingus-config/redis.conf"
USERS, NODES = b"mingus-config/users.acl", b"nodes.conf"
_SHARD = re.compile(rb"(shard-\d{1,5}/)")
_SMALL_MAX_BYTES = 4 * bounds.MIB
_HEAD_BYTES = 64


@dataclass(frozen=True)
class StoredServer:
    """One server of a snapshot.

    :param prefix: of its paths: ``b""``, or ``b"shard-<n>/"``. :param folder: of its append-only file, with a slash.
    :param manifest: of its append-only file; ``None``: the snapshot has an RDB.
    """

    prefix: bytes
    names: Names
    configuration: Mapping[str, Any]
    folder: bytes = b""
    manifest: AofManifest | None = None

    @property
    def shard(self) -> str:
        """``""`` or ``shard-<n>``."""
        return self.prefix.decode().rstrip("/")

    @property
    def base(self) -> bytes:
        """Path of the RDB that a start begins with; empty: the base of the append-only file is none."""
        if self.manifest is None:
            return self.prefix + SNAPSHOT_RDB
        base = next((file.name for file in self.manifest.of_kind(aof.BASE)), "")
        return self.folder + base.encode() if base.endswith(".rdb") else b""

    @property
    def commands(self) -> list[bytes]:
        """Paths of the files of commands, in order; the base among them when it is no RDB."""
        files = self.manifest.files if self.manifest else ()
        return [self.folder + f.name.encode() for f in files if self.folder + f.name.encode() != self.base]


class Contents:
    """See the module; reads the list of files once.

    :raises Damaged: there is nothing to restore, or it is not well-formed.
    """

    def __init__(self, reader: SnapshotReader) -> None:
        self._reader = reader
        self._facts = reader.body.facts
        self.files: dict[bytes, TabledEntry] = {
            tabled.entry.path: tabled for tabled in reader.files() if tabled.entry.kind == FileKind.FILE
        }
        self._what = f"snapshot {reader.manifest.ulid}"
        prefixes = sorted({m[1] if (m := _SHARD.match(path)) else b"" for path in self.files}, key=_number)
        found = [self._server(prefix) for prefix in prefixes]
        self.servers = [server for server in found if server is not None]
        if not self.servers:
            raise Damaged(f"{self._what} has neither an RDB nor an append-only file")
        if len(self.servers) > 1 and not all(server.prefix for server in self.servers):
            raise Damaged(f"{self._what} has files of one server and of shards")

    def read(self, path: bytes) -> bytes | None:
        """A small file; ``None``: there is none.

        :raises Damaged: it is not small, or not what was stored.
        """
        tabled = self.files.get(path)
        if tabled is None:
            return None
        if tabled.entry.size > _SMALL_MAX_BYTES:
            raise Damaged(f"{self._what}: {path.decode(errors='replace')} has {tabled.entry.size} bytes")
        return b"".join(self.content(path))

    def content(self, path: bytes) -> Iterator[bytes]:
        """A file's bytes in order; holes as zeros.

        :raises Damaged: there is none, or it is not what was stored.
        """
        tabled = self.files.get(path)
        if tabled is None:
            raise Damaged(f"{self._what}: {path.decode(errors='replace')} is missing")
        for _, data, length in self._reader.data(tabled):
            if data is not None:
                yield bytes(data)
                continue
            for at in range(0, length, bounds.MIB):
                yield bytes(min(bounds.MIB, length - at))

    def rdb_version(self, server: StoredServer) -> int:
        """Of the RDB that *server* begins with, by its first bytes; 0: it begins with none.

        :raises Damaged: they are missing or no RDB.
        """
        if not server.base:
            return 0
        head = b""
        for piece in self.content(server.base):
            head += piece[:_HEAD_BYTES]
            if len(head) >= _HEAD_BYTES:
                break
        if not (version := versions.rdb_version(head)):
            raise Damaged(f"{self._what}: {server.base.decode(errors='replace')} does not begin as an RDB")
        return version

    def _server(self, prefix: bytes) -> StoredServer | None:
        raw = self.read(prefix + CONFIGURATION)
        configuration = plainjson.decode(raw, f"{self._what}: {CONFIGURATION.decode()}") if raw else {}
        configuration |= shard_facts(self._facts, prefix.decode().rstrip("/")).get("settings") or {}
        names = Names.of(configuration)
        if prefix + SNAPSHOT_RDB in self.files:
            return StoredServer(prefix, names, configuration)
        suffix = aof.MANIFEST_SUFFIX.encode()
        manifests = [
            path for path in self.files
            if path.startswith(prefix) and path.endswith(suffix) and path.count(b"/") == prefix.count(b"/") + 1
        ]  # fmt: skip
        if not manifests:
            return None
        if len(manifests) > 1:
            raise Damaged(f"{self._what} has {len(manifests)} manifests of an append-only file")
        folder, _, name = manifests[0].rpartition(b"/")
        manifest = aof.parse(self.read(manifests[0]) or b"", f"{self._what}: {manifests[0].decode(errors='replace')}")
        for file in manifest.files:
            if folder + b"/" + file.name.encode() not in self.files:
                raise Damaged(f"{self._what}: the append-only file lacks {file.name}, which its manifest names")
        # The names in the snapshot are those of the files; a configuration may have been changed meanwhile.
        actual = Names(
            names.dbfilename, folder.rpartition(b"/")[2].decode(), name.removesuffix(suffix).decode(errors="replace")
        )
        return StoredServer(prefix, actual, configuration, folder + b"/", manifest)


def shard_named(names: Sequence[str], wanted: str) -> str:
    """The one of *names* that *wanted* (``shard-3``, or ``3``) means.

    :raises SettingsError: none.
    """
    name = f"shard-{wanted}" if wanted.isdecimal() else wanted
    if not name or name not in names:
        known = ", ".join(name for name in names if name) or "none: it is no cluster"
        raise SettingsError(f"no shard {wanted!r} in this snapshot; it has: {known}")
    return name


def shard_facts(facts: Mapping[str, Any], shard: str) -> Mapping[str, Any]:
    """What was recorded of one server; empty: nothing."""
    return next((dict(found) for found in facts.get("shards", ()) if found.get("name", "") == shard), {})


def _number(prefix: bytes) -> int:
    return int(prefix[6:-1]) if prefix else -1
