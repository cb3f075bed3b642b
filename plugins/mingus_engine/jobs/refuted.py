"""What proofs say of snapshots, for whoever chooses one to restore."""

from __future__ import annotations

from mingus_engine.repository import names, records
from mingus_engine.repository.repository import Repository


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
