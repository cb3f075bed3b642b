"""The manifest of a multi-part append-only file (Redis 7 and later): which files it consists of, in which order.

One line per file, ``file NAME seq N type T``: *base* (``b``, a snapshot), *incremental* (``i``, commands since,
ascending by ``seq``), *history* (``h``, to be deleted). Source: ``aof.c`` of Redis 7.0 (``aofLoadManifestFromFile``)
and https://redis.io/docs/latest/operate/oss_and_stack/management/persistence/.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mingus_engine.errors import Damaged

MANIFEST_SUFFIX = ".manifest"
#: Names that a data directory is given by default.
DEFAULT_DIRECTORY, DEFAULT_FILENAME = "appendonlydir", "appendonly.aof"
BASE, INCREMENT, HISTORY = "b", "i", "h"
# Redis itself refuses longer lines.
_LINE_MAX_BYTES = 1024
_FILES_MAX = 10_000
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"|(\S+)')
_PLAIN_NAME = re.compile(r"[A-Za-z0-9._+@%-]+")


@dataclass(frozen=True)
class AofFile:
    """One file; ``kind`` is ``b``, ``i`` or ``h``."""

    name: str
    seq: int
    kind: str


@dataclass(frozen=True)
class AofManifest:
    """The files, in the manifest's order."""

    files: Sequence[AofFile]

    def of_kind(self, kind: str) -> list[AofFile]:
        """Its files of one kind."""
        return [file for file in self.files if file.kind == kind]

    def trouble(self) -> str:
        """Why a server that is started with these files would not have all data; empty = nothing.

        Without any base, or without an increment where one must be, a server starts with less than was there, and says
        nothing (TRAPS "Redis" 1).
        """
        base, increments = self.of_kind(BASE), self.of_kind(INCREMENT)
        if len(base) != 1:
            return f"names {len(base)} base files instead of one"
        if not increments:
            return "names no incremental file"
        if history := self.of_kind(HISTORY):
            return f"names {history[0].name} of type history: a rewrite is not finished"
        numbers = [file.seq for file in increments]
        if numbers != list(range(numbers[0], numbers[0] + len(numbers))):
            return f"an incremental file is missing: their numbers are {', '.join(map(str, numbers))}"
        return ""

    def encode(self) -> bytes:
        """As Redis writes it."""
        return "".join(f"file {_quoted(f.name)} seq {f.seq} type {f.kind}\n" for f in self.files).encode()


def parse(raw: bytes, what: str) -> AofManifest:
    """Read a manifest. *what* names it in errors.

    :raises Damaged: not well-formed, or a name that leaves the directory.
    """
    files: list[AofFile] = []
    lines = raw.split(b"\n")
    if lines.pop() or not lines:
        raise Damaged(f"{what}: {'ends within a line' if raw else 'is empty'}")
    for number, line in enumerate(lines, 1):
        if line.startswith(b"#"):
            continue
        where = f"{what} line {number}"
        if len(line) > _LINE_MAX_BYTES or len(files) >= _FILES_MAX:
            raise Damaged(f"{where}: too long")
        files.append(_file(line, where))
    if len({file.name for file in files}) != len(files):
        raise Damaged(f"{what}: names a file twice")
    return AofManifest(files)


def restored(filename: str = DEFAULT_FILENAME, base_suffix: str = ".rdb") -> AofManifest:
    """The manifest of a directory that a restore makes: one base and one incremental file."""
    return AofManifest([
        AofFile(f"{filename}.1.base{base_suffix}", 1, BASE),
        AofFile(f"{filename}.1.incr.aof", 1, INCREMENT),
    ])  # fmt: skip


def _file(line: bytes, where: str) -> AofFile:
    words = [quoted.decode("unicode_escape").encode("latin-1") if quoted else plain
             for quoted, plain in _QUOTED.findall(line)]  # fmt: skip
    # Newer servers add pairs (startoffset, endoffset); Redis skips what it does not know.
    values = dict(zip(words[::2], words[1::2], strict=False))
    try:
        name, seq, kind = values[b"file"].decode(), int(values[b"seq"]), values[b"type"].decode()
    except (KeyError, ValueError):
        raise Damaged(f"{where}: is not 'file NAME seq N type T'") from None
    if not name or "/" in name or "\0" in name or name in {".", ".."}:
        raise Damaged(f"{where}: {name!r} is not the name of a file in the directory")
    if kind not in {BASE, INCREMENT, HISTORY} or seq < 1 or len(words) % 2:
        raise Damaged(f"{where}: type {kind!r}, number {seq} are not known")
    return AofFile(name, seq, kind)


def _quoted(name: str) -> str:
    if _PLAIN_NAME.fullmatch(name):
        return name
    return '"' + "".join(c if 32 <= ord(c) < 127 and c not in '"\\' else _escaped(c) for c in name) + '"'


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode())
