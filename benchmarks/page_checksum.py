"""How fast page checksums are verified: ``python -m benchmarks.page_checksum``.

Pages with right checksums in more slabs than a cache holds, 1 and 2 threads, on huge and on ordinary pages, against the
plain way to do it with numpy (one strided row of every page a call). Prints MB/s of wall time and MB per CPU second:
on a busy machine only the latter says something.
"""

import argparse
import mmap
import threading
import time
from collections.abc import Callable

import numpy as np

from mingus_engine.bounds import PAGE_BYTES, SLAB_BYTES
from mingus_engine.sources.buffers import allocate_slab
from mingus_engine.sources.postgres import pages
from mingus_engine.sources.postgres.pages import PageVerifier

SLABS = 24  # 96 MiB: more than the caches of most machines
ROUNDS = 4
PAGES = SLAB_BYTES // PAGE_BYTES


class PlainVerifier:
    """What PERF.md measured: numpy's inner loops are 32 words long, one per page and row."""

    def __init__(self) -> None:
        self.chain = np.empty((PAGES, 32), np.uint32)
        self.high = np.empty((PAGES, 32), np.uint32)

    def bad_pages(self, data: memoryview, first_block: int) -> list[int]:
        words = np.frombuffer(data, np.uint32).reshape(PAGES, 64, 32)
        chain, high = self.chain, self.high
        chain[:] = pages._OFFSETS
        for row in range(66):
            if row < 64:
                np.bitwise_xor(chain, words[:, row, :], out=chain)
            if row == 0:
                chain[:, 2] ^= words[:, 0, 2] & np.uint32(0xFFFF)
            np.right_shift(chain, 17, out=high)
            np.multiply(chain, np.uint32(16777619), out=chain)
            np.bitwise_xor(chain, high, out=chain)
        result = np.bitwise_xor.reduce(chain, axis=1) ^ np.arange(first_block, first_block + PAGES, dtype=np.uint32)
        return list(np.flatnonzero(result % 65535 + 1 != words[:, 0, 2] & np.uint32(0xFFFF)))


def ordinary_slab() -> memoryview:
    """A slab on 4 KiB pages."""
    region = mmap.mmap(-1, SLAB_BYTES)
    region.madvise(mmap.MADV_NOHUGEPAGE)
    return memoryview(region)


def fill(slab: memoryview, seed: int) -> None:
    """Random pages with right checksums for blocks 0 to 511."""
    words = np.frombuffer(slab, np.uint32)
    words[:] = np.random.default_rng(seed).integers(0, 1 << 32, words.size, dtype=np.uint32)
    table = words.reshape(PAGES, PAGE_BYTES // 4)
    table[:, 2] &= np.uint32(0xFFFF0000)
    table[:, 2] |= PageVerifier()._checksums(table, 0)


def measure(
    make: Callable[[], PageVerifier | PlainVerifier], slabs: list[memoryview], threads: int
) -> tuple[float, float]:
    """MB/s, and MB per CPU second; the best of three."""
    best = (0.0, 0.0)
    for _ in range(3):
        cpu: list[float] = []

        def work(mine: list[memoryview], used: list[float] = cpu) -> None:
            verifier = make()
            began = time.thread_time()
            for _ in range(ROUNDS):
                for slab in mine:
                    if verifier.bad_pages(slab, 0):
                        raise AssertionError("a good page was called bad")
            used.append(time.thread_time() - began)

        crew = [threading.Thread(target=work, args=(slabs[i::threads],)) for i in range(threads)]
        began = time.perf_counter()
        for thread in crew:
            thread.start()
        for thread in crew:
            thread.join()
        done = ROUNDS * len(slabs) * SLAB_BYTES / 1e6
        best = max(best, (done / (time.perf_counter() - began), done / sum(cpu)))
    return best


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    for memory, allocate in (("huge pages", allocate_slab), ("4 KiB pages", ordinary_slab)):
        slabs = [allocate() for _ in range(SLABS)]
        for seed, slab in enumerate(slabs):
            fill(slab, seed)
        for name, make in (("ours", PageVerifier), ("plain numpy", PlainVerifier)):
            for threads in (1, 2):
                speed, per_cpu = measure(make, slabs, threads)
                print(f"{name:12} {memory:12} {threads} threads  {speed:6.0f} MB/s  {per_cpu:6.0f} MB per CPU second")


if __name__ == "__main__":
    main()
