"""Running a job in a process that is killed at a chosen call of a store or a chosen moment of its progress.

The processes are forked from one that has imported the engine already, so that one step costs a fraction of a second.
A first run without a kill tells which calls there are; :func:`steps` makes the moments to die at from them.
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import re
import signal
import struct
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mingus_engine.codec.containers import BlobKind
from mingus_engine.jobs.back_up import back_up
from mingus_engine.jobs.context import JobContext, Progress
from mingus_engine.jobs.postgres.restore import restore
from mingus_engine.jobs.ship import ship
from mingus_engine.jobs.verify import verify
from mingus_engine.repository import packs
from mingus_engine.settings import load
from mingus_engine.store.faulty import Fault, FaultyStore
from tests.support.file_sets import FileSet
from tests.support.installation import Installation, replaced_bare_store
from tests.support.redis_installation import RedisInstallation

JOBS = {"back_up": back_up, "ship": ship, "restore": restore, "verify": verify}
#: Packs this small make a few megabytes many of them. The open ones are what a kill may cost.
PACK_BYTES = 256 * 1024
TIMEOUT_S = 120.0
_VARYING = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}|[0-9a-f]{64}|[0-9A-F]{16}-[0-9A-F]{16}|(?<=/)\d+(?=\.)")
_CHANGES = {"put", "delete"}
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload([__name__])


@dataclass(frozen=True)
class Step:
    """A moment to die at: a call of the store of *repository*, or the first progress whose text begins with *phase*.

    A step with neither runs to the end.
    """

    repository: str = ""
    fault: Fault | None = None
    phase: str = ""

    def __str__(self) -> str:
        if self.fault is None:
            return self.phase or "never"
        f = self.fault
        return f"{self.repository}: {f.action} {f.operation} {f.name} #{f.nth}"


@dataclass(frozen=True)
class Order:
    """What a process does: a job with its arguments, and when it dies.

    :param notes: where it writes what it did (:class:`Notes`).
    """

    settings: Path
    environment: Mapping[str, str]
    job: str
    arguments: Mapping[str, Any]
    step: Step
    temporary: Path
    notes: Path
    repositories: tuple[str, ...]
    source: str


@dataclass(frozen=True)
class Outcome:
    """How the process ended: its status (negative: signal), and what it did until then.

    :param sealed_bytes: data it sealed into packs. :param calls: (repository, operation, name), of whole runs only.
    """

    status: int
    sealed_bytes: int = 0
    calls: tuple[tuple[str, str, str], ...] = ()
    phases: tuple[str, ...] = field(default=())


def run(installation: Installation | RedisInstallation | FileSet, job: str, step: Step, **arguments: Any) -> Outcome:
    """Run *job* in a process that dies at *step*."""
    notes = installation.root / "notes"
    notes.write_bytes(bytes(8))
    whole = notes.with_suffix(".json")
    whole.unlink(missing_ok=True)
    order = Order(
        installation.root / "mingus.yaml",
        installation.environment,
        job,
        arguments,
        step,
        installation.root / "tmp",
        notes,
        tuple(r.name for r in installation.settings.repositories),
        installation.settings.sources[0].id,
    )
    process = _forks.Process(target=perform, args=(order,))
    process.start()
    try:
        process.join(TIMEOUT_S)
        if process.exitcode is None:
            raise AssertionError(f"{job} neither ended nor died within {TIMEOUT_S:g} s at {step}")
        (sealed,) = struct.unpack("<Q", notes.read_bytes())
        found = json.loads(whole.read_text()) if whole.exists() else {"calls": [], "phases": []}
        calls = tuple((r, o, n) for r, o, n in found["calls"])
        return Outcome(process.exitcode, sealed, calls, tuple(found["phases"]))
    finally:
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


def perform(order: Order) -> None:
    """The body of the process."""
    os.environ.update(order.environment, TMPDIR=str(order.temporary), SQLITE_TMPDIR=str(order.temporary))
    tempfile.tempdir = str(order.temporary)
    packs._CONTENT_MAX_BYTES = PACK_BYTES
    _count_sealed(order.notes)
    phases: dict[str, None] = {}

    def on_progress(progress: Progress) -> None:
        text = f"{progress.phase} {progress.detail}" if progress.phase == "verify L4" else progress.phase
        phases.setdefault(text)
        if order.step.phase and text.startswith(order.step.phase):
            os.kill(os.getpid(), signal.SIGKILL)

    stores: dict[str, list[FaultyStore]] = {}
    replaced = []
    for name in order.repositories:
        faults = [order.step.fault] if order.step.fault and order.step.repository == name else []
        replaced.append(replaced_bare_store(name, faults, stores.setdefault(name, [])))
        replaced[-1].__enter__()
    context = JobContext(provenance={"host": "test"}, on_progress=on_progress)
    JOBS[order.job](load(order.settings), order.source, context=context, **order.arguments)
    calls = [(name, c.operation, c.name) for name, made in stores.items() for store in made for c in store.calls]
    order.notes.with_suffix(".json").write_text(json.dumps({"calls": calls, "phases": list(phases)}))


def _count_sealed(notes: Path) -> None:
    """Note how much data was sealed where it outlives this process."""
    with notes.open("r+b") as file:
        counter = mmap.mmap(file.fileno(), 8)
    append = packs.PackWriter.append

    def counting(self: packs.PackWriter, kind: BlobKind, *arguments: Any, **options: Any) -> Any:
        ref = append(self, kind, *arguments, **options)
        if kind is BlobKind.DATA:
            with self._lock:
                (before,) = struct.unpack_from("<Q", counter)
                struct.pack_into("<Q", counter, 0, before + ref.sealed_bytes)
        return ref

    packs.PackWriter.append = counting  # type: ignore[method-assign]


def steps(outcome: Outcome, *, every: bool = False) -> list[Step]:
    """Moments to die at: around every call of a whole run, or around the first, a middle and the last of each kind.

    Before and after what changes the store; before what only reads it, since after it is before the next.
    """
    kinds = Counter((r, o, _VARYING.sub("*", n)) for r, o, n in outcome.calls)
    made = []
    for (repository, operation, pattern), count in sorted(kinds.items()):
        numbers = range(1, count + 1) if every else sorted({1, (count + 1) // 2, count})
        actions = ("die", "die_after") if operation in _CHANGES else ("die",)
        if operation not in _CHANGES and not every:
            numbers = [count]
        for nth in numbers:
            fault = Fault(operation, "die", name=pattern, nth=nth)  # type: ignore[arg-type]
            made.extend(Step(repository, replace(fault, action=action)) for action in actions)
    return [*made, *(Step(phase=phase) for phase in outcome.phases)]


def sampled(found: Iterable[Step], *, keep: int) -> Iterator[Step]:
    """At most *keep* of the steps, spread evenly."""
    everything = list(found)
    stride = max(1.0, len(everything) / keep)
    at = 0.0
    while round(at) < len(everything):
        yield everything[round(at)]
        at += stride
