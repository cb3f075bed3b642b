"""Source ``redis aof``: the files of a multi-part append-only file, by the documented procedure.

No rewrite may begin → wait until none is under way → open every file the manifest names → let rewrites begin again →
find out where the last file ends with a whole command → read. The setting is 0 for as long as the opening takes, not
the reading: what is open cannot be taken away any more.
Source: Redis documentation "Persistence", section "Backing up AOF persistence"; ``aof.c`` of Redis 7.0.
"""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.checks import Check
from mingus_engine.errors import BackupBroken, Cancelled, SourceDenied, SourceUnreachable, SourceUnsupported
from mingus_engine.redis import aof
from mingus_engine.redis.client import mapped, place
from mingus_engine.settings import RedisConnection, RedisSettings
from mingus_engine.sources.base import ChooseParent, FileKind, Finished, Item, SourceFile
from mingus_engine.sources.redis import aof_setting
from mingus_engine.sources.redis.aof_around import Around
from mingus_engine.sources.redis.aof_files import AofFiles, NotYet, OpenFile

_POLL_S = 0.1
# What a server executed it appends at once, but may wait with it while the disk is busy (two seconds in Redis 7.0).
_APPENDED_WITHIN_S = 10.0
# After a rewrite the old files stay named for a moment; a server whose file was just enabled has no manifest yet.
_WHOLE_WITHIN_S = 15.0


@dataclass(frozen=True)
class AofItem:
    """A stretch of one open file."""

    file: SourceFile
    offset: int
    length: int
    last: bool
    handle: int

    def read(self, scratch: memoryview) -> memoryview:
        """See ``sources.base.Item``.

        :raises BackupBroken: the file became shorter.
        """
        done = 0
        while done < self.length:
            count = os.preadv(self.handle, [scratch[done : self.length]], self.offset + done)
            if not count:
                raise BackupBroken(f"{self.file.path.decode('utf-8', 'replace')}: became shorter while it was read")
            done += count
        return scratch[:done]

    def release(self) -> None:
        """Nothing is held."""


class AofBackup:
    """See the module and ``sources.base.Backup``. ``open`` first.

    :param client: to the server whose files lie in ``settings.data_directory``. :param value: what
        ``auto-aof-rewrite-percentage`` is to be afterwards.
    :ivar position: the server's replication offset before the files were opened.
    """

    def __init__(
        self,
        settings: RedisSettings,
        conn: RedisConnection,
        client: redis.Redis,
        *,
        value: int,
        cancel: threading.Event,
        log: Callable[[str], None],
        choose_parent: ChooseParent,
    ) -> None:
        self._settings, self._conn, self._client = settings, conn, client
        self._value, self._cancel, self._log = value, cancel, log
        self._choose_parent = choose_parent
        self._around = Around(settings, conn)
        self._notes = self._around.checks
        self._files: AofFiles | None = None
        self._facts: dict[str, Any] = {}
        self.position = 0

    def open(self) -> None:
        """Open the files; ask for the parent of an incremental backup.

        :raises SourceUnsupported: there is no append-only file, or the directory is not this server's.
        :raises BackupBroken: the files did not become whole in time. :raises Damaged: they are not what Redis writes.
        """
        directory = Path(self._settings.data_directory) / self._config("appenddirname", aof.DEFAULT_DIRECTORY)
        filename = self._config("appendfilename", aof.DEFAULT_FILENAME)
        self._around.before()
        started_at = self._appended()
        try:
            with aof_setting.held_at_zero(self._client, self._conn, self._value, self._log):
                self._files = self._whole_files(directory, filename)
        except SourceDenied as error:
            if "CONFIG" not in error.message.upper() and aof_setting.NAME not in error.message:
                raise
            # The look at the manifest before and after tells whether a rewrite came in between.
            self._notes.append(Check("aof rewrites held", True, f"could not be: {error.message}"))
            self._files = self._whole_files(directory, filename)
        self._around.after()
        parent = self._choose_parent({"form": "aof", "started_at": started_at})
        then: Mapping[str, Any] = parent.facts if parent is not None else {}
        known = _known(then)
        stamps = self._files.examine(lambda file: _found_whole(file, known), self._checkpoint)
        files = self._files
        cut = files.files[-1]
        if cut.whole < cut.size:
            self._log(f"{cut.entry.name}: {cut.size - cut.whole} bytes of an unfinished command are left out")
        self._facts = {
            **self._around.facts(),
            "rdb_version": files.base.version if files.base is not None else int(then.get("rdb_version", 0)),
            "form": "aof",
            "started_at": started_at,
            "stopped_at": started_at,
            "aof": {
                "directory": directory.name,
                "manifest": files.manifest_name,
                "files": [
                    {"name": f.entry.name, "seq": f.entry.seq, "type": f.entry.kind, "bytes": f.whole}
                    for f in files.files
                ],
                "left_out_bytes": cut.size - cut.whole,
                "first_stamp": _first_stamp(then, files) or (stamps[0].seconds if stamps else None),
                "last_stamp": stamps[-1].seconds if stamps else None,
            },
        }  # fmt: skip

    def items(self) -> Iterator[Item]:
        """Items of all files but the manifest, which ``finish`` gives."""
        files = self._opened()
        status = files.directory.stat()
        meta = SourceFile(
            os.fsencode(files.directory.name), FileKind.DIRECTORY, stat.S_IMODE(status.st_mode), status.st_uid,
            status.st_gid, status.st_mtime_ns,
        )  # fmt: skip
        yield AofItem(meta, 0, 0, True, -1)
        for file in files.files:
            meta = self._meta(file.entry.name, file.status, file.whole)
            for offset in range(0, file.whole or 1, SLAB_BYTES):
                length = min(SLAB_BYTES, file.whole - offset)
                yield AofItem(meta, offset, length, offset + length == file.whole, file.handle)

    def expected_bytes(self) -> int:
        """What ``items`` covers."""
        return sum(file.whole for file in self._opened().files)

    def finish(self) -> Finished:
        """The manifest as it was, and the facts of the files."""
        files = self._opened()
        manifest = self._meta(files.manifest_name, files.manifest_status, len(files.manifest_raw))
        made = [(manifest, files.manifest_raw), *self._around.files()]
        return Finished(files=made, facts=self._facts, checks=self._notes)

    def close(self) -> None:
        """Close the files and the connection. Idempotent."""
        self._around.close()
        if self._files is not None:
            self._files.close()

    # -- opening ------------------------------------------------------------------------------------------------------

    def _opened(self) -> AofFiles:
        if self._files is None:
            raise BackupBroken("the append-only file is not open")
        return self._files

    def _meta(self, name: str, status: os.stat_result, size: int) -> SourceFile:
        path = os.fsencode(f"{self._opened().directory.name}/{name}")
        return SourceFile(
            path, FileKind.FILE, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, status.st_mtime_ns, size
        )  # fmt: skip

    def _whole_files(self, directory: Path, filename: str) -> AofFiles:
        """Open the files at a moment at which they are whole, and the server's."""
        self._wait_for_rewrites()
        deadline = time.monotonic() + _WHOLE_WITHIN_S
        while True:
            try:
                before = int(self._persistence()["aof_current_size"])
                files = AofFiles(directory, filename)
                after = self._persistence()
            except NotYet as error:
                if time.monotonic() > deadline:
                    raise
                self._log(f"again: {error.message}")
                self._pause()
                continue
            # A server that began with nothing does not count the empty base that it made (Redis 7.0).
            if any(before <= size <= int(after["aof_current_size"]) for size in (files.total, files.increments)):
                return files
            files.close()
            if time.monotonic() > deadline:
                raise SourceUnsupported(
                    f"{directory} holds {files.total} bytes, the server's append-only file"
                    f" {after['aof_current_size']}: it is not this server's",
                    hint="data_directory must be the directory that CONFIG GET dir names, or where it is mounted",
                )
            self._wait_for_rewrites()
            self._pause()

    def _wait_for_rewrites(self) -> None:
        deadline = time.monotonic() + self._settings.save_timeout_s
        while (state := self._persistence())["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"]:
            if time.monotonic() > deadline:
                raise BackupBroken(
                    f"{place(self._conn)}: a rewrite of the append-only file takes longer than"
                    f" {self._settings.save_timeout_s} s"
                )
            self._pause()

    def _appended(self) -> str:
        """Wait until everything executed by now is in the file; when that "now" was (ISO 8601, the server's clock)."""
        with mapped(self._conn, "reading the clock"):
            seconds, micros = self._client.time()
            self.position = int(self._client.info("replication")["master_repl_offset"])
        state = self._persistence()
        target = int(state["aof_current_size"]) + int(state.get("aof_buffer_length", 0))
        rewrites = state.get("aof_rewrites", 0)
        deadline = time.monotonic() + _APPENDED_WITHIN_S
        while int(state["aof_current_size"]) < target and state.get("aof_rewrites", 0) == rewrites:
            if time.monotonic() > deadline:
                waiting = target - int(state["aof_current_size"])
                detail = f"{waiting} bytes of commands were not appended within {_APPENDED_WITHIN_S:g} s"
                self._notes.append(Check("appended in time", False, detail))
                self._around.forget_sample()
                break
            self._pause()
            state = self._persistence()
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=micros).isoformat()

    def _persistence(self) -> dict[str, Any]:
        with mapped(self._conn, "reading INFO persistence"):
            state: dict[str, Any] = self._client.info("persistence")
        if state.get("loading") or state.get("async_loading"):
            # Until then it also says that it has no append-only file.
            raise SourceUnreachable(f"{place(self._conn)}: is loading its data", hint="the next try may find it ready")
        if not state.get("aof_enabled"):
            raise SourceUnsupported(
                f"{place(self._conn)}: has no append-only file (appendonly no)",
                hint="CONFIG SET appendonly yes, or leave data_directory empty: then the command stream is recorded",
            )
        if state.get("aof_last_write_status", "ok") != "ok":
            raise BackupBroken(
                f"{place(self._conn)}: cannot append to its append-only file (aof_last_write_status"
                f" {state['aof_last_write_status']})",
                hint="the server's log says why; its disk may be full",
            )
        return state

    def _config(self, name: str, default: str) -> str:
        try:
            with mapped(self._conn, f"reading {name}"):
                found = self._client.config_get(name)
        except SourceDenied:
            return default
        return next(iter(found.values()), None) or default

    def _pause(self) -> None:
        if self._cancel.wait(_POLL_S):
            raise Cancelled("the backup was cancelled")

    def _checkpoint(self) -> None:
        if self._cancel.is_set():
            raise Cancelled("the backup was cancelled")


def _known(then: Mapping[str, Any]) -> dict[str, int]:
    """File name → up to where the parent found it whole."""
    files = then.get("aof", {}).get("files", ()) if then.get("form") == "aof" else ()
    return {str(file["name"]): int(file["bytes"]) for file in files}


def _first_stamp(then: Mapping[str, Any], files: AofFiles) -> int | None:
    """What the parent found, where the same files go on: only what is new of them was looked at."""
    known = _known(then)
    same = all(0 < known.get(file.entry.name, 0) <= file.size for file in files.files[:2])
    return then["aof"].get("first_stamp") if known and same else None


def _found_whole(file: OpenFile, known: Mapping[str, int]) -> int:
    whole = known.get(file.entry.name, 0)
    # Shorter than it was: another file under an old name, e.g. of a server that was restored.
    return whole if whole <= file.size else 0
