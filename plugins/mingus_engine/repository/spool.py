"""Writing to and hashing spool files (``store.unnamed.open_spool``): ciphertext on its way into a store."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import BinaryIO

from mingus_engine.errors import StoreFull

_HASH_BYTES = 1 << 20


def write_at(file: BinaryIO, position: int, data: bytes) -> None:
    """All of *data* at *position*.

    :raises StoreFull: no space in the spool.
    """
    view = memoryview(data)
    try:
        while view:
            written = os.pwrite(file.fileno(), view, position)
            view = view[written:]
            position += written
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(
                f"no space in the spool for {len(view)} bytes", hint="free space, or set spool_directory"
            ) from None
        raise


def sha256_of(file: BinaryIO, size: int) -> bytes:
    """SHA-256 of the first *size* bytes; hashing releases the GIL, memory stays at 1 MiB."""
    digest = hashlib.sha256()
    buffer = bytearray(_HASH_BYTES)
    at = 0
    while at < size:
        n = os.preadv(file.fileno(), [memoryview(buffer)[: min(_HASH_BYTES, size - at)]], at)
        if n == 0:
            raise OSError(errno.EIO, "spool file is shorter than what was written")
        digest.update(memoryview(buffer)[:n])
        at += n
    return digest.digest()
