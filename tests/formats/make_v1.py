"""Makes tests/formats/v1: two repositories of format 1, to be read for ever. Run once per format, never again:

    PYTHONPATH=plugins:. .venv/bin/python tests/formats/make_v1.py

``v1/repository`` has two snapshots (the second builds on a run that died) with WAL, a history file and a proof;
``v1/destination`` has the second one, shipped. ``v1/expected.json`` says what must come out.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from contextlib import closing
from pathlib import Path

from mingus_engine import bounds
from mingus_engine.repository import records, state
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.slots import Credentials
from mingus_engine.settings import Secret
from mingus_engine.sources.base import FileKind, TimelineHistory
from tests.support import repositories as support

HERE = Path(__file__).parent / "v1"
#: Not secrets: they open what this script makes, and nothing else.
KEY = b"v1: not a secret".ljust(32, b".").hex()
PASSPHRASE = "v1: this passphrase is not a secret"
KEYS = Credentials(environment=Secret(KEY), passphrase=Secret(PASSPHRASE))
LARGE = 66 * bounds.MIB + 12_345
WAL_START = 0x1_0000_0000 - 3 * bounds.MIB


def pattern(offset: int, length: int) -> bytes:
    """Bytes that compress to nearly nothing and differ from MiB to MiB."""
    first, last = offset // 4096, (offset + length) // 4096
    raw = b"".join(b"%07d\n" % (page // 256) * 512 for page in range(first, last + 1))
    return raw[offset - first * 4096 : offset - first * 4096 + length]


def first_tree() -> support.MadeSource:
    return support.MadeSource(
        files={
            b"PG_VERSION": b"18\n",
            b"base/1/empty": b"",
            b"base/1/exactly-one-block": pattern(7 * bounds.MIB, bounds.BLOCK_BYTES),
            b"base/1/one-block-and-a-byte": pattern(9 * bounds.MIB, bounds.BLOCK_BYTES + 1),
            b"base/1/noise": support.noise(40_000, "v1"),
            b"odd/\xff\xfe not UTF-8": b"1",
            "odd/ünïcode ✓".encode(): b"2",
            b"odd/new\nline and 'quotes\"": b"3",
            b"odd/" + b"n" * 255: b"4",
        },
        large={b"base/1/large": (LARGE, pattern)},
        directories=[b"base", b"base/1", b"odd", b"pg_tblspc"],
        links={b"pg_tblspc/16385": b"/srv/tablespaces/fast", b"odd/link": b"../\xff"},
    )


def second_tree() -> support.MadeSource:
    return support.MadeSource(
        files={b"PG_VERSION": b"18\n", b"base/1/noise": support.noise(40_000, "v1"), b"base/1/later": b"later\n" * 99},
        directories=[b"base", b"base/1"],
        mtime_ns=-1,
    )


def expectation(tree: support.MadeSource) -> list[dict[str, object]]:
    digests = tree.digests()
    found = [
        {
            "path": item.file.path.hex(),
            "kind": int(item.file.kind),
            "mode": item.file.mode,
            "uid": item.file.uid,
            "gid": item.file.gid,
            "mtime_ns": item.file.mtime_ns,
            "size": item.file.size,
            "target": item.file.target.hex(),
            "sha256": digests[item.file.path] if item.file.kind == FileKind.FILE else "",
        }
        for item in tree.items()
        if item.last
    ]
    return sorted(found, key=lambda f: bytes.fromhex(str(f["path"])))


def die(made: support.MadeRepository, tree: support.MadeSource) -> None:
    """A run that stored its packs and ended there."""
    with closing(support.begin(made)) as run:
        support.store_tree(made, run, tree)


def commit(made: support.MadeRepository, tree: support.MadeSource, stop: int) -> tuple[Manifest, str]:
    """A snapshot of *tree* with WAL up to *stop*; SHA-256 of that WAL."""
    with closing(support.begin(made)) as run:
        pieces = list(support.wal_pieces(WAL_START, stop - WAL_START, seed="v1"))
        history = TimelineHistory(2, "00000002.history", b"1\t0/FFD00000\tno recovery target specified\n")
        logs = support.archive(made, run, [history, *pieces])
        manifest = support.commit(made, run, tree, position=stop, logs=logs, cut_bits=1)
    return manifest, hashlib.sha256(b"".join(p.data for p in pieces)).hexdigest()


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as directory:
        origin = support.make_repository(Path(directory, "origin"), keys=KEYS)
        destination = support.make_repository(
            Path(directory, "destination"), keys=KEYS, signer=origin.repository.keys.signer
        )
        first, first_wal = commit(origin, first_tree(), WAL_START + 1_500_000)
        die(origin, second_tree())
        second, second_wal = commit(origin, second_tree(), WAL_START + 3_300_000)
        facts = {
            "snapshot": first.ulid,
            "digest_of": first.digest,
            "level": 4,
            "ok": True,
            "at": "2026-01-01T00:00:00+00:00",
        }
        origin.repository.put_record(records.PROOF, support.SOURCE, facts, {"report": {"checks": []}})
        support.shipped(origin, destination, second)
        seen = state.look(origin.repository, support.SOURCE)
        expected = {
            "source": support.SOURCE,
            "fingerprint": origin.repository.config.fingerprint,
            "repository": {"id": origin.repository.id, "escrow": origin.escrow},
            "destination": {"id": destination.repository.id, "escrow": destination.escrow},
            "snapshots": [
                {"ulid": m.ulid, "digest": m.digest, "wal_sha256": wal, "files": expectation(tree)}
                for m, tree, wal in zip(
                    seen.manifests, (first_tree(), second_tree()), (first_wal, second_wal), strict=True
                )
            ],
        }
        shutil.copytree(origin.root, HERE / "repository")
        shutil.copytree(destination.root, HERE / "destination")
        (HERE / "expected.json").write_text(json.dumps(expected, indent=1, sort_keys=True) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
