"""What every maker returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Dataset:
    """Raw examples ``x`` (n, ...), labels ``y`` (n,) int32, and whose each is: ``groups`` (n,) int32.

    A group is what one device would see in the field: a speaking role, a machine, a stretch of time.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[np.int32]
    groups: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: npt.NDArray[Any]) -> Self:
        """Return the examples that ``rows`` (indices or a mask) names."""
        return type(self)(self.x[rows], self.y[rows], self.groups[rows])

    def split(self, share: float) -> tuple[Self, Self]:
        """Return training and test part; the last ``share`` of each group's examples is for the test.

        In their own order: what follows in time or text is predicted from what came before.
        """
        place = np.zeros(len(self), np.int64)
        counts = np.bincount(self.groups)
        order = np.argsort(self.groups, kind="stable")
        starts = np.cumsum(counts) - counts
        place[order] = np.arange(len(self)) - starts[self.groups[order]]
        test = place >= np.ceil(counts[self.groups] * (1 - share))
        return self.take(~test), self.take(test)
