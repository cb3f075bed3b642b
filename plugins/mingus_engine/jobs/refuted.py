"""What proofs say of snapshots, for whoever chooses one to restore."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mingus_engine.repository import names, records, state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.repository import Repository
from mingus_engine.repository.writer import UNUSABLE


def refuted(repository: Repository, source: str) -> set[tuple[str, str]]:
    """(ULID, content digest) of the snapshots whose newest proof in this repository says that they are not good."""
    newest: dict[tuple[str, str], bool] = {}
    listed = [name for info in repository.store.list(f"records/{source}/") if (name := names.record(info.name))]
    for name in sorted(listed, key=lambda n: n.ulid):
        if name.kind == records.PROOF:
            record = repository.get_record(name)
            if record.facts.get("target") and record.facts.get("ok") is not True:
                continue  # a recovery beyond the snapshot failed: that may be the log's fault
            newest[record.text("snapshot"), record.text("digest_of")] = record.facts.get("ok") is True
    return {key for key, good in newest.items() if not good}


def usable(
    repository: Repository, source: str, seen: state.SourceState, *, trusted: str = ""
) -> tuple[list[tuple[Manifest, Mapping[str, Any]]], dict[str, str]]:
    """The snapshots with their facts that a recovery may begin with, in the source's order; of each other one its ULID
    and why it may not.

    :param trusted: ULID of a snapshot that counts although its newest proof says that it is not good.
    """
    found: list[tuple[Manifest, Mapping[str, Any]]] = []
    unusable = dict(seen.damaged_snapshots())
    bad = refuted(repository, source)
    for manifest in seen.manifests:
        try:
            facts = repository.manifest_body(manifest).facts
        except UNUSABLE as error:
            unusable[manifest.ulid] = error.message
            continue
        if (manifest.ulid, manifest.digest) in bad and manifest.ulid != trusted:
            unusable[manifest.ulid] = "its newest proof here says that it is not good"
        else:
            found.append((manifest, facts))
    return found, unusable
