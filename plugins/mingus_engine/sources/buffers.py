"""Memory for slabs. Apart from ``pages``: who verifies no checksums does not load numpy."""

from __future__ import annotations

import contextlib
import ctypes
import mmap

from mingus_engine.bounds import SLAB_BYTES

_HUGE_PAGE_BYTES = 2 << 20


def allocate_slab(size: int = SLAB_BYTES) -> memoryview:
    """A writable buffer of *size* bytes, backed by huge pages where the kernel gives them; freed with its last view.

    Gathering rows strides over 8 KiB, which needs an address translation per page at 4 KiB pages.
    """
    region = mmap.mmap(-1, size + _HUGE_PAGE_BYTES)
    advice = getattr(mmap, "MADV_HUGEPAGE", None)
    if advice is not None:
        with contextlib.suppress(OSError):  # a kernel without huge pages
            region.madvise(advice)
    address = ctypes.addressof(ctypes.c_char.from_buffer(region))
    start = -address % _HUGE_PAGE_BYTES
    return memoryview(region)[start : start + size]
