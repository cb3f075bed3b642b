"""What an increment of files may not be built on, besides the general rules (``repository.reusable``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mingus_engine.repository.reusable import Candidate


class FilesRules:
    """Nothing more: what is taken over is found by path and by content, whatever became of roots and rules."""

    def foreign(self, then: Mapping[str, Any], facts: Mapping[str, Any]) -> str:  # noqa: ARG002 - the contract
        """See :class:`Rules`."""
        return ""

    def begin_anew(self, parent: Candidate, facts: Mapping[str, Any]) -> list[str]:  # noqa: ARG002 - the contract
        """See :class:`Rules`."""
        return []
