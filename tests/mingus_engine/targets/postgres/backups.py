"""Real base backups as a restore sees them (entries, bytes, WAL), read back from pg_basebackup's tar files."""

import dataclasses
import tarfile
from dataclasses import dataclass
from pathlib import Path

from mingus_engine.postgres import backup_manifest, tablespace_map
from mingus_engine.postgres.backup_manifest import Manifest
from mingus_engine.targets.base import EntryKind, TargetFile
from mingus_engine.targets.postgres.target import PostgresTarget
from tests.support.directories import make_directory
from tests.support.postgres import PgCluster
from tests.support.processes import unprivileged_user

SLAB = 1 << 20
OPEN_TARGETS: list[PostgresTarget] = []


@dataclass(frozen=True)
class TakenBackup:
    version: int
    cluster_id: int
    entries: tuple[tuple[TargetFile, bytes], ...]
    wal: tuple[tuple[str, bytes], ...]
    manifest: Manifest

    @property
    def tablespaces(self):
        return {
            oid: Path(place.decode()) for oid, place in tablespace_map.parse(self.content(b"tablespace_map")).items()
        }

    @property
    def files(self):
        return {entry.path: content for entry, content in self.entries if entry.kind == EntryKind.FILE}

    def content(self, path):
        return self.files.get(path, b"")

    def without(self, *paths):
        return dataclasses.replace(self, entries=tuple(e for e in self.entries if e[0].path not in paths))

    def having(self, path, content):
        entry = TargetFile(path, size=len(content))
        return dataclasses.replace(self, entries=(*self.without(path).entries, (entry, content)))


def take(cluster: PgCluster, folder: Path) -> TakenBackup:
    make_directory(folder, owner=unprivileged_user())
    dsn = cluster.dsn()
    cluster.tool("pg_basebackup", "-D", folder / "b", "-F", "t", "-X", "stream", "-c", "fast", "--no-sync", "-d", dsn)
    entries = []
    for archive in sorted(folder.glob("b/[0-9]*.tar")):
        prefix = b"pg_tblspc/" + archive.stem.encode()
        entries.append((TargetFile(prefix, EntryKind.SYMLINK, target=b"/original"), b""))
        entries += _members(archive, prefix + b"/")
    entries += _members(folder / "b/base.tar", b"")
    wal = [(e.path.decode(), content) for e, content in _members(folder / "b/pg_wal.tar", b"") if b"/" not in e.path]
    manifest = backup_manifest.parse((folder / "b/backup_manifest").read_bytes())
    cluster_id = cluster.value("select system_identifier from pg_control_system()")
    return TakenBackup(cluster.version.major, cluster_id, tuple(entries), tuple(wal), manifest)


def _members(archive, prefix):
    with tarfile.open(archive) as tar:
        for member in tar:
            path = prefix + member.name.removeprefix("./").rstrip("/").encode()
            facts = {"mode": member.mode, "mtime_ns": int(member.mtime) * 1_000_000_000}
            if member.isfile():
                content = tar.extractfile(member).read()
                yield TargetFile(path, EntryKind.FILE, size=len(content), **facts), content
            elif member.isdir():
                if path.rstrip(b"/"):
                    yield TargetFile(path, EntryKind.DIRECTORY, **facts), b""
            elif not path.startswith(b"pg_tblspc/"):
                raise AssertionError(member)


def owner():
    user = unprivileged_user()
    return (user.uid, user.gid) if user else None


def target_for(backup, root, **options):
    options = {"tablespaces": {}, "durable": False, **options}
    made = PostgresTarget(root, version=backup.version, cluster_id=backup.cluster_id, owner=owner(), **options)
    OPEN_TARGETS.append(made)
    return made


def fill(target, backup):
    """Give all entries and the WAL to a prepared target; the CRC32C of each file."""
    sums = {}
    for entry, content in backup.entries:
        if entry.kind == EntryKind.DIRECTORY:
            target.make_directory(entry)
        elif entry.kind == EntryKind.SYMLINK:
            target.make_symlink(entry)
        else:
            writer = target.open_file(entry)
            for offset in range(0, len(content), SLAB):
                writer.write(offset, memoryview(content)[offset : offset + SLAB])
            sums[entry.path] = writer.close()
    target.write_wal(chunked(backup.wal))
    return sums


def chunked(files):
    for name, content in files:
        yield name, len(content), [content[at : at + SLAB] for at in range(0, len(content), SLAB)]


def restore(backup, root, **options):
    target = target_for(backup, root, **options)
    target.prepare(sum(e.size for e, _ in backup.entries))
    sums = fill(target, backup)
    target.finish(backup.manifest.wal_ranges)
    return target, sums


LEDGER = (
    "create table account (id int primary key, balance bigint not null)",
    "insert into account select g, 1000 from generate_series(1, 20000) g",
    "create table far_away tablespace far as select g from generate_series(1, 5000) g",
    "create index on far_away (g) tablespace far",
)
SUM = "select sum(balance) from account"


def everywhere(workspace, backup):
    """A place in the workspace for each tablespace."""
    return {oid: workspace / f"ts{oid}" for oid in backup.tablespaces}
