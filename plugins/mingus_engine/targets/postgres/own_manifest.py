"""Our own comparison of a data directory with its ``backup_manifest``, for where ``pg_verifybackup`` is not installed.

Like the program: every listed file is there with its size and checksum, and nothing else is there. Unlike it: the WAL
is not parsed; the segments that the backup needs must be there and be whole.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.checks import Check
from mingus_engine.errors import Damaged
from mingus_engine.postgres import backup_manifest
from mingus_engine.postgres.backup_manifest import ManifestFile, WalRange
from mingus_engine.targets import checksum
from mingus_engine.targets.paths import shown, split
from mingus_engine.targets.postgres import layout

# What pg_verifybackup ignores: not part of the backup, or meant to be changed by who restores it.
IGNORED = frozenset({layout.MANIFEST, layout.AUTO, b"recovery.signal", b"standby.signal"})
_PROBLEMS_MAX = 20


def check(data_directory: Path, checkpoint: Callable[[], None] = lambda: None) -> Check:
    """Compare; the first problems are in the detail."""
    problems: list[str] = []
    listed: set[bytes] = set()
    compared = 0

    def compare(file: ManifestFile) -> None:
        nonlocal compared
        listed.add(file.path)
        if file.path not in IGNORED:
            problem = _compare(data_directory, file, checkpoint)
            compared += file.size
            if problem and len(problems) < _PROBLEMS_MAX:
                problems.append(f"{shown(file.path)}: {problem}")

    try:
        with (data_directory / layout.MANIFEST.decode()).open("rb") as stream:
            found = backup_manifest.scan(stream, compare)
    except FileNotFoundError:
        return Check("manifest", False, "backup_manifest is missing")
    except Damaged as error:
        return Check("manifest", False, error.message)
    for path in _files(data_directory):
        if path not in listed and path not in IGNORED and len(problems) < _PROBLEMS_MAX:
            problems.append(f"{shown(path)}: on disk but not in the manifest")
    for needed in found.wal_ranges:
        problems += _missing_wal(data_directory / "pg_wal", needed)[: _PROBLEMS_MAX - len(problems)]
    detail = "; ".join(problems) if problems else f"{len(listed)} files have their sizes and checksums"
    return Check("manifest", not problems, detail, {"files": len(listed), "bytes": compared})


def _compare(data_directory: Path, file: ManifestFile, checkpoint: Callable[[], None]) -> str:
    try:
        split(file.path)
        descriptor = os.open(os.path.join(os.fsencode(data_directory), file.path), os.O_RDONLY | os.O_NOFOLLOW)  # noqa: PTH118
    except Damaged as error:
        return error.message
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_size != file.size:
            return f"has {status.st_size} bytes, not {file.size}"
        if file.crc32c is None:
            return "" if not file.algorithm else f"has a {file.algorithm} checksum, which is not read here"
        total, buffer = 0, memoryview(bytearray(min(SLAB_BYTES, max(1, file.size))))
        while count := stream.readinto(buffer):
            checkpoint()
            total = checksum.append(total, buffer[:count])
    return "" if total == file.crc32c else f"has CRC32C {total:08x}, not {file.crc32c:08x}"


def _files(data_directory: Path) -> Iterator[bytes]:
    root = os.fsencode(data_directory)
    for folder, names, files in os.walk(root, followlinks=False):
        here = os.path.relpath(folder, root)
        if here == b".":
            here = b""
            names.remove(b"pg_wal") if b"pg_wal" in names else None
        if here == layout.TABLESPACES:
            for name in names:
                yield from (b"/".join((here, name, path)) for path in _below(os.path.join(folder, name)))  # noqa: PTH118
            names.clear()
            continue
        yield from (here + b"/" + name if here else name for name in files)


def _below(root: bytes) -> Iterator[bytes]:
    for folder, _, files in os.walk(root):
        here = os.path.relpath(folder, root)
        yield from (name if here == b"." else here + b"/" + name for name in files)


def _missing_wal(wal: Path, needed: WalRange) -> list[str]:
    sizes = {path.name: path.stat().st_size for path in wal.iterdir() if len(path.name) == 24}
    segment = max(sizes.values(), default=0)
    if segment < 1 << 20 or segment & (segment - 1):
        return ["pg_wal holds no whole segment"]
    problems = []
    per_id = (1 << 32) // segment
    for number in range(needed.start // segment, max(needed.start, needed.end - 1) // segment + 1):
        name = f"{needed.timeline:08X}{number // per_id:08X}{number % per_id:08X}"
        if sizes.get(name) != segment:
            problems.append(f"pg_wal/{name}: {'is cut' if name in sizes else 'is missing'}")
        if len(problems) >= _PROBLEMS_MAX:
            break
    return problems
