"""Runs: the start and the end of every job that writes, archives logs or reads.

``.start`` is put before anything else and holds the run key, sealed; ``.end`` says what was committed. A run without
``.end`` is open or dead: nothing but its own process ever ends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mingus_engine.codec import plainjson, sealing
from mingus_engine.repository import envelope, names

WRITE = "write"
LOG = "log"
READ = "read"


@dataclass(frozen=True)
class RunKeys:
    """What ``.start`` seals: the run key and the key of the source's block hashes, 32 bytes each."""

    run_key: bytes
    hash_key: bytes

    def encode(self) -> bytes:
        """The plain bytes of the sealed body."""
        return plainjson.encode({"run_key": self.run_key.hex(), "hash_key": self.hash_key.hex()})

    @classmethod
    def decode(cls, raw: bytes, what: str) -> RunKeys:
        """:raises Damaged: not well-formed."""
        values = plainjson.decode(raw, what)
        return cls(
            envelope.hexbytes(values, "run_key", sealing.KEY_BYTES, what),
            envelope.hexbytes(values, "hash_key", sealing.KEY_BYTES, what),
        )


def decode(raw: bytes, name: names.RunName, signing_public: bytes) -> envelope.Envelope:
    """Read and verify the start or end of a run. :raises Damaged: changed, or not what its name says."""
    e = envelope.parse(raw, envelope.RUN_START if name.part == "start" else envelope.RUN_END, str(name))
    e.verify(signing_public)
    if (e.text("source"), e.text("ulid")) != (name.source, name.run):
        envelope.mismatch(str(name))
    return e


def start_header(
    source: str, run: str, kind: str, provenance: Mapping[str, str], facts: Mapping[str, Any]
) -> dict[str, Any]:
    """The plain header of a ``.start``. *facts*: of a read, the manifest it reads."""
    return {**facts, "source": source, "ulid": run, "kind": kind, "provenance": dict(provenance)}


def end_header(source: str, run: str, committed: list[str]) -> dict[str, Any]:
    """The plain header of an ``.end``; *committed* are stored names."""
    return {"source": source, "ulid": run, "committed": committed}
