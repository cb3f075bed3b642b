"""``mingus check SOURCE`` of files: would a backup find and read what it shall? Nothing is changed, little is read."""

from __future__ import annotations

import errno
import os
import stat
import threading
from collections.abc import Iterator
from itertools import islice

from mingus_engine.checks import Check
from mingus_engine.settings import FileSetSettings, SourceSettings
from mingus_engine.sources.files.findings import Findings, shown
from mingus_engine.sources.files.walk import Found, Walker

# How many entries of a set are looked at: enough to meet a folder that may not be read, in a second or two.
_LOOKED_AT = 20_000
# The capability that lets a process read every file whatever its mode (capabilities(7)).
_CAP_DAC_READ_SEARCH = 2
_CAP_DAC_OVERRIDE = 1


def check_source(settings: SourceSettings, cancel: threading.Event) -> Iterator[Check]:
    """Check after check, as they are made."""
    files = settings.files
    there = True
    for root in files.roots:
        check = _root(root.name, os.fsencode(root.path))
        there = there and check.ok
        yield check
    yield _rights()
    if there:
        yield from _entries(files, cancel)


def _root(label: str, path: bytes) -> Check:
    name = f"root {label}"
    try:
        status = os.stat(path)  # noqa: PTH116 - a path of bytes
        if stat.S_ISDIR(status.st_mode):
            with os.scandir(path) as entries:
                empty = next(entries, None) is None
        else:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))
            empty = False
    except OSError as error:
        return Check(name, False, f"{shown(path)}: {error.strerror}")
    if empty:
        # The place of a file system that is not mounted is a directory with nothing in it.
        return Check(name, False, f"{shown(path)} is empty: is its disk not mounted?", {"empty": True})
    where = _mount_of(path)
    return Check(name, True, f"{shown(path)}, in the file system mounted at {shown(where)}", {"mount": shown(where)})


def _mount_of(path: bytes) -> bytes:
    """The directory that the file system of *path* is mounted at."""
    at = os.path.realpath(path)
    while not os.path.ismount(at) and at != b"/":
        at = os.path.dirname(at)  # noqa: PTH120 - a path of bytes
    return at


def _rights() -> Check:
    """Whether this process reads files whatever their modes are."""
    if os.geteuid() == 0 or _capable(_CAP_DAC_READ_SEARCH) or _capable(_CAP_DAC_OVERRIDE):
        return Check("rights", True, "reads every file, whatever its mode")
    return Check("rights", True, "reads only what this user may read; to read everything: root, or CAP_DAC_READ_SEARCH")


def _capable(number: int) -> bool:
    """Whether a capability is in effect."""
    try:
        with open("/proc/self/status", "rb") as status:  # noqa: PTH123 - one line of it
            line = next(line for line in status if line.startswith(b"CapEff:"))
    except (OSError, StopIteration):
        return False
    return bool(int(line.split()[1], 16) >> number & 1)


def _entries(files: FileSetSettings, cancel: threading.Event) -> Iterator[Check]:
    """A walk through the beginning of the set: what can be listed, opened, and read of attributes."""
    findings = Findings()
    walker = Walker(files, findings)
    count = plain = unreadable = attributes = 0
    named: list[str] = []
    walk = walker.found()
    for found in islice(walk, _LOOKED_AT):
        if cancel.is_set():
            return
        count += 1
        plain += stat.S_ISREG(found.status.st_mode)
        if why := _unreadable(found):
            unreadable += 1
            named.append(f"{shown(found.path)}: {why}")
        attributes += not _attributes_readable(found)
    more = next(walk, None) is not None
    unreadable += findings.counts["unreadable directory"] + findings.counts["unreadable"]
    named += [*findings.named.get("unreadable directory", ()), *findings.named.get("unreadable", ())]
    looked = f"{'the first ' if more else ''}{count} entries"
    share = unreadable / max(1, plain + unreadable)
    if unreadable:
        yield Check(
            "readable", share <= files.unreadable_max_share,
            f"{unreadable} of {looked} cannot be read: {'; '.join(named[:3])}", {"count": unreadable},
        )  # fmt: skip
    else:
        yield Check("readable", True, f"{looked} can be listed and opened")
    yield Check(
        "attributes", not attributes,
        f"of {attributes} of {looked} the extended attributes cannot be read" if attributes else "can be read",
    )  # fmt: skip
    if not plain and not files.may_be_empty and not more:
        yield Check("files", False, "there is no file in the set: a backup is flagged", {"files": 0})


def _unreadable(found: Found) -> str:
    """Why a plain file cannot be opened; empty = it can, or is none, or went away."""
    if not stat.S_ISREG(found.status.st_mode):
        return ""
    try:
        os.close(os.open(found.real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return error.strerror or "cannot be opened"
    return ""


def _attributes_readable(found: Found) -> bool:
    try:
        os.listxattr(found.real, follow_symlinks=False)
    except OSError as error:
        return error.errno in {errno.ENOENT, errno.ENOTSUP, errno.EOPNOTSUPP}
    return True
