"""What an entry says of a file beyond its fixed fields: the ``extra`` of entries of kind ``files``.

A sequence of ``u8 tag · u16 length · value`` (little-endian), ascending by tag::

    1 mark    i64 ctime ns · u64 inode: with size and mtime, what tells that a file was not changed. Absent = read it
              again: it was changed while it was read, or so shortly before that its times could not tell
    2 link    another name of the same file, the first of them in path order; content and metadata are the same
    3 xattr   u8 length of the name · name · value; once for each
    4 device  u32 major · u32 minor, of a device

Readers pass over tags that they do not know below 64 and refuse others.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

from mingus_engine.errors import Damaged, FormatTooNew

_HEAD = struct.Struct("<BH")
_MARK = struct.Struct("<BHqQ")
_DEVICE = struct.Struct("<II")
_REQUIRED = 64
#: The fields of an entry have 16 bits for its length.
EXTRA_MAX_BYTES = 0xFFFF
MARK_BYTES = _MARK.size

# A mark, a link to the longest path that Linux takes, a device.
_OTHERS_MAX_BYTES = MARK_BYTES + 2 * _HEAD.size + _DEVICE.size + 4096

TAG_MARK, TAG_LINK, TAG_XATTR, TAG_DEVICE = 1, 2, 3, 4


def mark(ctime_ns: int, inode: int) -> bytes:
    """The encoded mark, which an ``extra`` begins with if it has one."""
    return _MARK.pack(TAG_MARK, 16, ctime_ns, inode)


@dataclass(frozen=True, slots=True)
class Attributes:
    """See the module. ``mark``: encoded, may be empty; ``xattrs``: ascending by name; ``device``: major and minor."""

    mark: bytes = b""
    link: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    device: tuple[int, int] | None = None

    def encode(self) -> bytes:
        """The bytes of an ``extra``."""
        if not (self.link or self.xattrs or self.device):
            return self.mark
        parts = [self.mark]
        if self.link:
            parts += [_HEAD.pack(TAG_LINK, len(self.link)), self.link]
        for name, value in self.xattrs:
            parts += [_HEAD.pack(TAG_XATTR, 1 + len(name) + len(value)), bytes([len(name)]), name, value]
        if self.device:
            parts += [_HEAD.pack(TAG_DEVICE, _DEVICE.size), _DEVICE.pack(*self.device)]
        return b"".join(parts)


_NONE = Attributes()


def has_more(extra: bytes) -> bool:
    """Whether *extra* has anything besides a mark."""
    return bool(extra) and not (len(extra) == MARK_BYTES and extra[0] == TAG_MARK)


def decode(raw: bytes, what: str) -> Attributes:
    """The attributes in *raw*.

    :raises FormatTooNew: one that must be known is not. :raises Damaged: not well-formed.
    """
    if not raw:
        return _NONE
    if len(raw) == MARK_BYTES and raw[0] == TAG_MARK:
        return Attributes(mark=raw)
    found: dict[int, bytes] = {}
    xattrs: list[tuple[bytes, bytes]] = []
    at = last = 0
    while at < len(raw):
        if at + _HEAD.size > len(raw):
            raise Damaged(f"{what}: its attributes end early")
        tag, length = _HEAD.unpack_from(raw, at)
        value = raw[at + _HEAD.size : at + _HEAD.size + length]
        if tag >= _REQUIRED:
            raise FormatTooNew(f"{what}: attribute {tag} is not known to this program")
        if len(value) != length or tag < last or (tag in found and tag != TAG_XATTR):
            raise Damaged(f"{what}: its attributes are not well-formed")
        if tag == TAG_XATTR:
            if not value or not 0 < value[0] < length:
                raise Damaged(f"{what}: an extended attribute is not well-formed")
            xattrs.append((value[1 : 1 + value[0]], value[1 + value[0] :]))
        found[tag] = raw[at : at + _HEAD.size + length]
        last, at = tag, at + _HEAD.size + length
    mark_raw, device = found.get(TAG_MARK, b""), found.get(TAG_DEVICE)
    if (mark_raw and len(mark_raw) != MARK_BYTES) or (device and len(device) != _HEAD.size + _DEVICE.size):
        raise Damaged(f"{what}: its attributes are not well-formed")
    return Attributes(
        mark=mark_raw,
        link=found.get(TAG_LINK, b"")[_HEAD.size :],
        xattrs=tuple(xattrs),
        device=_DEVICE.unpack_from(device, _HEAD.size) if device else None,
    )


def fitting(xattrs: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether attributes with *xattrs* fit into an entry, whatever else it has."""
    return _OTHERS_MAX_BYTES + sum(_HEAD.size + 1 + len(name) + len(value) for name, value in xattrs) <= EXTRA_MAX_BYTES
