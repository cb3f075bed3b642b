"""A directory as a store: objects are files, durable before ``put`` returns.

An object is written to a file that has no name, fsynced, and only then linked under its name: a crash or ``kill -9``
leaves the whole object or nothing at all. Where the file system knows no unnamed files (NFS), a file of the hidden
folder ``.tmp`` takes its place; left-overs there are removed after a day and are never listed.

A spool file that is itself unnamed and lies on the same file system (:func:`mingus_engine.store.unnamed.open_spool`)
becomes the object by one ``link``: its bytes are written to disk once, not twice. Others are copied inside the kernel.
The SHA-256 of a file's bytes is *not* computed again here: the writer hashed what it wrote, "stored" means size and
fsync for a local store (DESIGN §4), and hashing the page cache once more would cost 0.6 s per GB and prove nothing
about the disk; verification L1 reads that. Bytes given in memory are few and are hashed.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from mingus_engine.errors import Damaged, StoreError
from mingus_engine.store.base import Body, Features, ObjectInfo, checked_name, checked_prefix, is_name
from mingus_engine.store.bodies import Incoming
from mingus_engine.store.durable import READ, DurableFiles
from mingus_engine.store.folders import Folders, translated


class LocalStore:
    """The directory *root* as a :class:`mingus_engine.store.base.Store`.

    :param create: make the directory when it is missing; ``open_store`` does so for ``init`` only.
    :param file_mode: permission bits of objects.
    :param folder_mode: permission bits of folders, before the umask.
    """

    def __init__(
        self, root: Path | str, *, create: bool = True, file_mode: int = 0o640, folder_mode: int = 0o750
    ) -> None:
        self._root = Path(root).absolute()
        self._folders = Folders(self._root, create=create, mode=folder_mode)
        self._files = DurableFiles(self._folders, file_mode)

    @property
    def location(self) -> str:
        """The directory."""
        return str(self._root)

    @property
    def features(self) -> Features:
        return Features(put_proves_content=True, durable_local_path=True)

    def put(self, name: str, body: Body, *, size: int, sha256: bytes) -> None:
        folder, _, leaf = checked_name(name).rpartition("/")
        incoming = Incoming(self.location, name, body, size, sha256)
        incoming.check()
        with self._translating("put", name), self._folders.opened(folder, make=True) as at:
            self._files.clean_once()
            if not self._files.write(leaf, at, incoming):
                self._files.confirm(leaf, at, incoming)
            os.fsync(at)

    def get(self, name: str, *, max_bytes: int | None = None) -> bytes:
        with self._opened(name) as (descriptor, size):
            if max_bytes is not None and size > max_bytes:
                raise Damaged(f"object {name} in {self.location} has {size} bytes, at most {max_bytes} are expected")
            return self._read(descriptor, 0, size, name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise ValueError(f"not a range: {length} bytes from {offset}")
        with self._opened(name) as (descriptor, size):
            if offset + length > size:
                raise Damaged(
                    f"object {name} in {self.location} ends at byte {size}, wanted were {length} bytes from {offset}"
                )
            return self._read(descriptor, offset, length, name)

    def stat(self, name: str) -> ObjectInfo:
        with self._opened(name) as (descriptor, _):
            return _info(name, os.fstat(descriptor))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        folder, _, start = checked_prefix(prefix).rpartition("/")
        with self._translating("list", prefix):
            try:
                with self._folders.opened(folder) as at:
                    yield from self._walk(at, f"{folder}/" if folder else "", start)
            except (FileNotFoundError, NotADirectoryError):
                return  # no such folder: no object starts so. Of a folder that was listed, _walk lets nothing through.

    def delete(self, name: str) -> None:
        folder, _, leaf = checked_name(name).rpartition("/")
        with self._translating("delete", name):
            try:
                with self._folders.opened(folder) as at:
                    with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                        os.unlink(leaf, dir_fd=at)
                    # Also when nothing was there: whoever removed it may have died before its fsync, and the
                    # cleaner's order (manifests before packs) must survive a power cut.
                    os.fsync(at)
            except (FileNotFoundError, NotADirectoryError):
                return

    def now(self) -> datetime:
        """The file system's clock; this machine's where nothing can be written (a reader of a read-only mount)."""
        with self._translating("ask the time of", ""), self._folders.opened("") as at:
            try:
                descriptor = self._files.scratch(at)
            except PermissionError:
                return datetime.now(UTC)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                return datetime.now(UTC)
            try:
                os.utime(descriptor)  # "now" is set by the file server, where there is one
                return _time(os.fstat(descriptor))
            finally:
                os.close(descriptor)

    def free_bytes(self) -> int | None:
        with self._translating("ask the free space of", ""), self._folders.opened("") as at:
            facts = os.fstatvfs(at)
            return facts.f_bavail * facts.f_frsize

    def close(self) -> None:
        """Nothing is held open."""

    @contextlib.contextmanager
    def _translating(self, deed: str, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise translated(error, deed, self.location, name) from error

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[tuple[int, int]]:
        """Descriptor and size of an object, refused unless it is a plain file."""
        folder, _, leaf = checked_name(name).rpartition("/")
        with self._translating("get", name):
            try:
                with self._folders.opened(folder) as at:
                    descriptor = os.open(leaf, READ, dir_fd=at)
            except NotADirectoryError as error:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from error
            try:
                facts = os.fstat(descriptor)
                if stat.S_ISDIR(facts.st_mode):
                    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
                if not stat.S_ISREG(facts.st_mode):
                    raise Damaged(f"{name} in {self.location} is not a file")
                yield descriptor, facts.st_size
            finally:
                os.close(descriptor)

    def _read(self, descriptor: int, offset: int, length: int, name: str) -> bytes:
        data = os.pread(descriptor, length, offset)
        if len(data) == length:
            return data
        parts = [data]  # a signal or 2 GiB ends a read early; the end of the file is damage: objects never shrink
        while parts[-1]:
            done = sum(map(len, parts))
            if done == length:
                return b"".join(parts)
            parts.append(os.pread(descriptor, length - done, offset + done))
        raise Damaged(f"object {name} in {self.location} ended before {length} bytes from {offset} were read")

    def _walk(self, at: int, folder: str, start: str) -> Iterator[ObjectInfo]:
        """Objects below the folder *at* in order of their whole names; all of them, or an error."""
        with os.scandir(at) as scan:
            entries = [(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name, e) for e in scan]
        for sort_name, entry in sorted(entries, key=lambda pair: pair[0]):
            name = folder + entry.name
            if not entry.name.startswith(start) or not is_name(name):
                continue  # .tmp, lost+found, an editor's copy: no object can have such a name
            if sort_name.endswith("/"):
                yield from self._walk_child(at, entry.name, name)
                continue
            try:
                facts = os.stat(entry.name, dir_fd=at, follow_symlinks=False)
            except FileNotFoundError:
                continue  # deleted since; then it is not an object any more
            if not stat.S_ISREG(facts.st_mode):
                raise Damaged(f"{name} in {self.location} is neither a file nor a folder")
            yield _info(name, facts)

    def _walk_child(self, at: int, part: str, name: str) -> Iterator[ObjectInfo]:
        try:
            child = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
        except (FileNotFoundError, NotADirectoryError):
            # Nobody removes folders here: a listing that would be short is refused.
            raise StoreError(f"the folder {name} of {self.location} vanished while it was listed") from None
        try:
            yield from self._walk(child, f"{name}/", "")
        finally:
            os.close(child)


def _time(facts: os.stat_result) -> datetime:
    return datetime.fromtimestamp(facts.st_mtime, UTC)


def _info(name: str, facts: os.stat_result) -> ObjectInfo:
    return ObjectInfo(name, facts.st_size, _time(facts))
