"""Some records of a source, seen as a source (numpy only)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class Subset:
    """The records of `source` at `positions`; their own `index` stays that of the whole source.

    Attributes:
        lengths: frames of each record.
    """

    def __init__(self, source: Any, positions: Sequence[int]) -> None:
        self._source, self._positions = source, list(positions)
        self.lengths = tuple(source.lengths[position] for position in self._positions)

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, position: int) -> dict[str, Any]:
        return self.record(position)

    def record(self, position: int, epoch: int = 0) -> dict[str, Any]:
        """The record at `position` of this subset."""
        return self._source.record(self._positions[position], epoch)
