"""A restore of files into a place that may hold some: what is there is looked at, entry by entry, and decided upon.

1. *survey*: everything is decided once without writing; what must not be, conflicts first, ends the restore here.
2. *write*: decided again, for the place may be in use, and done at once; contents by several threads.
3. other names of files; then, of a whole delta restore, what the snapshot does not have is removed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

from mingus_engine.codec.entries import Entry
from mingus_engine.codec.shards import TabledEntry
from mingus_engine.errors import TargetError, TargetNotEmpty
from mingus_engine.jobs.context import JobContext
from mingus_engine.jobs.crew import Crew
from mingus_engine.jobs.files.deciding import Action, Change, Policy, Present, Tally
from mingus_engine.jobs.files.materialise import link_of
from mingus_engine.jobs.files.removing import Removing
from mingus_engine.jobs.files.selecting import Chosen, Selection
from mingus_engine.repository.reader import SnapshotReader
from mingus_engine.repository.small_files import contents, together
from mingus_engine.sources.base import FileKind
from mingus_engine.sources.files.findings import shown
from mingus_engine.sources.files.reading import xattrs_of
from mingus_engine.targets import places
from mingus_engine.targets.files.live import LiveTarget, copying
from mingus_engine.targets.files.tree import OwnerOf

_QUEUE_GROUPS = 8
_WORKERS = 2
_TOGETHER = 256
# Of what stops a restore before it began, so many are named.
_NAMED = 5


class Merging:
    """See the module.

    :param tell: called with every change that the survey finds.
    :ivar tally: what was done, or would be. :ivar writing: whether writing began.
    """

    def __init__(
        self,
        reader: SnapshotReader,
        target: LiveTarget,
        context: JobContext,
        *,
        policy: Policy,
        selection: Selection,
        owner_of: OwnerOf,
        removing: Removing | None,
        tell: Callable[[Change], None],
    ) -> None:
        self._reader, self._target, self._context = reader, target, context
        self._policy, self._selection, self._owner_of = policy, selection, owner_of
        self._removing, self._tell = removing, tell
        self._lock = threading.Lock()
        self._actions: dict[bytes, Change] = {}
        self._links = False
        self._blocking: list[bytes] = []
        self._total = 0
        self.writing = False
        self.tally = Tally()
        self.read_bytes = 0

    def survey(self, *, compare: bool = False) -> None:
        """Decide everything; nothing is written.

        :param compare: of a delta, compare contents, too (a dry run that says what differs).
        :raises TargetNotEmpty: something is in the way, and the policy is to fail. :raises TargetError: a directory
            that holds something is in place of something else; there is not enough space.
        """
        stopping: Counter[str] = Counter()
        named: list[str] = []
        needed: Counter[bytes] = Counter()
        count = 0
        for _, entry, table, change in self._decided():
            if change.action is Action.MEND and compare:
                change = self._compared(TabledEntry(entry, table), change)
            if change.action is Action.CREATE:
                count += 1
                needed[entry.path.partition(b"/")[0]] += self._needed(TabledEntry(entry, table))
            self._total += entry.size if change.action in (Action.CREATE, Action.OVERWRITE, Action.MEND) else 0
            if self._policy.conflict == "fail" and change.action is Action.SKIP:
                stopping["conflict"] += 1
                named += [shown(entry.path)] if len(named) < _NAMED else []
            elif change.action is Action.OVERWRITE and self._holds_something(entry, change):
                stopping["directory"] += 1
                named += [shown(entry.path)] if len(named) < _NAMED else []
            self._said(entry, change)
        if self._removing is not None:
            for path, _ in self._removing.absent():
                self._said(None, Change(path, Action.REMOVE))
        if stopping["conflict"]:
            raise TargetNotEmpty(
                f"{stopping['conflict']} of what is to be restored is there already: {', '.join(named)}",
                hint="nothing was written; choose what is to be done with it (skip, newer, overwrite), or a delta",
            )
        if stopping["directory"]:
            raise TargetError(
                f"{stopping['directory']} directories that hold something are in the way: {', '.join(named)}",
                hint="nothing was written; remove or rename them",
            )
        by_place = dict.fromkeys((path for _, path in self._target.space()), 0)
        for label, where in self._target.space():
            by_place[where] += sum(needed.values()) if not label else needed[label]
        places.require_space(by_place, count)

    def run(self, tell: Callable[[Change], None]) -> None:
        """Write everything, telling each change to *tell*. What was done before a failure stays.

        :raises Damaged: what is stored is not what was backed up. :raises TargetError: :raises Cancelled:
        """
        self.tally, self.writing, self._tell = Tally(), True, tell
        if self._removing is not None:
            self._removing.make_room(self._blocking, self._removed)
        crew: Crew[list[TabledEntry]] = Crew(
            "restore", lambda: self._write, cancel=self._context.cancel, queue_items=_QUEUE_GROUPS
        )
        crew.run(self._groups(), _WORKERS)
        if self._links:
            self._make_links()
        if self._removing is not None:
            for path, folder in self._removing.absent():
                self._context.checkpoint()
                if self._removing.remove(path, folder=folder):
                    self._removed(path)
            self._removing.finish(self._removed)

    # -- deciding -----------------------------------------------------------------------------------------------------

    def _decided(self) -> Iterator[tuple[Chosen, Entry, Any, Change]]:
        """Every entry that is meant, with what happens to it; nothing below what is left as it is."""
        closed: set[bytes] = set()
        for chosen in self._selection.of(self._reader):
            self._context.checkpoint()
            entry = chosen.table.entry(chosen.number)
            if closed and any(entry.path.startswith(path + b"/") for path in closed):
                change = Change(entry.path, Action.SKIP, bytes=entry.size, why="what it lies in was kept")
            else:
                change = self._decide(entry, parent=chosen.parent)
            if change.action is Action.SKIP and entry.kind == FileKind.DIRECTORY:
                closed = {path for path in closed if entry.path < path + b"0"} | {entry.path}
            yield chosen, entry, chosen.table.runs, change

    def _decide(self, entry: Entry, *, parent: bool = False) -> Change:
        present = self._present(entry)
        change = self._policy.decide(entry, present, self._owner_of(entry))
        if parent and present is not None and "kind" not in change.differs:
            return replace(change, action=Action.SAME, why="it holds what was chosen")
        return change

    def _present(self, entry: Entry) -> Present | None:
        found = self._target.look(entry.path)
        if found is None:
            return None
        xattrs = None
        if self._policy.delta:
            try:
                xattrs = xattrs_of(self._target.where(entry.path))
            except OSError:
                xattrs = None
        return Present(*found, xattrs=xattrs)

    def _compared(self, file: TabledEntry, change: Change) -> Change:
        """*change*, of a plain file whose content was compared."""
        if "size" in change.differs:
            return replace(change, action=Action.OVERWRITE)
        with self._target.reading(file.entry.path) as found:
            if found is None or found[0].st_size != file.entry.size or not self._reader.same(file, found[1]):
                return replace(change, action=Action.OVERWRITE, differs=("content", *change.differs))
        return change if change.differs else replace(change, action=Action.SAME)

    def _holds_something(self, entry: Entry, change: Change) -> bool:
        """Whether a directory is in the way that will not be empty."""
        if "kind" not in change.differs:
            return False
        present = self._present(entry)
        if present is None or not present.is_kind(FileKind.DIRECTORY) or self._target.is_empty(entry.path):
            return False
        if self._removing is None or self._removing.leaves_something(entry.path):
            return True
        self._blocking.append(entry.path)
        return False

    def _needed(self, file: TabledEntry) -> int:
        return self._reader.stored_bytes(file) if file.entry.kind == FileKind.FILE and not link_of(file.entry) else 0

    # -- writing ------------------------------------------------------------------------------------------------------

    def _groups(self) -> Iterator[list[TabledEntry]]:
        mending: list[TabledEntry] = []
        for group in together(self._files(mending)):
            yield group
            if len(mending) >= _TOGETHER:
                given, mending[:] = list(mending), []
                yield from together(given)
        yield from together(mending)

    def _files(self, mending: list[TabledEntry]) -> Iterator[TabledEntry]:
        """Files that will be written; those to be compared first go to *mending*, what has no content is made."""
        yield from self._reader.expected(self._new(mending))

    def _new(self, mending: list[TabledEntry]) -> Iterator[TabledEntry]:
        for _, entry, runs, change in self._decided():
            if entry.kind == FileKind.DIRECTORY:
                self._directory(entry, change)
            elif entry.kind == FileKind.FILE and link_of(entry):
                self._links = True
            elif change.action in (Action.SKIP, Action.SAME):
                self._said(entry, change)
            elif entry.kind == FileKind.SYMLINK:
                self._put(entry, change, self._target.make_symlink)
            elif entry.kind != FileKind.FILE:
                self._put(entry, change, self._target.make_special)
            else:
                self._actions[entry.path] = change
                if change.action is Action.MEND:
                    mending.append(TabledEntry(entry, runs))
                else:
                    yield TabledEntry(entry, runs)

    def _directory(self, entry: Entry, change: Change) -> None:
        if change.action is Action.OVERWRITE and "kind" in change.differs:
            self._target.remove(entry.path, folder=False)
        elif change.action is not Action.CREATE and change.action is not Action.SKIP:
            self._target.clean(entry.path)
        # Of one that stays as it is, what is restored into it changed the times.
        settles = self._policy.conflict == "overwrite" and change.action is Action.SAME
        if change.action in (Action.CREATE, Action.OVERWRITE) or (settles and not change.why):
            self._target.make_directory(entry)
        self._said(entry, change)

    def _put(self, entry: Entry, change: Change, make: Callable[[Any], object]) -> None:
        instead = change.action is not Action.CREATE
        if self._target.put(entry, make, replace=instead or self._policy.conflict == "overwrite"):
            self._said(entry, change)
            return
        if self._policy.conflict == "fail":
            raise TargetError(f"target {shown(entry.path)}: somebody made it while it was restored")
        self._said(entry, replace(change, action=Action.SKIP, why="it was made meanwhile"))

    def _write(self, group: list[TabledEntry]) -> None:
        """What a worker does."""
        wanted = [file for file in group if not self._mended(file)]
        for part in together(wanted):
            if len(part) == 1:
                self._whole(part[0])
                continue
            for file, pieces in contents(self._reader, part):
                self._context.checkpoint()
                change = self._actions.pop(file.entry.path)
                self._put(file.entry, change, partial(self._target.write_small, pieces=pieces))
                self._read(file.entry)

    def _whole(self, file: TabledEntry) -> None:
        def make(entry: Entry) -> None:
            writer = self._target.open_file(entry)
            try:
                for offset, data, _ in self._reader.data(file):
                    self._context.checkpoint()
                    if data is not None:
                        writer.write(offset, data)
                writer.close()
            finally:
                writer.abort()

        self._put(file.entry, self._actions.pop(file.entry.path), make)
        self._read(file.entry)

    def _mended(self, file: TabledEntry) -> bool:
        """Whether *file* needed no more than what it had already: some blocks at most."""
        entry = file.entry
        change = self._actions[entry.path]
        if change.action is not Action.MEND:
            return False
        compared = self._compared(file, change)
        if compared.action is not Action.OVERWRITE:
            if compared.action is Action.MEND and not self._target.amend(entry):
                return False
            self._actions.pop(entry.path)
            self._said(entry, compared)
            return True
        self._actions[entry.path] = compared
        if not entry.maps and entry.size <= _COPIED_BYTES:
            return False
        self._blocks(file, compared)
        self._actions.pop(entry.path)
        return True

    def _blocks(self, file: TabledEntry, change: Change) -> None:
        """A large file of which some is there: in place where a mark covers that, else a copy that takes its place."""
        present = self._target.open_in_place(file.entry)
        if present is not None:
            try:
                for offset, data, length, same in self._reader.changes(file, present.read):
                    self._context.checkpoint()
                    if same and data is not None:
                        present.keep(offset, data)
                    else:
                        present.write(offset, bytes(length) if data is None else data)
                present.close()
            finally:
                present.abort()
            self._said(file.entry, change)
            return

        def make(entry: Entry) -> None:
            writer = self._target.open_file(entry)
            try:
                with self._target.reading(file.entry.path) as found:
                    local = found[1] if found is not None else lambda _, __: b""
                    for offset, data, _, same in self._reader.changes(file, local):
                        self._context.checkpoint()
                        if same and data is not None:
                            copying(writer, offset, data)
                        elif data is not None:
                            writer.write(offset, data)
                    writer.close()
            finally:
                writer.abort()

        self._put(file.entry, change, make)
        self._read(file.entry)

    def _make_links(self) -> None:
        """Other names of files; where the first name is not the snapshot's file, the first one here is its own file."""
        instead: dict[bytes, bytes] = {}
        for _, entry, runs, change in self._decided():
            first = link_of(entry) if entry.kind == FileKind.FILE else b""
            if not first:
                continue
            if change.action is Action.SKIP:
                self._said(entry, change)
                continue
            to = instead.get(first, first)
            known = self._target.look(to)
            good = known is not None and (known[0].st_mtime_ns, known[0].st_size) == (entry.mtime_ns, entry.size)
            good = good and (self._vouched_for(to) or self._holds(to, TabledEntry(entry, runs)))
            here = self._target.look(entry.path)
            if good and known and here and (known[0].st_dev, known[0].st_ino) == (here[0].st_dev, here[0].st_ino):
                self._said(entry, replace(change, action=Action.SAME))
            elif change.action is Action.SAME and not self._policy.delta:
                self._said(entry, change)
            elif good and known and self._target.put(
                entry, partial(self._target.require_link, first=to),
                replace=change.action is not Action.CREATE or self._policy.conflict == "overwrite",
            ):  # fmt: skip
                self._said(
                    entry, change if change.action is Action.CREATE else replace(change, action=Action.OVERWRITE)
                )
            else:
                self._actions[entry.path] = change
                self._whole(TabledEntry(entry, runs))
                instead[first] = entry.path

    def _vouched_for(self, path: bytes) -> bool:
        """Whether this restore wrote *path* or compared it: where it may have been kept, nobody knows what is in it."""
        return self._policy.conflict not in ("skip", "newer") and self._selection.wants(path, folder=False)

    def _holds(self, path: bytes, file: TabledEntry) -> bool:
        """Whether *path*, which this restore did not look into, has the content of *file*: size and time may lie."""
        with self._target.reading(path) as found:
            return found is not None and self._reader.same(file, found[1])

    # -- telling ------------------------------------------------------------------------------------------------------

    def _removed(self, path: bytes) -> None:
        self._said(None, Change(path, Action.REMOVE))

    def _read(self, entry: Entry) -> None:
        with self._lock:
            self.read_bytes += entry.size
            done = self.read_bytes
        self._context.progress("restore", done, self._total, shown(entry.path))

    def _said(self, entry: Entry | None, change: Change) -> None:
        folder = entry is not None and entry.kind == FileKind.DIRECTORY
        with self._lock:
            # A directory that is there counts for nothing: it is what is in it that was kept or not.
            if not folder or change.action is not Action.SAME:
                self.tally.add(change)
            self._tell(change)


#: A smaller file is fetched as a whole where it differs.
_COPIED_BYTES = 1 << 20
