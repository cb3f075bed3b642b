"""Which files of a snapshot a server's data directory gets, and under which names.

What a server finds decides with how much it starts, and it says nothing when it finds nothing: with ``appendonly yes``
it never looks at an RDB beside, with ``appendonly no`` never at an append-only file, and by another ``dbfilename`` or
``appenddirname`` at neither (TRAPS "Redis" 1). So names are those of the server that was backed up, and the form is
chosen by how it was configured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingus_engine.errors import Damaged
from mingus_engine.redis import aof
from mingus_engine.redis.aof import AofManifest

RDB, AOF = "rdb", "aof"
SNAPSHOT_RDB = b"dump.rdb"
_NAME_MAX_BYTES = 200


@dataclass(frozen=True)
class Names:
    """What a server calls its files, by its configuration."""

    dbfilename: str = "dump.rdb"
    appenddirname: str = aof.DEFAULT_DIRECTORY
    appendfilename: str = aof.DEFAULT_FILENAME

    @classmethod
    def of(cls, configuration: Mapping[str, Any]) -> Names:
        """:raises Damaged: a name in *configuration* would leave the directory."""
        default = cls()
        given = {key: str(configuration.get(key) or value) for key, value in default.__dict__.items()}
        for key, name in given.items():
            if "/" in name or "\0" in name or name in {".", ".."} or len(name.encode()) > _NAME_MAX_BYTES:
                raise Damaged(f"the snapshot's {key} {name!r} is not the name of a file in a directory")
        return cls(**given)


@dataclass(frozen=True)
class ServerFiles:
    """One server's files in the target; paths are below its root.

    :param below: ``b""``, or ``b"shard-<n>/"``. :param form: ``rdb`` or ``aof``.
    :param files: path in the snapshot → path in the target. :param base: of these the RDB (in the target), empty: none.
    :param manifest: of the append-only file. :param increment: name of its file that is not in the snapshot: it is
        written from commands, or empty.
    """

    below: bytes
    form: str
    names: Names
    files: Mapping[bytes, bytes]
    base: bytes = b""
    manifest: AofManifest | None = None
    increment: str = ""

    @property
    def rdb(self) -> bytes:
        """Path of ``dbfilename``."""
        return self.below + self.names.dbfilename.encode()

    @property
    def folder(self) -> bytes:
        """Path of ``appenddirname``, with a slash."""
        return self.below + self.names.appenddirname.encode() + b"/"

    @property
    def manifest_path(self) -> bytes:
        """Path of the manifest of the append-only file."""
        return self.folder + self.names.appendfilename.encode() + aof.MANIFEST_SUFFIX.encode()


def of_rdb(prefix: bytes, below: bytes, names: Names, form: str) -> ServerFiles:
    """A snapshot's RDB as *form*: itself, or as the base of an append-only file without commands.

    :param prefix: of the server's files in the snapshot: ``b""`` or ``b"shard-<n>/"``.
    """
    if form == RDB:
        base = below + names.dbfilename.encode()
        return ServerFiles(below, RDB, names, {prefix + SNAPSHOT_RDB: base}, base)
    return of_commands(prefix + SNAPSHOT_RDB, below, names, aof.restored(names.appendfilename))


def of_aof(folder: bytes, below: bytes, names: Names, manifest: AofManifest) -> ServerFiles:
    """The append-only file of a snapshot, as it is.

    :param folder: its directory in the snapshot, with a slash.
    :raises Damaged: a server that is started on it would not have all data.
    """
    if trouble := manifest.trouble():
        raise Damaged(f"the append-only file's manifest {trouble}")
    target = below + names.appenddirname.encode() + b"/"
    files = {folder + file.name.encode(): target + file.name.encode() for file in manifest.files}
    return ServerFiles(below, AOF, names, files, _rdb_base(target, manifest), manifest)


def of_commands(base: bytes, below: bytes, names: Names, manifest: AofManifest) -> ServerFiles:
    """A base file of a snapshot, and commands since, as an append-only file.

    :param base: path of the base file in the snapshot. :param manifest: of the restored file: one base, one increment.
    """
    target = below + names.appenddirname.encode() + b"/"
    (base_file,), (increment,) = (manifest.of_kind(kind) for kind in (aof.BASE, aof.INCREMENT))
    files = {base: target + base_file.name.encode()}
    return ServerFiles(below, AOF, names, files, _rdb_base(target, manifest), manifest, increment.name)


def _rdb_base(target: bytes, manifest: AofManifest) -> bytes:
    """Path of the base file, where it is an RDB (``aof-use-rdb-preamble``)."""
    (base,) = manifest.of_kind(aof.BASE)
    return target + base.name.encode() if base.name.endswith(".rdb") else b""
