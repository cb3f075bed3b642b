"""Where the demo's things are: one directory of its own, and ports nobody else uses."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pwd
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from demo.errors import DemoError

REPOSITORY_ROOT = Path(__file__).resolve().parent.parent
# Says "this directory was made by the demo and may be removed by it".
_STAMP = "mingus-demo.json"
_LOCK = "up.lock"


@dataclass(frozen=True)
class Account:
    """Whom PostgreSQL runs as: it refuses root."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True)
class Places:
    """The demo's directories.

    :param root: everything but the servers' files.
    :param servers: the cluster and the scratch of restore tests; the servers' account can get there.
    :param account: ``None`` = the servers run as whoever runs the demo.
    """

    root: Path
    servers: Path
    account: Account | None

    @property
    def settings(self) -> Path:
        """The settings file of the demo."""
        return self.root / "mingus.yaml"

    @property
    def airflow(self) -> Path:
        """``AIRFLOW_HOME``."""
        return self.root / "airflow"

    @property
    def logs(self) -> Path:
        """Logs of the processes."""
        return self.root / "logs"

    @property
    def escrow_sheet(self) -> Path:
        """The escrow keys, readable by the owner only."""
        return self.root / "escrow-keys.txt"


def chosen_directory() -> Path:
    """``MINGUS_DEMO_DIR``, else ``.demo`` in the repository."""
    return Path(os.environ.get("MINGUS_DEMO_DIR") or REPOSITORY_ROOT / ".demo").absolute()


def make(root: Path) -> Places:
    """Make the directories; a left-over of an earlier demo must have been removed.

    :raises DemoError: *root* holds something else.
    """
    refuse_foreign(root)
    root.mkdir(mode=0o755, parents=True, exist_ok=True)
    account = server_account()
    servers = root / "servers"
    if account is not None and not _passable(root, account):
        # A clone in a home directory that is closed to others, say. The name is derived from the place: a second demo
        # there finds what the first one left.
        digest = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
        servers = Path(tempfile.gettempdir()).resolve() / f"mingus-demo-{digest}"
        if servers.is_symlink() or (servers.exists() and servers.stat().st_uid != os.geteuid()):
            raise DemoError(f"{servers} belongs to somebody else; choose another place by MINGUS_DEMO_DIR")
        shutil.rmtree(servers, ignore_errors=True)
    (root / _STAMP).write_text(json.dumps({"servers": str(servers)}), encoding="utf-8")
    places = Places(root, servers, account)
    for directory in (servers, places.logs, places.airflow):
        directory.mkdir(mode=0o755)
    return places


def find(root: Path) -> Places | None:
    """The places of an earlier ``make``, ``None`` when there is none."""
    try:
        noted = json.loads((root / _STAMP).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Places(root, Path(noted["servers"]), server_account())


def remove(places: Places) -> None:
    """Remove everything the demo made; the stamp goes last, so that an interrupted removal can be repeated."""
    shutil.rmtree(places.servers, ignore_errors=True)
    for entry in places.root.iterdir():
        if entry.name != _STAMP:
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    (places.root / _STAMP).unlink()
    places.root.rmdir()


def refuse_foreign(root: Path) -> None:
    """Refuse a directory that the demo did not make.

    :raises DemoError: *root* holds something and no stamp of the demo.
    """
    if root.exists() and not root.is_dir():
        raise DemoError(f"{root} is no directory; choose another place by MINGUS_DEMO_DIR")
    if root.is_dir() and any(root.iterdir()) and not (root / _STAMP).exists():
        raise DemoError(f"{root} holds files that are not the demo's; choose another place by MINGUS_DEMO_DIR")


@contextmanager
def running(root: Path) -> Iterator[None]:
    """Hold the mark that an ``up`` is running here; the kernel drops it when the process dies, however.

    :raises DemoError: another one is running here.
    """
    with (root / _LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DemoError(f"a demo is running already (process {runner(root)}); `make demo-down` ends it") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        # Children must not inherit it: Python's files are close-on-exec.
        yield


def runner(root: Path) -> int | None:
    """The process id of the ``up`` that runs here, ``None`` when none does."""
    try:
        with (root / _LOCK).open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(lock.read() or 0) or None
    except FileNotFoundError:
        pass
    return None


def server_account() -> Account | None:
    """``postgres`` (else ``nobody``) for root, ``None`` = oneself for anybody else."""
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    entry = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def free_ports(count: int) -> list[int]:
    """*count* different loopback ports nothing listens on now."""
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


def _passable(path: Path, account: Account) -> bool:
    """Whether *account* may walk to *path*; its named groups are left out: a wrong no only moves the servers' files."""
    for folder in (path, *path.parents):
        status = folder.stat()
        bit = 0o100 if status.st_uid == account.uid else 0o010 if status.st_gid == account.gid else 0o001
        if not status.st_mode & bit:
            return False
    return True
