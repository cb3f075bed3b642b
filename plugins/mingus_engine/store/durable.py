"""Files of a directory store, durable before they have a name.

The order is fixed: write, fsync, link (fails when the name is taken), fsync of the folder (the caller's). A name is
therefore never seen without its bytes, neither by another process nor after a power cut.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
import threading
import time

from mingus_engine.errors import Damaged, StoreError
from mingus_engine.store import bodies, unnamed
from mingus_engine.store.bodies import Incoming
from mingus_engine.store.folders import Folders

TEMPORARY = ".tmp"
# A put of 64 MiB takes seconds; a day tolerates stopped processes and clocks that are hours off.
_TEMPORARY_MAX_AGE_S = 24 * 3600
# Linux moves at most 2 GiB per call (sendfile(2)).
_COPY_MAX_BYTES = 1 << 30
# NONBLOCK: opening a FIFO that somebody put into the repository must not hang.
READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


class DurableFiles:
    """How objects become files below the root of *folders*.

    :param mode: permission bits of the files, whatever the umask.
    """

    def __init__(self, folders: Folders, mode: int) -> None:
        self._folders = folders
        self._mode = mode
        self._cleaned = threading.Event()

    def write(self, leaf: str, at: int, incoming: Incoming) -> bool:
        """Make the bytes, durable, the file *leaf* of the folder *at*; ``False`` when the name is taken."""
        if _exists(leaf, at):
            return False
        spool = bodies.file_descriptor(incoming.body)
        if spool is not None and os.fstat(spool).st_nlink == 0:
            # Nobody else can name this file: it becomes the object. Any file with a name is copied.
            os.fchmod(spool, self._mode)
            os.fsync(spool)
            with contextlib.suppress(unnamed.NotPossible):
                return unnamed.link(spool, leaf, at)
        try:
            descriptor = unnamed.create(at, self._mode)
            try:
                self._fill(descriptor, incoming)
                return unnamed.link(descriptor, leaf, at)
            finally:
                os.close(descriptor)
        except unnamed.NotPossible:
            return self._write_named(leaf, at, incoming)

    def confirm(self, leaf: str, at: int, incoming: Incoming) -> None:
        """Succeed when the object that is there has the promised bytes; makes it durable: its writer may have died.

        :raises Damaged: it has other bytes, or is no file.
        """
        descriptor = os.open(leaf, READ, dir_fd=at)
        try:
            facts = os.fstat(descriptor)
            if not stat.S_ISREG(facts.st_mode):
                raise Damaged(f"{incoming.name} is in {incoming.location}, but it is not a file; nothing was replaced")
            if facts.st_size != incoming.size or _sha256(descriptor) != incoming.sha256:
                raise Damaged(
                    f"{incoming.location} has other bytes under the name {incoming.name}; nothing was replaced"
                )
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def scratch(self, at: int) -> int:
        """Descriptor of a new empty file that is gone when it is closed."""
        try:
            return unnamed.create(at, self._mode)
        except unnamed.NotPossible:
            with self._folders.opened(TEMPORARY, make=True) as aside:
                temporary, descriptor = self._temporary(aside)
                os.unlink(temporary, dir_fd=aside)
                return descriptor

    def clean_once(self) -> None:
        """Remove left-overs of puts that died over a day ago, once per store; what cannot be removed stays."""
        if self._cleaned.is_set():
            return
        self._cleaned.set()
        try:
            with self._folders.opened(TEMPORARY) as aside, os.scandir(aside) as scan:
                limit = time.time() - _TEMPORARY_MAX_AGE_S
                for entry in scan:
                    if entry.stat(follow_symlinks=False).st_mtime < limit:
                        os.unlink(entry.name, dir_fd=aside)
        except (OSError, StoreError):
            return

    def _write_named(self, leaf: str, at: int, incoming: Incoming) -> bool:
        """As :meth:`write`, by a temporary file with a name."""
        with self._folders.opened(TEMPORARY, make=True) as aside:
            temporary, descriptor = self._temporary(aside)
            try:
                self._fill(descriptor, incoming)
                os.link(temporary, leaf, src_dir_fd=aside, dst_dir_fd=at, follow_symlinks=False)
            except FileExistsError:
                return False
            finally:
                os.close(descriptor)
                os.unlink(temporary, dir_fd=aside)
        return True

    def _temporary(self, aside: int) -> tuple[str, int]:
        name = secrets.token_hex(16)
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
        return name, os.open(name, flags, self._mode, dir_fd=aside)

    def _fill(self, descriptor: int, incoming: Incoming) -> None:
        """Write the bytes, prove their number (and digest, where they passed through here), fsync."""
        source = bodies.file_descriptor(incoming.body)
        if source is not None:
            done = 0
            while done < incoming.size:
                moved = os.sendfile(descriptor, source, done, min(_COPY_MAX_BYTES, incoming.size - done))
                if moved == 0:
                    break
                done += moved
        else:
            digest = hashlib.sha256()
            for piece in bodies.pieces(incoming.body, 0, incoming.size, at=bodies.take_at):
                digest.update(piece)
                _write_all(descriptor, piece)
            incoming.check_digest(digest.digest())
        os.fchmod(descriptor, self._mode)
        os.fsync(descriptor)
        written = os.fstat(descriptor).st_size
        if written != incoming.size:
            raise Damaged(
                f"of {incoming.name} {written} bytes were written to {incoming.location}, promised were {incoming.size}"
            )


def _exists(leaf: str, at: int) -> bool:
    try:
        os.stat(leaf, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _sha256(descriptor: int) -> bytes:
    digest = hashlib.sha256()
    offset = 0
    while piece := os.pread(descriptor, bodies.PIECE_BYTES, offset):
        digest.update(piece)
        offset += len(piece)
    return digest.digest()


def _write_all(descriptor: int, piece: bytes | memoryview) -> None:
    rest = memoryview(piece)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
