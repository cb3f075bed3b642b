"""What was restored is read back from the disk before anybody starts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from mingus_engine.errors import TargetError, VerificationFailed
from mingus_engine.jobs.postgres.check_restored import check_restored
from tests.integration.conftest import Install
from tests.support.archiving import drain, keep_wal
from tests.support.installation import SOURCE
from tests.support.postgres import PgCluster


def test_a_restore_to_a_moment_passes_and_a_flipped_bit_does_not(
    make_cluster, install: Install, workspace: Path
) -> None:
    cluster: PgCluster = make_cluster(15)
    keep_wal(cluster)
    made = install(cluster)
    made.back_up()
    cluster.execute("create table t as select 1 as a")
    drain(made)
    directory = workspace / "restored"
    made.restore(directory, to="latest")

    def check() -> bool:
        report = check_restored(made.settings, SOURCE, directory=directory, context=made.context())
        return all(found["ok"] for found in report.checks)

    assert check()
    victim = next(path for path in sorted((directory / "base").rglob("*")) if path.is_file() and path.stat().st_size)
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.write_bytes(raw)
    with pytest.raises(VerificationFailed, match="is not what was restored"):
        check()
    with pytest.raises(TargetError, match="is not a restored data directory"):
        check_restored(made.settings, SOURCE, directory=workspace, context=made.context())
