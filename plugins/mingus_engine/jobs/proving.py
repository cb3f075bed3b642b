"""What a kind of source gives ``verify``, which climbs the rungs that are the same for all (objects there, objects
whole), puts the proof and reports: a :class:`Prover` reads, restores and starts what only its kind knows.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from mingus_engine.checks import Check
from mingus_engine.errors import SettingsError
from mingus_engine.repository.manifests import Manifest
from mingus_engine.repository.reader import SnapshotReader


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What shall be proven; see ``verify``.

    :param snapshot: ULID or its beginning; ``None``: the newest, or what leads to the target. :param to: recovery
        target, or ``random[:SEED]``; ``None``: the snapshot itself. :param timeline, inclusive: of a target.
    :param whole: also where the settings let tests take turns.
    """

    snapshot: str | None = None
    to: str | None = None
    timeline: int | None = None
    inclusive: bool = True
    whole: bool = False


class Prover(Protocol):
    """One proof in the making; making it chooses, and refuses a target that cannot be reached.

    ``manifest``: what is proven. ``target``: the moment that is recovered to, ``seed``: the number that chose it; both
    ``None``: the snapshot itself. The figures are those of ``VerifyReport``, and hold after ``climb``.
    """

    manifest: Manifest
    target: str | None
    seed: int | None
    bytes_read: int
    rto_s: float | None
    rpo_s: float | None

    @property
    def sample(self) -> Mapping[str, int] | None:
        """Which share of the snapshot was restored; ``None``: all of it."""

    @property
    def evidence(self) -> Mapping[str, Any]:
        """What the next proof wants to know of this one; sealed in its record."""

    def climb(self, reader: SnapshotReader, level: int) -> list[Check]:
        """The rungs from L2 to *level* (2 to 4). Nothing is left behind, whatever happens.

        :raises MingusError: the test could not be made. What is wrong with the snapshot is a failed check.
        """


def random_seed(to: str | None) -> int | None:
    """The seed of ``random[:SEED]``, a fresh one where none is said; ``None``: *to* is another target, or none.

    :raises SettingsError: the seed is not a number.
    """
    kind, _, seed = (to or "").partition(":")
    if kind != "random":
        return None
    if seed and not seed.isdecimal():
        raise SettingsError(f"{to!r}: the seed is not a number")
    return int(seed) if seed else secrets.randbits(32)


class WholeProver:
    """What provers have in common that always restore all of a snapshot, and remember nothing."""

    @property
    def sample(self) -> Mapping[str, int] | None:
        """Everything."""
        return None

    @property
    def evidence(self) -> Mapping[str, Any]:
        """Nothing."""
        return {}
