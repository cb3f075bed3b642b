"""Do restored documents open? A file whose bytes are those that were backed up may have been broken before.

What opens them is a process without rights (``opening_child``); one that hangs or dies is replaced, and the document is
one that does not open. Whether a document opened at the last proof is kept with the proof, as 8 bytes of its path's
keyed hash: one that does not any more was replaced by something else since, as an attacker's encryption would.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from blake3 import blake3

from mingus_engine import bounds
from mingus_engine.checks import Check
from mingus_engine.codec.entries import Entry
from mingus_engine.jobs.context import JobContext
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.findings import shown

_CHILD = Path(__file__).with_name("opening_child.py")
_ANSWER_BYTES = 4096
# A document takes milliseconds; one that takes so long is not opened by anybody.
DOCUMENT_TIMEOUT_S = 40.0
# All documents of one proof: what is left then is counted as not tried.
_ALL_TIMEOUT_S = 900.0
_DOCUMENTS_MAX = 50_000
_FILE_MAX_BYTES = 512 * bounds.MIB
_MARK_BYTES = 8
_NAMED = 20
_NOBODY = 65534

_KINDS: Mapping[str, str] = {
    suffix: kind
    for kind, suffixes in {
        "pdf": ".pdf",
        "image": ".png .jpg .jpeg .gif .tif .tiff .webp .bmp",
        "office": ".docx .xlsx .pptx .docm .xlsm .pptm .xlsb .odt .ods .odp",
        "zip": ".zip .jar .war .epub",
        "tar": ".tar .tgz .tbz2 .txz",
        "gzip": ".gz",
        "bzip2": ".bz2",
        "xz": ".xz",
    }.items()
    for suffix in suffixes.split()
}


def kind_of(path: bytes) -> str:
    """What a file is by its name; empty = nothing that is opened."""
    suffix = os.path.splitext(path)[1].lower()  # noqa: PTH122 - a path of bytes
    return _KINDS.get(suffix.decode("latin-1"), "")


class Opened(NamedTuple):
    """``ok``: it opens; ``None``: that cannot be told (it is encrypted)."""

    ok: bool | None
    why: str = ""


class DocumentOpener:
    """The process without rights. A context manager.

    :param timeout_s: for each document.
    """

    def __init__(self, timeout_s: float = DOCUMENT_TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def open(self, where: bytes, kind: str) -> Opened:
        """Whether the file at *where* opens as a document of *kind*."""
        descriptor = os.open(where, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            connection = self._started()
            socket.send_fds(connection, [kind.encode()], [descriptor])
            answer = connection.recv(_ANSWER_BYTES)
        except TimeoutError:
            self._stop()
            return Opened(False, f"it did not open within {self._timeout_s:g} s")
        except OSError:
            answer = b""
        finally:
            os.close(descriptor)
        if not answer:
            self._stop()
            return Opened(False, "what opened it died of it")
        found = json.loads(answer)
        return Opened(found["ok"], shown(str(found["why"]).encode()))

    def _started(self) -> socket.socket:
        if self._socket is None:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            ours.settimeout(self._timeout_s)
            nobody = _NOBODY if os.geteuid() == 0 else -1
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, "-I", str(_CHILD), str(theirs.fileno()), str(nobody), str(nobody)],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/",
                    env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}, pass_fds=(theirs.fileno(),),
                )  # fmt: skip
            self._socket = ours
        return self._socket

    def _stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Documents:
    """The documents of one proof.

    :param before: what the last proof kept (``evidence``), of the same share of the set; empty = there is none.
    """

    def __init__(self, hash_key: bytes, before: Mapping[str, Any], context: JobContext) -> None:
        self._hash_key, self._context = hash_key, context
        self._before = _decoded(before)
        self._opened: list[bytes] = []

    def check(self, entries: Iterable[Entry], where: Callable[[bytes], bytes]) -> Check:
        """Open all documents among *entries*, whose files are at *where* and have the bytes that were backed up.

        Not ``ok``: some do not open that did at the last proof. Others that do not open were already broken when they
        were backed up; they are named.
        """
        counts: Counter[str] = Counter()
        by_kind: Counter[str] = Counter()
        broken: list[str] = []
        turned: list[str] = []
        until = time.monotonic() + _ALL_TIMEOUT_S
        with DocumentOpener() as opener:
            for entry in entries:
                kind = kind_of(entry.path) if entry.kind == FileKind.FILE else ""
                if not kind:
                    continue
                self._context.checkpoint()
                tried = sum(by_kind.values())
                if entry.size > _FILE_MAX_BYTES or tried >= _DOCUMENTS_MAX or time.monotonic() > until:
                    counts["not tried"] += 1
                    continue
                self._context.progress("verify L3", tried, 0, "documents")
                by_kind[kind] += 1
                found = opener.open(where(entry.path), kind)
                mark = self._mark(entry.path)
                if found.ok is None:
                    counts["not told"] += 1
                elif found.ok:
                    counts["open"] += 1
                    self._opened.append(mark)
                else:
                    counts["broken"] += 1
                    (turned if mark in self._before else broken).append(f"{shown(entry.path)}: {found.why}")
        data = {
            "kinds": dict(by_kind),
            **counts,
            "already_broken": broken[:_NAMED],
            "opened_at_the_last_proof": turned[:_NAMED],
        }
        return Check("L3 documents", not turned, _said(counts, broken, turned), data)

    def evidence(self) -> dict[str, Any]:
        """What the next proof wants to know of this one."""
        return {"opened": base64.b64encode(b"".join(sorted(self._opened))).decode()}

    def _mark(self, path: bytes) -> bytes:
        return blake3(path, key=self._hash_key).digest(length=_MARK_BYTES)


def _said(counts: Counter[str], broken: list[str], turned: list[str]) -> str:
    said = f"{counts['open']} documents open"
    if turned:
        named = "; ".join(turned[:3])
        said += f"; {len(turned)} opened at the last proof and do not now, was their content replaced? {named}"
    if broken:
        said += f"; {len(broken)} were already broken when they were backed up: {'; '.join(broken[:3])}"
    for what in ("not told", "not tried"):
        if counts[what]:
            said += f"; {counts[what]} {what}"
    return said


def _decoded(evidence: Mapping[str, Any]) -> set[bytes]:
    try:
        raw = base64.b64decode(str(evidence.get("opened", "")), validate=True)
    except binascii.Error:
        return set()
    return {raw[at : at + _MARK_BYTES] for at in range(0, len(raw), _MARK_BYTES)}
