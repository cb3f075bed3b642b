"""Patterns of keys, as ``KEYS`` and ``SCAN MATCH`` read them: ``*``, ``?``, ``[ab]``, ``[^a-z]``, and a backslash.

Source: ``stringmatchlen`` in ``util.c``. Bytes, not letters: ``?`` is one byte.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable


def matcher(patterns: Iterable[bytes]) -> Callable[[bytes], object]:
    """What is true for a name that one of *patterns* matches; without any, for every name."""
    wanted = list(patterns)
    if not wanted or b"*" in wanted:
        return lambda _: True
    if all(p.endswith(b"*") and not re.search(rb"[*?\[\\]", p[:-1]) for p in wanted):
        prefixes = tuple(p[:-1] for p in wanted)
        return lambda name: name.startswith(prefixes)
    return re.compile(b"|".join(b"(?:%b)" % _expression(p) for p in wanted), re.DOTALL).fullmatch


def _expression(pattern: bytes) -> bytes:
    out, at = b"", 0
    while at < len(pattern):
        char = pattern[at : at + 1]
        if char == b"*":
            # Stars that follow each other are one: with each, names that match nearly take longer.
            out, at = out + b".*", at + len(pattern[at:]) - len(pattern[at:].lstrip(b"*"))
        elif char == b"?":
            out, at = out + b".", at + 1
        elif char == b"[":
            found, at = _class(pattern, at + 1)
            out += found
        else:
            # A backslash at the very end stands for itself.
            at += char == b"\\" and at + 1 < len(pattern)
            out, at = out + re.escape(pattern[at : at + 1]), at + 1
    return out


def _class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """What follows a ``[``: as an expression, and where it ends. One that is not closed ends with the pattern."""
    negated = pattern[at : at + 1] == b"^"
    at += negated
    allowed: set[int] = set()
    while at < len(pattern) and pattern[at : at + 1] != b"]":
        if pattern[at : at + 1] == b"\\" and at + 1 < len(pattern):
            allowed.add(pattern[at + 1])
            at += 2
        elif pattern[at + 1 : at + 2] == b"-" and at + 2 < len(pattern):
            low, high = sorted((pattern[at], pattern[at + 2]))
            allowed.update(range(low, high + 1))
            at += 3
        else:
            allowed.add(pattern[at])
            at += 1
    if negated:
        allowed = set(range(256)) - allowed
    expression = b"[%b]" % b"".join(re.escape(bytes([byte])) for byte in sorted(allowed)) if allowed else b"(?!)"
    return expression, at + 1
