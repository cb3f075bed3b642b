"""Directories for tests: in memory when there is room, passable for the unprivileged user, gone afterwards.

Every test process has one root, named after its pid. A root whose process is dead (a ``kill -9`` left it) is removed
by the next test process, since a forgotten one on tmpfs costs memory.
"""

import os
import re
import shutil
import tempfile
from pathlib import Path

from tests.support.processes import User, is_running

PREFIX = "mingus-test-"
# Two test processes with a 1 GiB relation, its backup and its restore each; containers often give /dev/shm 64 MiB.
MEMORY_NEEDED_BYTES = 6 << 30


def base_directory() -> Path:
    """Where roots are made: ``MINGUS_TEST_TMP``, else /dev/shm if it has room, else the system's temp directory."""
    chosen = os.environ.get("MINGUS_TEST_TMP")
    if chosen:
        return Path(chosen)
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= MEMORY_NEEDED_BYTES:
        return memory
    return Path(tempfile.gettempdir())


def make_root() -> Path:
    """A new directory for this test process, mode 0755; roots of dead test processes are removed on the way."""
    base = base_directory()
    for left in base.glob(f"{PREFIX}*"):
        owner = re.match(rf"{PREFIX}(\d+)-", left.name)
        if owner and not is_running(int(owner[1])):
            remove(left)
    root = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=base))
    root.chmod(0o755)
    return root


def make_directory(path: Path, *, owner: User | None = None, mode: int = 0o755) -> Path:
    """Make ``path`` (its parent exists), owned by ``owner`` (None: by this process's user); returns it."""
    path.mkdir(mode=0o755)
    path.chmod(mode)  # mkdir's own mode is cut by the umask
    if owner is not None:
        os.chown(path, owner.uid, owner.gid)
    return path


def give_tree(path: Path, owner: User | None) -> None:
    """Make ``owner`` the owner of ``path`` and all below it (links themselves, not their targets); None: do nothing."""
    if owner is None:
        return
    os.chown(path, owner.uid, owner.gid, follow_symlinks=False)
    for folder, names, files in os.walk(path):
        for name in (*names, *files):
            os.chown(Path(folder, name), owner.uid, owner.gid, follow_symlinks=False)


def remove(path: Path) -> None:
    """Remove a tree if it is there, also one whose folders a test made unreadable."""
    for folder, names, _ in os.walk(path):
        for name in names:  # top down: before the walk enters them
            if not (child := Path(folder, name)).is_symlink():
                child.chmod(0o700)
    shutil.rmtree(path, ignore_errors=True)
