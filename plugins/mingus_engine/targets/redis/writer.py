"""Writing keys into a running server: ``RESTORE`` by the batch, several batches under way, every answer counted.

What the server answered "OK" to is in; nothing else counts as restored. An answer that ends the restore (out of
memory, a replica, a right that is missing) is kept in ``trouble`` until the answers to all that was sent are in: so the
numbers are exact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import hiredis
from redis.crc import key_slot

from mingus_engine import bounds
from mingus_engine.errors import MingusError, TargetNotEmpty
from mingus_engine.redis.link import command_bytes
from mingus_engine.redis.rdb import Key, dump_frame, dump_payload
from mingus_engine.store.throttled import Bucket
from mingus_engine.targets.redis.running import Node, RunningRedis

Conflict = Literal["fail", "skip", "replace"]

# A batch: small enough that three under way are a few megabytes, large enough that a turn of the link is no cost.
_BATCH_KEYS: Final = 500
_BATCH_BYTES: Final = 256 * bounds.KIB
# Values above this go out as they are, alone: copies of half a gigabyte would be felt.
_LARGE_BYTES: Final = bounds.MIB
# How often a key follows a node's "moved" before that is an error.
_MOVES_MAX: Final = 16
_SHOWN_BYTES: Final = 16
_MOVED = re.compile(r"(MOVED|ASK) (\d+) (.*):(\d+)")
_ELSEWHERE = ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN")
_ABSOLUTE: Final = b"$6\r\nABSTTL\r\n"
_REPLACE: Final = b"$7\r\nREPLACE\r\n"


@dataclass
class Counts:
    """What became of keys. :param restored: new ones. :param skipped: were there, and were kept.

    :param bytes: of the commands that were sent.
    """

    restored: int = 0
    replaced: int = 0
    skipped: int = 0
    bytes: int = 0

    @property
    def written(self) -> int:
        """Restored and replaced."""
        return self.restored + self.replaced


@dataclass
class _Lane:
    """What is collected for one node. ``again``: how often these were sent before."""

    node: Node
    database: int = 0
    names: list[bytes] = field(default_factory=list)
    commands: list[bytes] = field(default_factory=list)
    size: int = 0


@dataclass
class _Moved:
    """A key that a node sent elsewhere, or asked to come again. :param command: in pieces."""

    name: bytes
    command: Sequence[bytes]
    answer: str


class KeyWriter:
    """Not thread-safe.

    :param version: of the RDB that values come from. :param conflict: what becomes of keys that are there.
    :param keys_rate, bytes_rate: limits; ``None`` = none. :param batch_keys: keys sent at a time.
    :ivar trouble: why it must end; ask now and then.
    """

    def __init__(
        self,
        target: RunningRedis,
        *,
        version: int,
        conflict: Conflict,
        keys_rate: Bucket | None = None,
        bytes_rate: Bucket | None = None,
        batch_keys: int = _BATCH_KEYS,
    ) -> None:
        self._target, self._version, self._conflict = target, version, conflict
        self._keys_rate, self._bytes_rate = keys_rate, bytes_rate
        self._batch_keys = min(batch_keys, _BATCH_KEYS)
        self._only = None if target.cluster else target.nodes[0]
        self._lanes: dict[int, _Lane] = {}
        self._moved: list[_Moved] = []
        # The end of the payload before, and what follows it.
        self._last = b"\r\n" + (b"" if conflict != "replace" else _REPLACE) + _ABSOLUTE
        self._arguments = 6 if conflict == "replace" else 5
        self.counts = Counts()
        self.trouble: MingusError | None = None

    def put(self, key: Key, value: bytes, database: int) -> None:
        """Restore *key*, whose value is *value*, into *database*; it is in only when that was counted.

        :raises SourceError: the connection is cut. :raises Cancelled:
        """
        node = self._only or self._target.node_of(key.name)
        lane = self._lanes.get(id(node))
        if lane is None:
            lane = self._lanes[id(node)] = _Lane(node)
        if lane.database != database:
            self._flush(lane)
            lane.database = database
        if len(value) > _LARGE_BYTES:
            self._flush(lane)
            before, after = dump_frame(key.type, value, self._version)
            begin, end = self._frame(key, len(before) + len(value) + len(after))
            self._send(lane, [key.name], [[begin + before, value, after + end]])
            return
        payload = dump_payload(key.type, value, self._version)
        begin, end = self._frame(key, len(payload))
        command = b"%b%b%b" % (begin, payload, end)
        lane.names.append(key.name)
        lane.commands.append(command)
        lane.size += len(command)
        if len(lane.names) >= self._batch_keys or lane.size >= _BATCH_BYTES:
            self._flush(lane)

    def finish(self) -> None:
        """Send what is left and wait for every answer; errors as of :meth:`put`.

        :raises MingusError: ``trouble``.
        """
        if self.trouble is None:
            for lane in list(self._lanes.values()):
                self._flush(lane)
        self.settle()
        if self.trouble is not None:
            raise self.trouble

    def settle(self) -> None:
        """Wait for the answers to what was sent; errors as of :meth:`put`."""
        for node in self._target.nodes:
            node.pipeline.drain()
        while self._moved and self.trouble is None:
            self._follow()

    def _frame(self, key: Key, payload_bytes: int) -> tuple[bytes, bytes]:
        """What stands before and behind the payload in the command."""
        expire = b"%d" % max(key.expire_ms, 0)
        last, arguments = self._last, self._arguments
        if key.idle_s >= 0:
            idle = b"%d" % key.idle_s
            last, arguments = b"%b$8\r\nIDLETIME\r\n$%d\r\n%b\r\n" % (last, len(idle), idle), arguments + 2
        elif key.frequency >= 0:
            often = b"%d" % key.frequency
            last, arguments = b"%b$4\r\nFREQ\r\n$%d\r\n%b\r\n" % (last, len(often), often), arguments + 2
        begin = b"*%d\r\n$7\r\nRESTORE\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$%d\r\n" % (
            arguments, len(key.name), key.name, len(expire), expire, payload_bytes,
        )  # fmt: skip
        return begin, last

    def _flush(self, lane: _Lane) -> None:
        if not lane.names:
            return
        names, commands = lane.names, lane.commands
        lane.names, lane.commands, lane.size = [], [], 0
        self._send(lane, names, [[command] for command in commands] if self._target.cluster else [commands])

    def _send(self, lane: _Lane, names: Sequence[bytes], commands: Sequence[Sequence[bytes]]) -> None:
        """:param commands: of each key its pieces, where it may move; else all pieces together."""
        if self.trouble is not None:
            return
        pieces = [piece for command in commands for piece in command]
        size = sum(map(len, pieces))
        self._pay(len(names), size)
        node = lane.node
        self._target.select(node, lane.database)
        asked = existing(names, together=not self._target.cluster) if self._conflict == "replace" else []
        # One piece is one write: many small ones are joined, a large one is not copied.
        together = size <= 2 * _LARGE_BYTES
        node.pipeline.send(
            [b"".join([*asked, *pieces])] if together else [*asked, *pieces],
            len(asked) + len(names),
            lambda answers: self._answered(names, commands, answers, len(asked)),
        )
        if self._moved and self.trouble is None:
            self._follow()

    def _pay(self, keys: int, count: int) -> None:
        self.counts.bytes += count
        if self._keys_rate is not None:
            self._keys_rate.pay(keys)
        if self._bytes_rate is not None:
            self._bytes_rate.pay(count)

    def _answered(
        self, names: Sequence[bytes], commands: Sequence[Sequence[bytes]], answers: list[Any], asked: int
    ) -> None:
        there = 0
        for answer in answers[:asked]:
            if isinstance(answer, int):
                there += answer
            elif not self._target.cluster:
                self._fail(self._target.refused(str(answer), "looking for keys that are there"))
        answers = answers[asked:]
        fine = answers.count(b"OK")
        replaced = min(there, fine)
        self.counts.replaced += replaced
        self.counts.restored += fine - replaced
        if fine == len(answers):
            return
        for number, (name, answer) in enumerate(zip(names, answers, strict=True)):
            if isinstance(answer, hiredis.ReplyError):
                self._not_restored(name, commands[number] if self._target.cluster else (), str(answer))

    def _not_restored(self, name: bytes, command: Sequence[bytes], text: str) -> None:
        if text.startswith("BUSYKEY"):
            if self._conflict == "skip":
                self.counts.skipped += 1
                return
            self._fail(TargetNotEmpty(f"{self._target} has the key {shown(name)}", hint=CONFLICT_HINT))
        elif self._target.cluster and text.startswith(_ELSEWHERE):
            self._moved.append(_Moved(name, command, text))
        else:
            self._fail(self._target.refused(text, f"restoring the key {shown(name)}"))

    def _fail(self, error: MingusError) -> None:
        self.trouble = self.trouble or error

    def _follow(self) -> None:
        """Send keys that moved to where they are now, one after the other."""
        moved, self._moved = self._moved, []
        for one in moved:
            answer: Any = one.answer
            for _ in range(_MOVES_MAX):
                node, asking = self._where(one.name, str(answer))
                before = [command_bytes("ASKING")] if asking else []
                found: list[Any] = []
                node.pipeline.send([*before, *one.command], 1 + asking, found.extend)
                node.pipeline.drain()
                answer = found[-1]
                if not str(answer).startswith(_ELSEWHERE):
                    break
            if answer == b"OK":
                self.counts.restored += 1
            elif str(answer).startswith("BUSYKEY"):
                self._not_restored(one.name, one.command, str(answer))
            else:
                self._fail(self._target.refused(str(answer), f"restoring the key {shown(one.name)}"))
                return

    def _where(self, name: bytes, answer: str) -> tuple[Node, bool]:
        """Where *answer* sends the key *name*, and whether it must ask to be let in there."""
        found = _MOVED.match(answer)
        if found is None:
            self._target.wait()
            return self._target.node_of(name), False
        node = self._target.node_at(found[3] or self._target.conn.host, int(found[4]))
        if found[1] == "MOVED":
            self._target.moved(key_slot(name), node)
        return node, found[1] == "ASK"


class ConflictFinder:
    """Counts the keys that are there already; nothing is written.

    :ivar found: how many. :ivar some: a few of them.
    """

    def __init__(self, target: RunningRedis) -> None:
        self._target = target
        self._lanes: dict[tuple[int, int], list[bytes]] = {}
        self.found = 0
        self.some: list[bytes] = []

    def look(self, name: bytes, database: int) -> None:
        """Ask for the key *name*. :raises SourceError: the connection is cut. :raises Cancelled:"""
        node = self._target.node_of(name)
        names = self._lanes.setdefault((id(node), database), [])
        names.append(name)
        if len(names) >= _BATCH_KEYS:
            self._ask(node, database, names)

    def finish(self) -> None:
        """Wait for every answer; errors as of :meth:`look`."""
        for node in self._target.nodes:
            for (which, database), names in self._lanes.items():
                if which == id(node) and names:
                    self._ask(node, database, names)
            node.pipeline.drain()

    def _ask(self, node: Node, database: int, names: list[bytes]) -> None:
        asked, these = existing(names, together=not self._target.cluster), list(names)
        names.clear()
        self._target.select(node, database)
        answers: list[Any] = []
        node.pipeline.send([b"".join(asked)], len(asked), answers.extend)
        node.pipeline.drain()
        for answer in answers:
            if isinstance(answer, hiredis.ReplyError):
                raise self._target.refused(str(answer), "looking for keys that are there")
        there = sum(answers)
        self.found += there
        if there and not self.some:
            one_by_one = existing(these, together=False)
            answers = []
            node.pipeline.send([b"".join(one_by_one)], len(one_by_one), answers.extend)
            node.pipeline.drain()
            self.some = [name for name, answer in zip(these, answers, strict=True) if answer == 1][:5]


CONFLICT_HINT: Final = (
    "--conflict skip keeps what is there, --conflict replace puts the snapshot's in its place; or choose fewer keys by"
    " --keys"
)


def existing(names: Sequence[bytes], *, together: bool) -> list[bytes]:
    """The commands that ask which of *names* are there; one for all, where they need not be in one slot."""
    if together:
        return [command_bytes("EXISTS", *names)]
    return [command_bytes("EXISTS", name) for name in names]


def shown(name: bytes) -> str:
    """Enough of a key to find it by: names may be as secret as a session's."""
    text = name[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")
    return repr(text + "…" if len(name) > _SHOWN_BYTES else text)
