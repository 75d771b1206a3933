"""Which coordinates a round sends, and by how much each is rescaled.

Codec ``global_topk``: half of the kept coordinates are those that the last step moved most, the other half
are explored by the shared seed among the rest. A leading coordinate is sent whatever the seed says and keeps
its value; an explored one is sent with probability e/(D-h) and is multiplied by the inverse. Given the last
step, the expectation over the seed is then the update itself, coordinate by coordinate (Horvitz and Thompson
1952). Without leading coordinates this is plain rand-k.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Indices
from shoal_codecs.updates.coordinates import rand_coordinates
from shoal_codecs.updates.errors import CoordinateError

_SAMPLE = 1 << 14
_SAMPLED_FROM = 1 << 17
NO_LEADING: Indices = np.empty(0, dtype=np.int64)
LEADING_SHARE = 2
"""One in so many of the kept coordinates leads."""


@dataclass(frozen=True, eq=False)
class Selection:
    """The coordinates of one round: `indices` int64[k], increasing, below `dimension`.

    `is_leading`: bool[k], or None where all are explored. `leading`: int64[h], the same as indices.
    """

    dimension: int
    indices: Indices
    leading: Indices
    is_leading: npt.NDArray[np.bool_] | None

    @property
    def explored(self) -> int:
        """How many coordinates the seed drew: e."""
        return self.indices.size - self.leading.size

    @property
    def unled(self) -> int:
        """How many coordinates the seed drew from: D - h."""
        return self.dimension - self.leading.size

    @cached_property
    def factor(self) -> float:
        """What an explored value is multiplied by: the inverse of its inclusion probability."""
        return self.unled / self.explored

    def rescale(self, values: npt.NDArray[np.floating[Any]], part: slice = slice(None)) -> None:
        """Multiply the explored ones of `values` (float[k], or `part` of them) by `factor`, in place."""
        if self.is_leading is None:
            values *= self.factor
        else:
            np.multiply(values, self.factor, out=values, where=~self.is_leading[part])

    def largest(self, levels: npt.NDArray[np.int32], count: int) -> Indices:
        """Return the int64[<= count] coordinates that `levels` (int32[k]) move most, increasing.

        Levels of explored coordinates count without their rescale: what matters is how far a coordinate
        wants to move, not how seldom it is looked at. Compared as integers, so that every machine chooses
        alike; of equals the lower coordinate is taken, and none that does not move at all.
        """
        weights = np.abs(levels.astype(np.int64))
        if self.is_leading is None:
            return self.indices[largest(weights, min(count, int(np.count_nonzero(weights))))]
        weights *= np.where(self.is_leading, np.int64(self.unled), np.int64(self.explored))
        return self.indices[largest(weights, min(count, int(np.count_nonzero(weights))))]


def leading_count(kept: int) -> int:
    """Return how many of `kept` coordinates the last step chooses."""
    return kept // LEADING_SHARE


def select_coordinates(seed: bytes, dimension: int, kept: int, leading: Indices = NO_LEADING) -> Selection:
    """Return `leading` (int64[h], increasing, h < kept) and kept - h more, drawn by `seed` among the rest.

    Raises CodecContextError for a seed that is not 32 bytes, CoordinateError for counts or leading
    coordinates that do not fit.
    """
    if not leading.size:
        return Selection(dimension, rand_coordinates(seed, dimension, kept), leading, None)
    if leading[0] < 0 or leading[-1] >= dimension or (np.diff(leading) <= 0).any():
        raise CoordinateError(f"leading coordinates must increase and lie in 0..{dimension - 1}")
    if leading.size >= kept:
        raise CoordinateError(f"{leading.size} leading coordinates leave none of {kept} to explore")
    ranks = rand_coordinates(seed, dimension - leading.size, kept - leading.size)
    # The r-th of the coordinates that do not lead: r, and as many more as lead before it.
    before = leading - np.arange(leading.size, dtype=np.int64)
    explored = ranks + np.searchsorted(before, ranks, side="right")
    indices = np.concatenate((leading, explored))
    order = np.argsort(indices, kind="stable")
    return Selection(dimension, indices[order], leading, order < leading.size)


def largest(values: npt.NDArray[Any], count: int) -> Indices:
    """Return the int64[count] positions of the largest of `values`, increasing; of equals the lower.

    Not argpartition, whose choice among equals differs between processors.
    """
    if not count:
        return NO_LEADING
    if values.size > _SAMPLED_FROM and count < values.size // 4:
        # Most values are told apart from the largest by one comparison with a guess from a sample.
        likely = np.flatnonzero(values >= _likely_floor(values, count))
        if count <= likely.size < values.size:
            return likely[largest(values[likely], count)].astype(np.int64, copy=False)
    threshold = np.partition(values, values.size - count)[values.size - count]
    taken = values > threshold
    taken[np.flatnonzero(values == threshold)[: count - np.count_nonzero(taken)]] = True
    return np.flatnonzero(taken).astype(np.int64, copy=False)


def _likely_floor(values: npt.NDArray[Any], count: int) -> Any:
    """Return a value that a few more than `count` of `values` reach, as far as a sample can tell."""
    sample = values[:: values.size // _SAMPLE]
    share = sample.size * count / values.size
    rank = min(sample.size, int(share + 6.0 * share**0.5 + 16.0))
    return np.partition(sample, sample.size - rank)[sample.size - rank]
