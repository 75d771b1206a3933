"""From an update to integer levels in a ring, piece by piece: no copy of the update is ever made.

Every pass works in buffers that stay in the cache; the words are the only thing as long as the update.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal_codecs.privacy.noise_table import NoiseTable
from shoal_codecs.privacy.samplers import noise_pieces
from shoal_codecs.updates.base import Float32Vector
from shoal_codecs.updates.errors import NonFiniteUpdateError
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.selection import Selection

PIECE = 1 << 14
# Conditional rounding accepts a draw with probability 1 - exp(-1/2) or more: 64 draws do not fail.
_DRAWS = 64


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """The coordinates of an update that travel, rescaled; ``selection`` None stands for all, in order."""

    update: Float32Vector
    selection: Selection | None

    @property
    def size(self) -> int:
        """How many travel."""
        return self.update.size if self.selection is None else self.selection.indices.size

    def pieces(self) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """Yield (position, rescaled values) of at most ``PIECE``; they share one buffer."""
        buffer = np.empty(min(PIECE, self.size), np.float64)
        for start in range(0, self.size, PIECE):
            part = slice(start, start + PIECE)
            values = buffer[: min(PIECE, self.size - start)]
            if self.selection is None:
                np.copyto(values, self.update[part])
            else:
                np.copyto(values, self.update[self.selection.indices[part]])
                self.selection.rescale(values, part)
            yield start, values

    def norm(self, power: int = 2) -> float:
        """Return the L2 norm, the L1 norm for a ``power`` of 1."""
        total = sum(_length(values, power) for _, values in self.pieces())
        return total if power == 1 else math.sqrt(total)


def check_finite(update: Float32Vector) -> None:
    """Raise NonFiniteUpdateError where ``update`` holds NaN or infinity, without a mask as long as it."""
    for start in range(0, update.size, PIECE):
        if not np.isfinite(update[start : start + PIECE]).all():
            raise NonFiniteUpdateError(
                "the update holds NaN or infinity: training diverged; drop it and lower the step size"
            )


def write_levels(
    words: Words,
    chosen: Chosen,
    factor: float,
    rng: np.random.Generator,
    *,
    clamp: int,
    bits: int,
    bound: float = math.inf,
    power: int = 2,
) -> None:
    """Round ``factor`` times the chosen values, clamped to +-``clamp``, stochastically into ``words``.

    ``words``: uint[k] modulo 2**``bits``, overwritten. The whole is rounded again until the sum of its
    levels to the ``power`` (1 or 2) is at most ``bound`` (Kairouz et al. 2021, section 4.2).
    """
    for _ in range(_DRAWS):
        if _round_into(words, chosen, factor, rng, clamp, bits, power) <= bound:
            return
    _round_into(words, chosen, factor, None, clamp, bits, power)


def _round_into(
    words: Words,
    chosen: Chosen,
    factor: float,
    rng: np.random.Generator | None,
    clamp: int,
    bits: int,
    power: int,
) -> float:
    """Round once, towards zero without ``rng``; return the sum of the levels to the ``power``."""
    length = min(PIECE, chosen.size)
    levels = np.empty(length, np.float64)
    chance, up = np.empty(length, np.float32), np.empty(length, np.bool_)
    whole = np.empty(length, np.int64)
    mask = None if bits == 8 * words.dtype.itemsize else np.int64((1 << bits) - 1)
    total = 0.0
    for start, values in chosen.pieces():
        count = values.size
        level, integer = levels[:count], whole[:count]
        np.multiply(values, factor, out=values)
        np.clip(values, -clamp, clamp, out=values)
        if rng is None:
            np.trunc(values, out=level)
        else:
            np.floor(values, out=level)
            # The exact fraction is compared: flooring values + chance would round up near one.
            np.subtract(values, level, out=values)
            rng.random(count, np.float32, out=chance[:count])
            np.less(chance[:count], values, out=up[:count])
            level += up[:count]
        np.copyto(integer, level, casting="unsafe")
        if mask is not None:
            integer &= mask
        np.copyto(words[start : start + count], integer, casting="unsafe")
        total += _length(level, power)
    return total


def _length(values: npt.NDArray[np.float64], power: int) -> float:
    """Return the sum of the absolute ``values`` to the ``power`` (1 or 2); they are used up."""
    # Not a dot product: BLAS would wake a thread for every piece.
    (np.square if power == 2 else np.abs)(values, out=values)
    return float(values.sum())


def add_noise(words: Words, table: NoiseTable, bits: int) -> None:
    """Add a fresh draw from ``table`` to each of ``words`` (uint[k] modulo 2**``bits``) in place."""
    mask = None if bits == 8 * words.dtype.itemsize else words.dtype.type((1 << bits) - 1)
    for start, numbers in noise_pieces(table, words.size):
        part = words[start : start + numbers.size]
        # Two's complement, cut to the word: what the ring adds modulo 2**w.
        part += numbers.astype(words.dtype)
        if mask is not None:
            part &= mask
