"""The text of ``tablespace_map``: from it the starting server makes the links in ``pg_tblspc``, over what is there.

One line ``<oid> <location>`` per tablespace; a newline, carriage return or backslash of a location is written with a
backslash before it (``do_pg_backup_start`` and ``read_tablespace_map`` in PostgreSQL's ``xlog.c``, ``xlogrecovery.c``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from mingus_engine.errors import Damaged

_LINE = re.compile(rb"([0-9]{1,10}) ((?:[^\\\n\r]|\\[\\\n\r])+)\n")
_ESCAPE = re.compile(rb"[\\\n\r]")


def parse(text: bytes) -> dict[int, bytes]:
    """Locations by the tablespaces' OIDs.

    :raises Damaged: the text is not a tablespace map.
    """
    found: dict[int, bytes] = {}
    position = 0
    while position < len(text):
        line = _LINE.match(text, position)
        if line is None or int(line[1]) in found:
            raise Damaged(f"tablespace_map byte {position}: not a line of one tablespace")
        found[int(line[1])] = re.sub(rb"\\(.)", rb"\1", line[2], flags=re.DOTALL)
        position = line.end()
    return found


def generate(locations: Mapping[int, bytes]) -> bytes:
    """The text that gives these locations, in the mapping's order."""
    return b"".join(b"%d %s\n" % (oid, _ESCAPE.sub(rb"\\\g<0>", place)) for oid, place in locations.items())
