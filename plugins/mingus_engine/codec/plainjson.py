"""Strict, deterministic JSON for headers and bodies.

Digests and signatures cover the exact stored bytes, so nothing is ever re-encoded to be compared; determinism only
makes equal values equal bytes. Reading refuses what two parsers could read differently: double keys, NaN, other
encodings.
"""

from __future__ import annotations

import json
import math
from typing import Any

from mingus_engine.errors import Damaged


def encode(value: Any) -> bytes:
    """*value* (dicts with text keys, lists, text, ints, floats, bools, None) as JSON bytes, keys sorted, ASCII only."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode("ascii")


def decode(raw: bytes | memoryview, what: str) -> dict[str, Any]:
    """The JSON object in *raw*.

    :param what: names the object in the error.
    :raises Damaged: not one JSON object in ASCII, a key twice, NaN, a number out of range, nested too deep.
    """
    try:
        value = json.loads(
            bytes(raw).decode("ascii"), object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite
        )
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{what}: not valid JSON: {type(error).__name__}") from None
    if not isinstance(value, dict):
        raise Damaged(f"{what}: not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("a number is out of range")
    return value


def _refuse(name: str) -> float:
    raise ValueError(f"constant {name}")
