"""``wal fetch``: a ``restore_command``. A server in recovery asks for one file after the other; this one gets them.

PostgreSQL takes any failure for "the archive ends here", opens for business, and what was to come is lost. Only an exit
status above 125 stops it. So "not stored" is said only where the log that is known ends; a segment that is missing
before that, a repository that does not answer, a key that is not there and every other trouble stop the recovery.

What a server will ask for next is fetched ahead by another process, several files at a time, into
``pg_wal/mingus-prefetch``. The command that a restore writes into ``postgresql.auto.conf`` first looks there with
``mv`` and starts Python only for what is not there yet.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import mingus_engine
from mingus_engine import bounds
from mingus_engine import lsn as lsns
from mingus_engine.errors import Damaged, LogMissing, NoSuchSnapshot, TargetError
from mingus_engine.jobs import places
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.crew import Crew
from mingus_engine.jobs.postgres.recovery_target import Recovery
from mingus_engine.jobs.postgres.stored_wal import StoredWal
from mingus_engine.jobs.postgres.wal_files import WalFile
from mingus_engine.jobs.postgres.windows import base_point
from mingus_engine.postgres.timelines import Step
from mingus_engine.repository import state
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.wal_path import WalPath
from mingus_engine.settings import Settings

#: Left in the data directory by a restore: which log, from where, and how far it is known to reach.
NOTE = "mingus-recovery.json"
PREFETCH = "mingus-prefetch"
#: What PostgreSQL must not take for the end of the archive (anything above 125).
TROUBLE = 200
#: Of the command in ``postgresql.auto.conf``: 1 is also the status of a Python that cannot start.
MISSING = 99
_SEGMENT = re.compile(r"([0-9A-F]{8})([0-9A-F]{8})([0-9A-F]{8})")
_HISTORY = re.compile(r"([0-9A-F]{8})\.history")
# Fetched ahead: enough to hide a distant store, little enough for pg_wal's file system.
_AHEAD_BYTES = 256 * bounds.MIB
_AHEAD_FILES = range(2, 17)
_WORKERS = 4
_POLL_S = 0.05
# A server that asks for nothing so long is paused at its target, or gone.
_IDLE_S = 300.0
_WAIT_S = 600.0


@dataclass(frozen=True)
class Known:
    """What is known of the log a server recovers with.

    :param repository: its name; empty: the first reachable one of the chain. :param end: up to this LSN of the path
        every segment must be there; 0: nothing is promised.
    """

    repository: str
    system_id: int
    segment_bytes: int
    steps: tuple[Step, ...]
    end: int

    def encode(self) -> bytes:
        """JSON."""
        return json.dumps({**self.__dict__, "system_id": str(self.system_id)}, indent=2).encode() + b"\n"

    @classmethod
    def read(cls, path: Path) -> Known | None:
        """What a restore left there; ``None``: nothing. :raises Damaged: it is not whole."""
        try:
            v = json.loads(path.read_bytes())
            steps = tuple(Step(int(t), int(b), None if e is None else int(e)) for t, b, e in v["steps"])
            return cls(str(v["repository"]), int(v["system_id"]), int(v["segment_bytes"]), steps, int(v["end"]))
        except FileNotFoundError:
            return None
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise Damaged(f"{path} cannot be read: {type(error).__name__}") from None


def known_to(recovery: Recovery, repository: str) -> Known:
    """What a recovery can rely on."""
    path = recovery.path
    return Known(repository, path.system_id, path.segment_bytes, tuple(path.steps), recovery.end)


def restore_command(settings_file: Path, source: str) -> str:
    """The command for ``postgresql.auto.conf``; the server's environment must hold the key.

    Its own status tells PostgreSQL the two apart: 1, there is no such file; 200, stop.
    """
    words = [sys.executable, "-m", "mingus_engine", "--config", str(settings_file.absolute()), "wal", "fetch"]
    program = " ".join(shlex.quote(word) for word in [*words, "--source", source, "--missing-status", str(MISSING)])
    run = f"PYTHONPATH={shlex.quote(str(_package()))} {program}".replace("%", "%%")
    # A first timeline has no history, although each server asks for it at the end: no Python for that.
    return (
        f'test "%f" != 00000001.history || exit 1; mv "pg_wal/{PREFETCH}/%f" "%p" 2>/dev/null || {{ {run} "%f" "%p"; '
        f"case $? in 0) ;; {MISSING}) exit 1 ;; *) exit {TROUBLE} ;; esac; }}"
    )


def fetch(settings: Settings, source: str, name: str, destination: Path, *, context: JobContext) -> bool:
    """Get the WAL file *name* to *destination*; False: the log ends before it. Runs in the data directory.

    :raises LogMissing: it is missing where the log goes on. :raises MingusError: it cannot be told.
    """
    if not _SEGMENT.fullmatch(name) and not _HISTORY.fullmatch(name):
        return False  # a .backup file or the like: no recovery needs it
    prefetch = Path("pg_wal") / PREFETCH
    if _being_fetched(prefetch, name):
        wait_until = time.monotonic() + _WAIT_S
        while _being_fetched(prefetch, name) and time.monotonic() < wait_until:
            context.checkpoint()
            time.sleep(_POLL_S)
    with suppress(FileNotFoundError):
        (prefetch / name).replace(destination)
        return True
    with _archive(settings, source, context) as archive:
        file = archive.find(name)
        if file is None:
            return False
        _write(destination, file, archive.size(name, file))
        return True


def is_first() -> bool:
    """Whether nothing was fetched ahead yet: the server has just begun."""
    return not (Path("pg_wal") / PREFETCH).exists()


def start_prefetching(source: str, name: str, settings_file: str | None) -> None:
    """Let another process fetch what follows *name*, if none does already."""
    if _SEGMENT.fullmatch(name) is None or _locked(Path("pg_wal") / PREFETCH):
        return
    config = ["--config", settings_file] if settings_file else []
    paths = [str(_package()), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    subprocess.Popen(
        [sys.executable, "-m", "mingus_engine", *config, "wal", "fetch", "--source", source, "--ahead", name, "-"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True, env=environment,
    )  # fmt: skip


def prefetch(settings: Settings, source: str, name: str, *, context: JobContext) -> int:
    """Fetch the segments that follow *name* until the known log ends or the server no longer wants them; how many.

    What goes wrong here is left to the server's own request for the file, which says so.
    """
    directory = Path("pg_wal") / PREFETCH
    directory.mkdir(mode=0o700, exist_ok=True)
    with ExitStack() as stack:
        lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        stack.callback(os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return 0
        for left in directory.iterdir():
            if left.name != "lock":
                left.unlink()  # of a prefetcher that was killed: maybe long ago
        archive = stack.enter_context(_archive(settings, source, context))
        ahead = min(max(_AHEAD_BYTES // archive.known.segment_bytes, _AHEAD_FILES[0]), _AHEAD_FILES[-1])
        fetched: set[str] = set()

        def get(file: WalFile) -> None:
            _write(directory / file.name, file, archive.known.segment_bytes)
            fetched.add(file.name)

        crew = Crew[WalFile]("fetch", lambda: get, cancel=context.cancel, queue_items=1)
        crew.run(_wanted(archive.following(name), directory, fetched, ahead, context), min(_WORKERS, ahead))
        return len(fetched)


class Archive:
    """The stored log of one source, as a server in recovery asks for it."""

    def __init__(self, stored: StoredWal, known: Known) -> None:
        self._stored, self.known = stored, known

    def find(self, name: str) -> WalFile | None:
        """The file of that name, at the end of the log only begun; ``None``: the log ends before it.

        :raises LogMissing: the log goes on behind what is missing.
        """
        known = self.known
        if match := _HISTORY.fullmatch(name):
            log = self._stored.index.histories.get((known.system_id, int(match[1], 16)))
            return None if log is None else WalFile(name, log.name.end, partial(self._stored.whole, log))
        timeline, start = _position(name, known.segment_bytes)
        path = self._stored.path(known.system_id, timeline, known.segment_bytes)
        end = min(path.covered_to(start), start + known.segment_bytes)
        if end < max(self._promised(timeline, start), start):
            raise LogMissing(f"{name}: write-ahead log is missing from {lsns.text(end)}, and goes on behind it")
        return None if end <= start else WalFile(name, end - start, partial(self._chunks, path, start, end))

    def following(self, name: str) -> Iterator[WalFile]:
        """What a server will ask for behind the segment *name*, as far as it is known."""
        known = self.known
        timeline, start = _position(name, known.segment_bytes)
        target = known.steps[-1].timeline if any(s.timeline == timeline for s in known.steps) else timeline
        path = self._stored.path(known.system_id, target, known.segment_bytes)
        first = start + known.segment_bytes
        end = known.end or path.covered_to(first)
        for file in path.files(first, end) if first < end else ():
            yield WalFile(file.name, file.length, partial(self._stored.chunks, file.pieces))

    def size(self, name: str, file: WalFile) -> int:
        """Bytes of the file that a server expects: a segment that is only begun is filled up with zeros."""
        return self.known.segment_bytes if _SEGMENT.fullmatch(name) else file.length

    def _promised(self, timeline: int, start: int) -> int:
        """Up to where this segment must be there: as a restore noted, and because later ones are."""
        behind = start + self.known.segment_bytes
        step = next((step for step in self.known.steps if step.timeline == timeline), None)
        promised = 0 if step is None else min(self.known.end, step.end or self.known.end)
        logs = self._stored.index.timeline(self.known.system_id, timeline).logs
        return min(behind, max(promised, behind if logs and logs[-1].name.start >= behind else 0))

    def _chunks(self, path: WalPath, start: int, end: int) -> Iterator[bytes]:
        return self._stored.chunks(path.pieces(start, end))


@contextmanager
def _archive(settings: Settings, source: str, context: JobContext) -> Iterator[Archive]:
    known = Known.read(Path(NOTE))
    with places.chosen(settings, source, known.repository if known else None, context) as place:
        seen = state.look(place, source)
        yield Archive(StoredWal(place, source, seen), _newest(place, seen) if known is None else known)


def _package() -> Path:
    """What this program is imported from: a server's environment does not know."""
    return Path(mingus_engine.__file__).resolve().parent.parent


def _newest(place: Repository, seen: state.SourceState) -> Known:
    """What the newest snapshot says of its cluster; nothing is promised."""
    for manifest in reversed(seen.manifests):
        point = base_point(manifest.ulid, place.manifest_body(manifest).facts)
        if point is not None:
            return Known("", point.system_id, point.segment_bytes, (), 0)
    raise NoSuchSnapshot(f"no snapshot in {place.name} says which cluster's log is wanted")


def _position(name: str, segment_bytes: int) -> tuple[int, int]:
    """Timeline and first LSN of a segment's name."""
    timeline, high, low = (int(name[at : at + 8], 16) for at in (0, 8, 16))
    return timeline, (high << 32) + low * segment_bytes


def _write(destination: Path, file: WalFile, size: int) -> None:
    """The whole file under its name, or nothing of that name."""
    temporary = destination.with_name(f"{destination.name}.tmp")
    try:
        with temporary.open("wb") as out:
            written = sum(out.write(chunk) for chunk in file.chunks())
            if written != file.length:
                raise Damaged(f"{file.name}: {written} bytes of log instead of {file.length}")
            out.truncate(size)
        temporary.replace(destination)
    except OSError as error:
        raise TargetError(f"cannot write {destination}: {error.strerror}") from None


def _wanted(
    files: Iterator[WalFile], directory: Path, fetched: set[str], ahead: int, context: JobContext
) -> Iterator[WalFile]:
    """Files as they are needed; it ends with the server, with its recovery, or when it asks for nothing any more."""
    waiting: list[str] = []
    asked = time.monotonic()
    for file in files:
        while len(waiting) >= ahead:
            context.checkpoint()
            if not directory.exists() or not _server_runs() or time.monotonic() - asked > _IDLE_S:
                return
            taken = [name for name in waiting if name in fetched and not (directory / name).exists()]
            if not taken:
                time.sleep(_POLL_S)
                continue
            asked = time.monotonic()
            # The server goes forward only: what it got by itself before these it does not take any more.
            behind = waiting.index(taken[-1]) + 1
            for name in set(waiting[:behind]) & fetched:
                (directory / name).unlink(missing_ok=True)
            waiting = waiting[behind:]
        waiting.append(file.name)
        yield file


def _being_fetched(directory: Path, name: str) -> bool:
    return (directory / f"{name}.tmp").exists() and _locked(directory)


def _locked(directory: Path) -> bool:
    """Whether a prefetcher is at work."""
    try:
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock)


def _server_runs() -> bool:
    try:
        pid = int(Path("postmaster.pid").read_text(encoding="ascii").split("\n", 1)[0])
        os.kill(pid, 0)
    except PermissionError:
        return True
    except (OSError, ValueError):
        return False
    return True
