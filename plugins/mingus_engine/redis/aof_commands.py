"""Commands as Redis writes them into an append-only file and sends them to replicas: where each begins and ends.

``*<arguments>\\r\\n`` then per argument ``$<length>\\r\\n<bytes>\\r\\n`` (RESP, https://redis.io/docs/latest/develop/reference/protocol-spec/);
in an append-only file also annotations, ``#TS:<seconds since 1970>\\r\\n``. A :class:`Scanner` is fed the bytes in any
pieces and holds none of them: an argument of 512 MiB costs no memory.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from mingus_engine.errors import Damaged

# Redis accepts 1,048,576 arguments of at most 512 MiB unless proto-max-bulk-len says more; a module may write more.
_ARGUMENTS_MAX = 1 << 31
_BULK_MAX_BYTES = 1 << 40
# Longer than any number; an annotation is refused by Redis beyond 1 KiB.
_LINE_MAX_BYTES = 1024
_NAME_MAX_BYTES = 32
# Number of arguments with the first one's length; the end of an argument with the next one's length.
_HEAD = re.compile(rb"\*([0-9]{1,9})\r\n\$([0-9]{1,9})\r\n")
_NEXT = re.compile(rb"\r\n\$([0-9]{1,9})\r\n")

#: What a replica is sent that is no part of the data: it answers or passes it on.
_NOT_DATA = frozenset({b"PING", b"REPLCONF", b"PUBLISH", b"SPUBLISH"})


class Command(NamedTuple):
    """A whole command: offset of its first byte and behind its last, and its name in capitals."""

    start: int
    end: int
    name: bytes


class Stamp(NamedTuple):
    """An annotation: what follows was written at or after ``seconds`` (since 1970); ``boundary`` = may be cut there."""

    boundary: int
    seconds: int


class Scanner:
    """See the module.

    :param at: offset of the first byte that will be fed. :param what: names the stream in errors.
    :ivar boundary: behind the last whole command that is in no unfinished transaction: a place to cut.
    :ivar position: everything before was fed. :ivar stamps: annotations of the last :meth:`feed`.
    :ivar commands: whole ones so far.
    """

    def __init__(self, what: str, at: int = 0) -> None:
        self._what = what
        self.position = self.boundary = self._start = at
        self.commands = 0
        self.stamps: list[Stamp] = []
        self._line = b""
        self._arguments = self._left = 0
        self._first = False
        self._name = bytearray()
        self._ending = b""
        self._transaction = False

    @property
    def unfinished(self) -> tuple[int, bytes | None]:
        """Where the command begins that is not whole yet (``position`` when there is none), and its name if known."""
        known = self._arguments and (not self._first or len(self._name) >= _NAME_MAX_BYTES)
        return self._start, bytes(self._name).upper() if known else None

    def feed(self, data: bytes | memoryview) -> list[Command]:
        """The next bytes; the commands that end in them.

        :raises Damaged: they are no commands; the offset is named.
        """
        data = bytes(data)
        found: list[Command] = []
        self.stamps = []
        base, at, end = self.position, 0, len(data)
        while at < end:
            if not self._arguments and not self._line:
                at = self._whole(data, at, base, found)
                if at == end:
                    break
            if self._left:
                at = self._argument(data, at, base)
                if self._left == 0 and self._arguments == 0:
                    found.append(self._ended(base + at))
                continue
            behind = data.find(b"\n", at)
            line = self._line + (data[at:] if behind < 0 else data[at : behind + 1])
            if behind < 0:
                if len(line) > _LINE_MAX_BYTES:
                    raise self._wrong(base + at)
                self._line = line
                break
            self._line = b""
            at = behind + 1
            self._header(line, base + at)
        self.position = base + end
        if not self._arguments and not self._line:
            self._start = self.position
        return found

    def _whole(self, data: bytes, at: int, base: int, found: list[Command]) -> int:
        """Pass over the commands that lie in *data* as a whole: the fast way; where it ends, the other one goes on."""
        end = len(data)
        while head := _HEAD.match(data, at):
            arguments, length = int(head[1]), int(head[2])
            first = head.end()
            behind = first + length
            for _ in range(arguments - 1):
                following = _NEXT.match(data, behind)
                if following is None:
                    return at
                behind = following.end() + int(following[1])
            if behind + 2 > end or data[behind : behind + 2] != b"\r\n" or not arguments:
                return at
            self._start, self._name = base + at, bytearray(data[first : first + min(length, _NAME_MAX_BYTES)])
            at = behind + 2
            found.append(self._ended(base + at))
        return at

    def _header(self, line: bytes, behind: int) -> None:
        if line[-2:] != b"\r\n":
            raise self._wrong(behind - len(line))
        if self._arguments:
            # The length of an argument; with it its line end.
            self._left = self._number(line, b"$", _BULK_MAX_BYTES, behind) + 2
            return
        if line[:1] == b"#":
            if line[:4] == b"#TS:":
                self.stamps.append(Stamp(self.boundary, self._number(line, b"#TS:", 1 << 62, behind)))
            if not self._transaction:
                self.boundary = behind
            self._start = behind
            return
        self._start = behind - len(line)
        self._arguments = self._number(line, b"*", _ARGUMENTS_MAX, behind)
        if not self._arguments:
            raise self._wrong(behind - len(line))
        self._first = True
        self._name.clear()

    def _argument(self, data: bytes, at: int, base: int) -> int:
        """Pass over what is there of the present argument and its line end."""
        take = min(self._left, len(data) - at)
        of_content = min(take, max(0, self._left - 2))
        if self._first and len(self._name) < _NAME_MAX_BYTES:
            self._name += data[at : at + min(of_content, _NAME_MAX_BYTES)]
        if take > of_content:
            self._ending += data[at + of_content : at + take]
        self._left -= take
        if self._left == 0:
            if self._ending != b"\r\n":
                raise self._wrong(base + at)
            self._ending = b""
            self._first = False
            self._arguments -= 1
        return at + take

    def _ended(self, behind: int) -> Command:
        name = bytes(self._name).upper()
        command = Command(self._start, behind, name)
        if name == b"MULTI":
            self._transaction = True
        elif name in {b"EXEC", b"DISCARD"}:
            self._transaction = False
        if not self._transaction:
            self.boundary = behind
        self.commands += 1
        self._start = behind
        return command

    def _number(self, line: bytes, mark: bytes, limit: int, behind: int) -> int:
        digits = line[len(mark) : -2]
        if not line.startswith(mark) or not digits.isdigit() or len(digits) > 19 or (found := int(digits)) > limit:
            raise self._wrong(behind - len(line))
        return found

    def _wrong(self, at: int) -> Damaged:
        return Damaged(f"{self._what}: no command at byte {at}")


def replayable(chunks: Iterable[bytes], scanner: Scanner, end: int) -> Iterator[bytes]:
    """A command stream as the content of an append-only file: without what is no data (``PING``, ``REPLCONF GETACK``).

    :param chunks: the stream from the scanner's position. :param end: where to stop: a boundary.
    :raises Damaged: *end* is no boundary, the stream ends before it, or it is no stream of commands.
    """
    # Of a command that goes on in the next chunk: what is not given yet (its name is not known).
    held = b""
    for chunk in chunks:
        base = scanner.position
        part = chunk[: end - base]
        kept: list[bytes] = []
        at = 0  # of the part, everything before is done
        for command in scanner.feed(part):
            upto = command.end - base
            if command.name not in _NOT_DATA:
                kept += [held, part[at:upto]]
            held, at = b"", upto
        _, name = scanner.unfinished
        if name is None:
            held += part[at:]
        elif name not in _NOT_DATA:
            kept += [held, part[at:]]
            held = b""
        else:
            held = b""
        if whole := b"".join(kept):
            yield whole
        if scanner.position == end:
            break
    if scanner.boundary != end:
        raise Damaged(f"the stored commands do not end at {end}, but at {scanner.boundary}")
