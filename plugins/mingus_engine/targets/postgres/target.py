"""A PostgreSQL data directory in the making."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from mingus_engine.errors import Damaged, SettingsError, TargetError
from mingus_engine.postgres import tablespace_map, wal_tablespaces
from mingus_engine.postgres.backup_manifest import WalRange
from mingus_engine.postgres.control_data import system_identifier
from mingus_engine.targets import checksum, places
from mingus_engine.targets.base import EntryKind, FileEntry, FileWriter, PresentFile, TargetFile
from mingus_engine.targets.directory import DirectoryTarget
from mingus_engine.targets.paths import shown, split, translated
from mingus_engine.targets.postgres import configuration, layout, present, wal
from mingus_engine.targets.postgres.held import DroppedWriter, HeldWriter
from mingus_engine.targets.postgres.record import Record


class PostgresTarget:
    """See ``targets.base``; built on a :class:`DirectoryTarget`.

    Until ``finish`` has done everything else there is no ``global/pg_control``, without which no server starts.
    Directories are 0700 and files 0600, whatever they were.

    :param version: major version of the cluster.
    :param cluster_id: its system identifier, compared with the control file's.
    :param tablespaces: where each tablespace of the snapshot goes, by OID: its original place or another one.
    :param owner: uid and gid of everything; ``None``: the process's.
    :param segment_bytes: size of a WAL segment.
    :param configuration_directory: where files from outside the data directory go; default: beside it, the name with
        ``.mingus-config`` appended. Made only when there are any.
    :param durable: ``finish`` returns when everything is on stable storage.
    :param delta: the directories may hold this cluster, at any age, or a restore that was interrupted; no server may
        run on it. What is equal stays, what is not of the snapshot is removed, and a failure leaves it to be mended.
    """

    def __init__(
        self,
        root: Path,
        *,
        version: int,
        cluster_id: int,
        tablespaces: Mapping[int, Path] = MappingProxyType({}),
        owner: tuple[int, int] | None = None,
        segment_bytes: int = 16 * 1024 * 1024,
        configuration_directory: Path | None = None,
        durable: bool = True,
        delta: bool = False,
    ) -> None:
        self.root = root.absolute()
        self._delta = delta
        self._version = version
        self._cluster_id = cluster_id
        self._segment_bytes = segment_bytes
        self._owner = owner
        self._tablespaces = {oid: path.absolute() for oid, path in tablespaces.items()}
        self._links = {layout.tablespace_link(oid): path for oid, path in self._tablespaces.items()}
        self._tree = DirectoryTarget(
            self.root,
            owner=owner,
            remap=self._links,
            modes=lambda entry: 0o700 if entry.kind == EntryKind.DIRECTORY else 0o600,
            keep_directory_times=False,
            durable=durable,
            delta=delta,
        )
        beside = configuration_directory or self.root.with_name(self.root.name + ".mingus-config")
        self._outside = DirectoryTarget(beside, owner=owner, durable=durable, delta=delta)
        self._outside_taken = False
        self._lock = threading.Lock()
        self._record: Record | None = None
        self._held: dict[bytes, tuple[FileEntry, bytes]] = {}
        self._in_place: set[bytes] = set()
        self._overrides: dict[str, str] = {}
        self._signal = ""
        self.left_out: list[bytes] = []

    @property
    def directories(self) -> tuple[Path, ...]:
        """The data directory, then those of the tablespaces."""
        return self._tree.directories

    @property
    def configuration_directory(self) -> Path | None:
        """Where configuration from outside the data directory was put, ``None`` when there was none."""
        return self._outside.root if self._outside_taken else None

    def prepare(self, needed_bytes: Mapping[Path, int] | int = 0, needed_files: int = 0) -> None:
        """Take the directories and make the tablespaces' links; see :meth:`DirectoryTarget.prepare`.

        :param needed_bytes: by directory (:attr:`directories`), WAL included; or of all, in the root.
        :raises TargetError: as there; nothing was written.
        """
        places.require_apart([*self._tree.directories, self._outside.root])
        places.inspect(self._outside.root, self._owner, empty=not self._delta)
        if self._delta:
            present.inspect(self.root, self._tablespaces, self._cluster_id)
        self._tree.prepare(needed_bytes, needed_files)
        try:
            if self._delta:
                # From here on no server starts on it; old log would be replayed over the restored pages.
                for name in (layout.CONTROL, b"pg_wal"):
                    self._tree.clear(name)
                self._tree.settle()
            for link in self._links:
                self._tree.make_symlink(TargetFile(link, EntryKind.SYMLINK))
            for name in layout.wal_directories(self._version):
                self._tree.make_directory(TargetFile(name, EntryKind.DIRECTORY))
            self._record = Record(self._tree.create(layout.MANIFEST), self._version, self._cluster_id)
        except BaseException:
            self.abandon()
            raise

    def make_directory(self, entry: FileEntry) -> None:
        """Make a directory; see ``targets.base``."""
        parts = split(entry.path)
        if parts[0] == layout.OUTSIDE:
            if len(parts) > 1:  # the prefix itself is the directory beside
                self._beside().make_directory(layout.below_outside(entry))
            return
        if entry.path in self._links or parts[0] == layout.ORIGIN:
            return
        if len(parts) == 2 and parts[0] == layout.TABLESPACES:
            # A tablespace "in place" (a developer's option of PostgreSQL) is a plain directory.
            with self._lock:
                self._in_place.add(parts[1])
        self._require_known_tablespace(parts)
        self._tree.make_directory(entry)

    def make_symlink(self, entry: FileEntry) -> None:
        """Only the links of declared tablespaces exist in a data directory, and ``prepare`` made them.

        A ``pg_wal`` that was a link becomes a directory.

        :raises Damaged: any other link.
        """
        parts = split(entry.path)
        if parts[0] == layout.OUTSIDE:
            self._beside().make_symlink(layout.below_outside(entry))
        elif entry.path != b"pg_wal" and entry.path not in self._links:
            raise Damaged(f"link {shown(entry.path)!r} is not the link of a tablespace of this snapshot")

    def open_file(self, entry: FileEntry) -> FileWriter:
        """Make a file; see ``targets.base``. Control file and tablespace map are held back until ``finish``."""
        parts = split(entry.path)
        if parts[0] == layout.OUTSIDE:
            return self._beside().open_file(layout.below_outside(entry))
        if entry.path in layout.LEFT_OUT or parts[0] == layout.ORIGIN:
            with self._lock:
                self.left_out.append(entry.path)
            return DroppedWriter(entry)
        if entry.path == layout.CONTROL:
            return HeldWriter(entry, layout.CONTROL_MAX_BYTES, self._hold)
        if entry.path == layout.MAP:
            return HeldWriter(entry, layout.MAP_MAX_BYTES, self._hold)
        self._require_known_tablespace(parts)
        return self._tree.open_file(entry, self._recorder().add)

    def open_present(self, entry: FileEntry) -> PresentFile | None:
        """A file that is there and may be mended; see ``targets.base``. Files of special treatment are written anew."""
        parts = split(entry.path)
        special = entry.path in layout.LEFT_OUT or entry.path in {layout.CONTROL, layout.MAP}
        if not self._delta or special or parts[0] in {layout.OUTSIDE, layout.ORIGIN}:
            return None
        self._require_known_tablespace(parts)
        return self._tree.open_present(entry, self._recorder().add)

    @property
    def removed(self) -> int:
        """How many files and directories were removed because the snapshot has none of that name."""
        return self._tree.removed

    def write_wal(self, files: Iterable[wal.WalFile], checkpoint: Callable[[], None] = lambda: None) -> tuple[int, int]:
        """Write segments, slices and histories into ``pg_wal``; see :func:`wal.write`."""
        return wal.write(self._tree, files, self._segment_bytes, checkpoint)

    def created_tablespaces(self, segments: Iterable[str], length: int) -> dict[int, Path]:
        """OID → place of the tablespaces that the first *length* bytes of log in ``pg_wal`` create.

        :param segments: follow each other.
        """
        contents = (self._tree.parts(f"pg_wal/{name}".encode()) for name in segments)
        found = wal_tablespaces.created(itertools.chain.from_iterable(contents), length)
        return {oid: Path(os.fsdecode(place)) for oid, place in found.items() if oid not in self._tablespaces}

    def configure(self, values: Mapping[str, str], *, signal: str = "") -> None:
        """Settings to write into ``postgresql.auto.conf`` at the end, e.g. ``restore_command`` and a recovery target.

        :param signal: ``recovery`` or ``standby``: the signal file to make; empty: none.
        :raises SettingsError: not a setting, or not a signal.
        """
        if signal not in {"", "recovery", "standby"}:
            raise SettingsError(f"{signal!r} is neither recovery nor standby")
        configuration.lines(values)
        self._overrides.update(values)
        self._signal = signal

    def write_own(self, name: bytes, content: bytes) -> None:
        """A small file that is not of the snapshot; it is part of ``backup_manifest``.

        :raises TargetError: something is there, or the file system refused.
        """
        entry = TargetFile(name, size=len(content), mtime_ns=time.time_ns())
        self._recorder().add(entry, self._write(entry, content))

    def finish(self, wal_ranges: Iterable[WalRange]) -> None:
        """Complete the data directory: tablespace map, settings, ``backup_manifest``, and ``pg_control`` as the last.

        :param wal_ranges: the WAL that the backup needs, for ``pg_verifybackup``.
        :raises Damaged: something without which the server must not start is missing or of another cluster.
        :raises TargetError: the file system refused.
        """
        entry, content = self._require_complete()
        self._write_map()
        if self._overrides:
            self._write_overrides()
        if self._signal:
            self._tree.open_file(TargetFile(f"{self._signal}.signal".encode())).close()
        self._recorder().add(entry, checksum.append(0, content))
        with translated(self.root):
            self._recorder().finish(wal_ranges)
        self._tree.sweep()
        self._tree.settle()
        self._write(entry, content)
        self._tree.settle()
        if self._outside_taken:
            self._outside.sweep()
            self._outside.finish()
        self._tree.unmark()

    def abandon(self) -> None:
        """Remove the restore: data directory, tablespaces, configuration beside it; see ``targets.base``."""
        if self._record is not None:
            self._record.close()
        self._tree.abandon()
        self._outside.abandon()
        self._outside_taken = False

    def close(self) -> None:
        """Let go of the directories without changing them; idempotent."""
        if self._record is not None:
            self._record.close()
        self._tree.close()
        self._outside.close()

    def _recorder(self) -> Record:
        if self._record is None:
            raise TargetError(f"target {shown(self.root)} was not prepared")
        return self._record

    def _beside(self) -> DirectoryTarget:
        with self._lock:
            if not self._outside_taken:
                self._outside.prepare()
                self._outside_taken = True
        return self._outside

    def _hold(self, entry: FileEntry, content: bytes) -> None:
        with self._lock:
            if entry.path in self._held:
                raise Damaged(f"file {shown(entry.path)} comes twice")
            self._held[entry.path] = entry, content

    def _require_known_tablespace(self, parts: tuple[bytes, ...]) -> None:
        """A plain directory made for an undeclared tablespace would fill the wrong file system."""
        if parts[0] != layout.TABLESPACES or len(parts) == 1 or b"/".join(parts[:2]) in self._links:
            return
        with self._lock:
            known = parts[1] in self._in_place
        if not known:
            raise Damaged(f"path {shown(b'/'.join(parts))} is in a tablespace that this snapshot does not declare")

    def _require_complete(self) -> tuple[FileEntry, bytes]:
        """The control file, when everything else that a start needs is there, too."""
        snapshot = f"the snapshot restored to {shown(self.root)}"
        if layout.CONTROL not in self._held:
            raise Damaged(f"{snapshot} has no {layout.CONTROL.decode()}")
        for name, start in ((layout.LABEL, b"START WAL LOCATION: "), (layout.VERSION, b"%d\n" % self._version)):
            try:
                content = self._tree.read_file(name, layout.LABEL_MAX_BYTES)
            except TargetError:
                raise Damaged(f"{snapshot} has no {name.decode()}; the control file was not written") from None
            if not content.startswith(start):
                raise Damaged(f"{snapshot} has a {name.decode()} that is none of PostgreSQL {self._version}")
        entry, content = self._held[layout.CONTROL]
        if system_identifier(content) != self._cluster_id:
            raise Damaged(f"{snapshot} is of cluster {system_identifier(content)}, not of {self._cluster_id}")
        return entry, content

    def _write_map(self) -> None:
        """The map verbatim, or with the new places: a starting server makes the links from it, over ours."""
        if layout.MAP not in self._held:
            return
        entry, content = self._held[layout.MAP]
        original = tablespace_map.parse(content)
        for oid, place in original.items():
            if oid not in self._tablespaces:
                raise Damaged(f"tablespace {oid} at {shown(place)} has no place in this restore")
        new = {oid: bytes(self._tablespaces[oid]) for oid in original}
        if new != original:
            content = tablespace_map.generate(new)
        written = TargetFile(layout.MAP, size=len(content), mtime_ns=entry.mtime_ns)
        self._recorder().add(written, self._write(written, content))

    def _write_overrides(self) -> None:
        """Settings at the end of ``postgresql.auto.conf``, without those that an earlier recovery left there."""
        try:
            present = self._tree.read_file(layout.AUTO, layout.AUTO_MAX_BYTES + 1)
        except TargetError:
            present = b""
        if len(present) > layout.AUTO_MAX_BYTES:
            raise Damaged(f"{layout.AUTO.decode()} of the snapshot is larger than {layout.AUTO_MAX_BYTES} bytes")
        if present and not present.endswith(b"\n"):
            present += b"\n"
        added = b"# added by a restore\n" + configuration.lines(self._overrides)
        self._tree.replace(layout.AUTO, configuration.without_recovery(present) + added)

    def _write(self, entry: FileEntry, content: bytes) -> int:
        writer = self._tree.open_file(entry)
        try:
            writer.write(0, content)
            return writer.close()
        finally:
            writer.abort()
