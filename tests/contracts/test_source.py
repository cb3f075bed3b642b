"""The contract of ``mingus_engine.sources.base``, sentence by sentence, for every source."""

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mingus_engine.bounds import SLAB_BYTES
from mingus_engine.errors import MingusError
from mingus_engine.settings import SourceSettings
from mingus_engine.sources.base import FileKind, Item, WalPiece
from mingus_engine.sources.postgres import open_backup
from mingus_engine.sources.postgres.backup import PostgresBackup
from mingus_engine.sources.slabs import SlabItem
from tests.mingus_engine.sources.postgres.collecting import TRANSPORTS, WalThread, connection, leftovers, source
from tests.support.postgres import BACKUP_FUNCTIONS, PgCluster
from tests.support.processes import wait_until

WORKERS = 3
#: Transport `sql` as a role that may not replicate, so without a slot.
PLAIN = "sql-plain"


@pytest.fixture(params=[*TRANSPORTS, PLAIN])
def settings(request: pytest.FixtureRequest, pg: PgCluster) -> Iterator[SourceSettings]:
    if request.param != PLAIN:
        yield source(pg, request.param)
        return
    pg.create_role("plain", execute=BACKUP_FUNCTIONS)
    yield source(pg, "sql", connection=connection(pg, "plain"))
    pg.execute("drop owned by plain", "drop role plain")


@pytest.fixture
def database(pg: PgCluster) -> Iterator[str]:
    with pg.temporary_database() as name:
        pg.execute(
            "create table big as select g, repeat('x', 1000) from generate_series(1, 12000) g",
            "create table empty (a int)",
            dbname=name,
        )
        yield name


@contextmanager
def opened(settings: SourceSettings) -> Iterator[PostgresBackup]:
    with open_backup(settings, label="contract", cancel=threading.Event()) as backup:
        yield backup


def read(item: Item, scratch: memoryview) -> int | None:
    data = item.read(scratch)
    return None if data is None else len(data)


def test_items_of_a_file_are_ascending_gapless_and_the_last_is_marked(settings: SourceSettings, database: str) -> None:
    reached: dict[bytes, int] = defaultdict(int)
    ended: set[bytes] = set()
    several = 0
    scratch = memoryview(bytearray(SLAB_BYTES))
    with opened(settings) as backup:
        for item in backup.items():
            path = item.file.path
            assert path not in ended, "nothing follows the last item of a file"
            assert item.offset == reached[path]
            assert 0 <= item.length <= SLAB_BYTES
            assert item.length > 0 or item.last
            reached[path] += item.length
            several += item.offset > 0
            if item.last:
                ended.add(path)
                assert reached[path] == item.file.size
            assert read(item, scratch) in {item.length, None}
            item.release()
        assert ended == set(reached)
        assert several >= 2, "the table has several slabs"
        backup.finish()


def test_directories_links_and_empty_files_are_one_item_without_bytes(settings: SourceSettings, database: str) -> None:
    kinds: dict[FileKind, int] = defaultdict(int)
    with opened(settings) as backup:
        for item in backup.items():
            if item.file.kind != FileKind.FILE or not item.file.size:
                kinds[item.file.kind] += 1
                assert (item.offset, item.length, item.last) == (0, 0, True)
                assert read(item, memoryview(bytearray(SLAB_BYTES))) == 0
            item.release()
    assert kinds[FileKind.DIRECTORY] > 10
    assert kinds[FileKind.FILE] >= 1


def test_items_may_be_read_by_many_threads_after_later_ones_were_yielded(
    settings: SourceSettings, database: str
) -> None:
    with opened(settings) as backup:
        items = backup.items()
        lock = threading.Lock()
        sizes: dict[bytes, int] = defaultdict(int)
        errors: list[BaseException] = []

        def work() -> None:
            scratch = memoryview(bytearray(SLAB_BYTES))
            held: list[Item] = []
            try:
                while True:
                    with lock:
                        item = next(items, None)
                    if item is not None:
                        held.append(item)
                    if len(held) > 1 or (item is None and held):
                        done = held.pop(0)
                        count = read(done, scratch) or 0
                        done.release()
                        with lock:
                            sizes[done.file.path] += count
                    elif item is None:
                        return
            except MingusError as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(WORKERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        assert errors == []
        finished = backup.finish()
    assert sizes[b"PG_VERSION"] == 3
    assert sum(sizes.values()) > 30_000_000
    assert finished.facts["stop_lsn"]


def test_release_is_idempotent_and_needs_no_read(settings: SourceSettings) -> None:
    with opened(settings) as backup:
        for item in backup.items():
            item.release()
            item.release()
        backup.finish()


def test_buffers_of_a_source_that_has_some_are_bounded(pg: PgCluster, database: str) -> None:
    """Without a release the iterator waits; it never has more slabs than it says."""
    settings = source(pg, "replication")
    with opened(settings) as backup:
        held: list[Item] = []
        stuck = threading.Event()

        def hoard() -> None:
            for item in backup.items():
                held.append(item)  # noqa: PERF402 - one by one, as they come
            stuck.set()

        thread = threading.Thread(target=hoard)
        thread.start()
        wait_until(lambda: len(held) > 10, "items come")
        thread.join(1)
        slabs = {id(item._slab) for item in held if isinstance(item, SlabItem) and item._slab is not None}
        assert len(slabs) <= settings.workers + 3
        for _ in range(1000):
            for item in held:
                item.release()
            thread.join(0.05)
            if stuck.is_set():
                break
        assert stuck.is_set()
        backup.finish()


def test_wal_comes_beside_the_items_and_ends_by_itself(settings: SourceSettings) -> None:
    with opened(settings) as backup:
        wal = WalThread(backup)
        for item in backup.items():
            item.release()
        backup.finish()
        wal.join()
        assert wal.start <= backup.start_lsn < backup.stop_lsn <= wal.start + len(wal.data)
        assert wal.start % backup.wal_segment_bytes == 0


def test_wal_may_be_asked_for_after_the_end(settings: SourceSettings) -> None:
    with opened(settings) as backup:
        for item in backup.items():
            item.release()
        backup.finish()
        pieces = [piece for piece in backup.wal() if isinstance(piece, WalPiece)]
        assert pieces[-1].start + len(pieces[-1].data) >= backup.stop_lsn


def test_expected_bytes_is_near_the_truth(settings: SourceSettings, database: str) -> None:
    with opened(settings) as backup:
        total = 0
        for item in backup.items():
            total += item.length
            item.release()
        assert 0.5 < backup.expected_bytes() / total < 2


def test_made_files_have_their_size_and_facts_are_plain(settings: SourceSettings) -> None:
    import json

    with opened(settings) as backup:
        for item in backup.items():
            item.release()
        finished = backup.finish()
    for file, content in finished.files:
        assert file.size == len(content)
        assert file.kind == FileKind.FILE
    assert json.loads(json.dumps(finished.facts)) == finished.facts
    assert json.dumps([dict(check.data) for check in finished.checks])


def test_close_is_idempotent_ends_the_wal_and_leaves_nothing(settings: SourceSettings, pg: PgCluster) -> None:
    backup = open_backup(settings, label="contract", cancel=threading.Event())
    wal = WalThread(backup)
    wait_until(lambda: wal.start >= 0, "WAL comes")
    next(backup.items()).release()
    backup.close()
    backup.close()
    with pytest.raises(MingusError):
        wal.join(20)
    wait_until(lambda: not leftovers(pg), "nothing is left")
