"""A continuous archive of a cluster's write-ahead log for tests: drained on demand, nothing is lost in between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from mingus_engine import lsn as lsns
from mingus_engine.jobs.postgres import wal
from mingus_engine.repository import log_index, runs, writer
from mingus_engine.sources.base import TimelineHistory, WalPiece
from mingus_engine.sources.postgres.wal import WalReceiver
from tests.support.installation import FIRST, SOURCE, Installation
from tests.support.postgres import PgCluster


def keep_wal(cluster: PgCluster) -> None:
    """From now on the server keeps all its log for :func:`drain`."""
    cluster.value("select pg_create_physical_replication_slot('keep', true)")


def drain(installation: Installation, cluster: PgCluster | None = None, repository: str = FIRST) -> int:
    """Store the log of *cluster* (default: the installation's) up to its current end; that LSN.

    The timeline's history is stored too. It goes on where the repository's log has its first gap since the slot.
    """
    cluster = cluster or installation.cluster
    settings = installation.settings
    source = settings.source(SOURCE)
    connection = installation.connection_to(cluster)
    with installation.opened(repository) as place:
        run = writer.begin(
            place, SOURCE, kind=runs.LOG, spool_path=settings.spool_path, level=1, provenance={"host": "test"}
        )
        context = installation.context()
        with closing(run), WalReceiver(connection, context.cancel) as receiver:
            identity = receiver.identify()
            segment_bytes = int(cluster.value("select setting from pg_settings where name = 'wal_segment_size'"))
            logs = log_index.list_logs(place, SOURCE).timeline(identity.system_id, identity.timeline)
            kept = lsns.parse(cluster.value("select restart_lsn from pg_replication_slots where slot_name = 'keep'"))
            begin = logs.covered_to(lsns.segment_start(kept, segment_bytes))

            def stream() -> Iterator[WalPiece | TimelineHistory]:
                if identity.timeline > 1:
                    yield receiver.history(identity.timeline)
                yield from receiver.stream(lsns.segment_start(begin, segment_bytes), identity.timeline)

            receiver.create_temporary_slot("drain")
            receiver.stop_at(identity.flush)
            wal.archive(
                run, stream(), system_id=identity.system_id, segment_bytes=segment_bytes,
                spool_path=settings.spool_path, level=source.zstd_level,
            )  # fmt: skip
            run.end([])
    return identity.flush
