"""Page checksums of what was just read; what does not verify is read again before it is called bad.

A page with a wrong checksum may be one that the server was just writing, so it is read again, several times. PostgreSQL
itself skips pages that are newer than the start of the backup; but garbage looks newer than anything. So whatever stays
wrong in five reads over half a second is reported: a write takes microseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

from mingus_engine.bounds import PAGE_BYTES, RELATION_SEGMENT_BLOCKS
from mingus_engine.sources.postgres import exclusions
from mingus_engine.sources.postgres.findings import Findings

# Pauses before each of the repeated reads of a page that does not verify.
_REREAD_PAUSES_S = (0.0, 0.01, 0.05, 0.15, 0.3)
# A disk full of bad pages must not take half a second each.
_PATIENT_FINDINGS = 200

#: Fills a buffer from an offset of the file; the bytes that were there.
Read = Callable[[memoryview, int], int]


class PageChecks:
    """Verifies pages in any thread; bad ones go to *findings*."""

    def __init__(self, findings: Findings, cancel: threading.Event) -> None:
        self._findings = findings
        self._cancel = cancel
        self._threads = threading.local()

    def verify(self, path: bytes, offset: int, data: memoryview, read: Read) -> None:
        """Verify *data*, read from *offset* (whole pages) of the file *path*; pages read again are put right in it."""
        relation = exclusions.relation(path)
        if relation is None:
            return
        verifier = getattr(self._threads, "verifier", None)
        if verifier is None:
            from mingus_engine.sources.postgres.pages import PageVerifier  # numpy: only for who verifies

            verifier = self._threads.verifier = PageVerifier()
        first = relation.segment * RELATION_SEGMENT_BLOCKS + offset // PAGE_BYTES

        def still_bad(index: int) -> bool:
            page = data[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
            cut_off = read(page, offset + index * PAGE_BYTES) < PAGE_BYTES
            return not cut_off and bool(verifier.bad_pages(page, first + index))

        bad = [page.index for page in verifier.bad_pages(data, first)]
        pauses = _REREAD_PAUSES_S if self._findings.count < _PATIENT_FINDINGS else _REREAD_PAUSES_S[:1]
        for pause in pauses:
            if not bad:
                break
            self._cancel.wait(pause)
            bad = list(filter(still_bad, bad))
        self._findings.verified(len(data) // PAGE_BYTES)
        for index in bad:
            self._findings.add(path, offset // PAGE_BYTES + index)
