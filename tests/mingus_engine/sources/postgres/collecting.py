"""Takes a whole backup into memory, as the pipeline would, and makes clusters of what came."""

import dataclasses
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mingus_engine import lsn as lsns
from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.settings import PostgresConnection, Secret, SourceSettings
from mingus_engine.sources.base import FileKind, Finished, Item, SourceFile, TimelineHistory
from mingus_engine.sources.postgres import open_backup
from mingus_engine.sources.postgres.backup import PostgresBackup
from tests.support.directories import make_directory
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user

TRANSPORTS = ("local", "replication", "sql")


def connection(
    cluster: PgCluster, user: str = "postgres", *, password: str | None = None, tcp: bool = False, **options: Any
) -> PostgresConnection:
    """By socket without a password, or by TCP with the role's (or another) password."""
    if not tcp:
        host, secret = str(cluster.socket_directory), None
    else:
        known = cluster.password if user == "postgres" else cluster.passwords.get(user)
        host, secret = "127.0.0.1", Secret(password or known or "")
    return PostgresConnection(
        host=host, port=cluster.port, user=user, dbname="postgres", sslmode="disable", password=secret, **options
    )


def source(cluster: PgCluster, transport: str, **options: Any) -> SourceSettings:
    """Settings of a source on a cluster; *options* replace fields."""
    settings = SourceSettings(id="s", transport=transport, connection=connection(cluster))  # type: ignore[arg-type]
    return dataclasses.replace(settings, **options)


@dataclass
class Collected:
    """What a backup gave. ``wal`` begins at ``wal_start``."""

    start_lsn: int
    stop_lsn: int
    timeline: int
    segment_bytes: int
    entries: dict[bytes, SourceFile]
    contents: dict[bytes, bytes]
    vanished: set[bytes]
    finished: Finished
    wal_start: int
    wal: bytes
    histories: list[TimelineHistory] = field(default_factory=list)

    def check(self, name: str) -> Any:
        """The check of that name."""
        (found,) = [c for c in self.finished.checks if c.name == name]
        return found

    def segments(self) -> dict[str, bytes]:
        """WAL files by name; the last one may be short."""
        size = self.segment_bytes
        return {
            lsns.segment_name(self.timeline, self.wal_start + i, size): self.wal[i : i + size]
            for i in range(0, len(self.wal), size)
        }

    def write(self, directory: Path) -> Path:
        """Lay it out as a data directory that can start; tablespaces go beside it. Returns the directory."""
        make_directory(directory, mode=0o700)
        tablespaces = {path: directory.parent / f"{directory.name}-{path.rpartition(b'/')[2].decode()}"
                       for path, entry in self.entries.items() if entry.kind == FileKind.SYMLINK}  # fmt: skip
        for path, place in tablespaces.items():
            make_directory(place, owner=unprivileged_user(), mode=0o700)
            (directory / "pg_tblspc").mkdir(mode=0o700, exist_ok=True)
            (directory / path.decode()).symlink_to(place)
        for path, entry in sorted(self.entries.items()):
            if path.startswith(b"mingus-") or path in self.vanished or entry.kind == FileKind.SYMLINK:
                continue
            target = directory / os.fsdecode(path)
            if entry.kind == FileKind.DIRECTORY:
                target.mkdir(mode=0o700, exist_ok=True)
                continue
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            content = self.contents[path]
            if path == b"tablespace_map":
                oids = [p.rpartition(b"/")[2] for p in tablespaces]
                content = b"".join(b"%s %s\n" % (o, os.fsencode(tablespaces[b"pg_tblspc/" + o])) for o in oids)
            target.write_bytes(content)
        for name, data in self.segments().items():
            (directory / "pg_wal" / name).write_bytes(data.ljust(self.segment_bytes, b"\0"))
        for place in tablespaces.values():
            for folder, names, files in os.walk(place):
                for name in (*names, *files):
                    if (user := unprivileged_user()) is not None:
                        os.chown(Path(folder, name), user.uid, user.gid)
        return directory


class WalThread:
    """Takes in a backup's WAL in a thread of its own; ``join`` raises what the thread raised."""

    def __init__(self, backup: PostgresBackup) -> None:
        self.start = -1
        self.data = bytearray()
        self.histories: list[TimelineHistory] = []
        self.error: BaseException | None = None
        self._backup = backup
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            for piece in self._backup.wal():
                if isinstance(piece, TimelineHistory):
                    self.histories.append(piece)
                    continue
                if self.start < 0:
                    self.start = piece.start
                assert piece.start == self.start + len(self.data), "pieces come in order, without gaps"
                assert piece.timeline == self._backup.timeline
                self.data += piece.data
        except BaseException as error:  # noqa: BLE001 - join raises it
            self.error = error

    def join(self, timeout_s: float = 60) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "the WAL thread ends by itself"
        if self.error is not None:
            raise self.error


def collect(
    settings: SourceSettings,
    *,
    before_item: Callable[[int, Item], None] = lambda number, item: None,
    before_finish: Callable[[], None] = lambda: None,
    cancel: threading.Event | None = None,
    label: str = "test",
) -> Collected:
    """Take a backup; *before_item* is called before an item is read."""
    with open_backup(settings, label=label, cancel=cancel or threading.Event()) as backup:
        wal = WalThread(backup)
        try:
            entries, parts, vanished = {}, {}, set()
            scratch = memoryview(bytearray(SLAB_BYTES))
            for number, item in enumerate(backup.items()):
                before_item(number, item)
                data = item.read(scratch)
                path = item.file.path
                if item.offset == 0:
                    assert path not in entries, f"{path!r} comes twice"
                entries[path] = item.file
                if data is None:
                    vanished.add(path)
                else:
                    parts.setdefault(path, []).append(bytes(data))
                item.release()
            before_finish()
            finished = backup.finish()
            wal.join()
        finally:
            backup.close()
        for entry, content in finished.files:
            entries[entry.path], parts[entry.path] = entry, [content]
        return Collected(
            start_lsn=backup.start_lsn,
            stop_lsn=backup.stop_lsn,
            timeline=backup.timeline,
            segment_bytes=backup.wal_segment_bytes,
            entries=entries,
            contents={path: b"".join(p) for path, p in parts.items() if entries[path].kind == FileKind.FILE},
            vanished=vanished,
            finished=finished,
            wal_start=wal.start,
            wal=bytes(wal.data),
            histories=wal.histories,
        )


def pg_basebackup(cluster: PgCluster, directory: Path) -> dict[bytes, bytes | None]:
    """An independent backup by PostgreSQL's own program: path → content, ``None`` for directories and links."""
    make_directory(directory, owner=unprivileged_user())
    mapping = []
    for oid, location in cluster.rows("select oid, pg_tablespace_location(oid) from pg_tablespace where oid >= 16384"):
        mapping += ["--tablespace-mapping", f"{location}={directory / str(oid)}"]
    data = directory / "data"
    cluster.tool("pg_basebackup", "-D", data, "-X", "none", "-c", "fast", "--no-sync", "-d", cluster.dsn(), *mapping)
    found: dict[bytes, bytes | None] = {}
    for folder, names, files in os.walk(data, followlinks=True):
        for name in names:
            found[bytes((Path(folder) / name).relative_to(data))] = None
        for name in files:
            found[bytes((Path(folder) / name).relative_to(data))] = (Path(folder) / name).read_bytes()
    shutil.rmtree(directory)
    return found


@contextmanager
def started(collected: Collected, cluster: PgCluster, directory: Path) -> Iterator[PgCluster]:
    """A server on a restored backup, after recovery."""
    restored = PgCluster.of_directory(cluster.version, collected.write(directory), arguments=["-c", "autovacuum=off"])
    with restored:
        yield restored.start()


def leftovers(cluster: PgCluster) -> list[Any]:
    """Slots, senders and sessions of ours on a server."""
    return cluster.rows(
        "select 'slot', slot_name::text from pg_replication_slots"
        " union all select 'sender', pid::text from pg_stat_replication"
        " union all select 'session', pid::text from pg_stat_activity where application_name = 'mingus'"
    )
