"""What a throw-away server needs around it: a private directory, and a data directory that cannot steer it."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from mingus_engine.errors import TargetError
from mingus_engine.programs.accounts import Account
from mingus_engine.targets.paths import shown, translated
from mingus_engine.targets.places import require_passable
from mingus_engine.targets.postgres import layout

PORT = 5432
SOCKET = f".s.PGSQL.{PORT}"
# sun_path has 108 bytes on Linux, one of them the NUL.
_SOCKET_PATH_MAX_BYTES = 107
_AUTO = layout.AUTO.decode()
_AUTO_ASIDE = f"{_AUTO}.mingus-aside"
_PID_FILE = "postmaster.pid"


class Workplace:
    """A directory of mode 0700 below *parent* for log, socket and access rules; ``remove`` it.

    Where *parent*'s path is too long for a socket, the socket gets a directory in the system's temporary one.
    """

    def __init__(self, parent: Path, account: Account | None) -> None:
        self._account = account
        self._made: list[Path] = []
        with translated(parent):
            try:
                run = self._make(parent)
                self.socket_directory = run
                if len(os.fsencode(run / SOCKET)) > _SOCKET_PATH_MAX_BYTES:
                    self.socket_directory = self._make(Path(tempfile.gettempdir()))
                self.configuration = _write(run / "postgresql.conf", "# all is on the command line\n", account)
                # The directory of the socket is the lock: only root and the server's user get in.
                self.access = _write(run / "pg_hba.conf", "local all all trust\n", account)
                self.identities = _write(run / "pg_ident.conf", "", account)
                self.log = _write(run / "log", "", account)
            except BaseException:
                self.remove()
                raise

    def remove(self) -> None:
        """Remove all of it; idempotent."""
        for directory in self._made:
            shutil.rmtree(directory, ignore_errors=True)

    def _make(self, parent: Path) -> Path:
        made = Path(tempfile.mkdtemp(prefix="pg-", dir=parent))
        self._made.append(made)
        if self._account is not None:
            os.chown(made, *self._account.owner)
        return made


def require_usable(data_directory: Path, work_dir: Path, account: Account | None) -> None:
    """Check that the server's user owns the data directory and can reach it, and that no server runs on it.

    :raises TargetError: naming the directory that is in the way.
    """
    with translated(data_directory):
        status = data_directory.stat()
        uid = account.uid if account else os.geteuid()
        if status.st_uid != uid:
            raise TargetError(
                f"data directory {shown(data_directory)} belongs to user {status.st_uid}, the server is user {uid}",
                hint="restore with the server's user as owner",
            )
        if account is not None:
            for directory in (*data_directory.parents, work_dir, *work_dir.parents):
                require_passable(directory, account)
        require_unused(data_directory)


def neutralise(data_directory: Path, account: Account | None, *, signal_recovery: bool) -> None:
    """Put aside what would configure a server, or make it a standby, from inside the data directory.

    :param signal_recovery: make a ``recovery.signal``.
    :raises TargetError: the file system refused.
    """
    with translated(data_directory):
        with suppress(FileNotFoundError):
            (data_directory / _AUTO).replace(data_directory / _AUTO_ASIDE)
        for name in ("standby.signal", "recovery.signal", _PID_FILE, "postmaster.opts"):
            (data_directory / name).unlink(missing_ok=True)
        if signal_recovery:
            _write(data_directory / "recovery.signal", "", account)


def put_back(data_directory: Path) -> None:
    """Undo what :func:`neutralise` put aside; nothing happens when there is none."""
    with suppress(FileNotFoundError):
        (data_directory / _AUTO_ASIDE).replace(data_directory / _AUTO)


def remove_shared_memory(data_directory: Path) -> None:
    """A postmaster that was killed leaves a System V segment; its pid file says which (line 7: key and id)."""
    pid_file = data_directory / _PID_FILE
    try:
        lines = pid_file.read_text(encoding="ascii", errors="replace").splitlines()
        identifier = int(lines[6].split()[1])
    except (OSError, ValueError, IndexError):
        return
    ctypes.CDLL(None).shmctl(identifier, 0, None)  # IPC_RMID; an error means that it is gone
    with suppress(OSError):
        pid_file.unlink()


def require_unused(data_directory: Path) -> None:
    """:raises TargetError: a server runs on it."""
    try:
        pid = int((data_directory / _PID_FILE).read_text(encoding="ascii").split("\n", 1)[0])
    except (OSError, ValueError):
        return
    if pid > 0 and Path(f"/proc/{pid}/cwd").exists() and _is_in(pid, data_directory):
        raise TargetError(f"data directory {shown(data_directory)} is in use by process {pid}")


def _is_in(pid: int, directory: Path) -> bool:
    # A postmaster's working directory is its data directory; a pid file from elsewhere names any process.
    try:
        return Path(f"/proc/{pid}/cwd").resolve() == directory.resolve()
    except OSError:
        return True


def _write(path: Path, text: str, account: Account | None) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    if account is not None:
        os.chown(path, *account.owner)
    return path
