"""Reading a snapshot under the readers' protocol (DESIGN §4 "Readers")."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mingus_engine import ulids
from mingus_engine.codec import sealing
from mingus_engine.errors import Cancelled, ObjectMissing, ObjectRemoved, StoreError
from mingus_engine.jobs.context import JobContext
from mingus_engine.repository import envelope, names, runs, state, writer
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.objects import put_object
from mingus_engine.repository.repository import Repository


def choose(repository: Repository, source: str, snapshot: str | None) -> Manifest:
    """The snapshot whose ULID begins with *snapshot*, or the newest.

    :raises NoSuchSnapshot: none, or several.
    """
    seen = state.look(repository, source)
    return seen.find(snapshot) if snapshot else seen.newest()


@contextmanager
def announced(repository: Repository, manifest: Manifest, context: JobContext) -> Iterator[None]:
    """Tell cleaners that *manifest* is being read, where the store may be written to; then look that it is still there.

    An object found missing while the snapshot itself is gone is "removed", never "corrupt".

    :raises ObjectRemoved: the snapshot was removed, or a plan names it.
    """
    source = manifest.name.source
    run = _announce(repository, manifest, context)
    try:
        _require_there(repository, manifest)
        yield
    except ObjectMissing:
        _require_there(repository, manifest)
        raise
    finally:
        if run:
            header = runs.end_header(source, run, [])
            raw = repository.seal(envelope.RUN_END, header, b"{}", {"put_by": run})
            # A read that cannot be ended only makes a cleaner wait until it is seven days old.
            with suppress(StoreError, Cancelled):
                put_object(repository.store, raw, str(names.RunName(source, run, "end")))


def _announce(repository: Repository, manifest: Manifest, context: JobContext) -> str:
    run = ulids.new()
    keys = runs.RunKeys(sealing.random_key(), sealing.random_key())
    try:
        writer.put_start(
            repository, manifest.name.source, run,
            kind=runs.READ, keys=keys, provenance=context.provenance, facts={"manifest": str(manifest.name)},
        )  # fmt: skip
    except StoreError as error:
        context.log(f"cannot announce the read in {repository.name}: {error.message}")
        return ""
    return run


def _require_there(repository: Repository, manifest: Manifest) -> None:
    seen = state.look(repository, manifest.name.source)
    if str(manifest.name) not in {str(m.name) for m in seen.manifests}:
        raise ObjectRemoved(f"snapshot {manifest.ulid} was removed from {repository.name}")
