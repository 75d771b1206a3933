"""From an update to integer levels in a ring, piece by piece: no copy of the update is ever made.

Every pass works in buffers that stay in the cache; the words are the only thing as long as the update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal_codecs.privacy.noise_table import NoiseTable
from shoal_codecs.privacy.samplers import noise_pieces
from shoal_codecs.updates.base import Chance, Float32Vector
from shoal_codecs.updates.errors import NonFiniteUpdateError
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.rounding import DRAW_BITS, Draws
from shoal_codecs.updates.selection import Selection

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
PIECE = 1 << 16
_DOT = 1 << 13
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

    def pieces(self, factor: float = 1.0) -> Iterator[tuple[int, Floats]]:
        """Yield (position, rescaled values times ``factor``) of at most ``PIECE``; they share one buffer."""
        buffer: Floats = np.empty(min(PIECE, self.size))
        for start in range(0, self.size, PIECE):
            part = slice(start, start + PIECE)
            values = buffer[: min(PIECE, self.size - start)]
            if self.selection is None:
                np.multiply(self.update[part], factor, out=values, dtype=np.float64)
            else:
                np.copyto(values, self.update[self.selection.indices[part]])
                self.selection.rescale(values, part)
                values *= factor
            yield start, values

    def norm(self, power: int = 2) -> float:
        """Return the L2 norm, the L1 norm for a ``power`` of 1."""
        total = sum(_length(values, power) for _, values in self.pieces())
        return total if power == 1 else math.sqrt(total)


def check_finite(update: Float32Vector) -> None:
    """Refuse an update that holds NaN or infinity; no copy is made.

    Raises:
        NonFiniteUpdateError: it holds NaN or infinity.
    """
    # Both pass NaN on.
    largest = max(float(update.max()), -float(update.min())) if update.size else 0.0
    if not math.isfinite(largest):
        raise NonFiniteUpdateError(
            "the update holds NaN or infinity: training diverged; drop it and lower the step size"
        )


def write_levels(
    words: Words,
    chosen: Chosen,
    factor: float,
    rng: Chance,
    *,
    clamp: int,
    bits: int,
    bound: float = math.inf,
    power: int = 2,
) -> None:
    """Round ``factor`` times the chosen values, clamped to +-``clamp``, stochastically into ``words``.

    ``words``: uint[k] modulo 2**``bits``, overwritten. The whole is rounded again until the sum of its levels
    to the ``power`` (1 or 2) is at most ``bound`` (Kairouz et al. 2021, section 4.2).
    """
    if bound == math.inf:
        power = 0
    draws = Draws(rng)
    for _ in range(_DRAWS):
        if _round_into(words, chosen, factor, draws, clamp, bits, power) <= bound:
            return
    _round_into(words, chosen, factor, None, clamp, bits, power)


def _length(values: Floats, power: int) -> float:
    """Return the sum of the absolute ``values`` to the ``power`` (1 or 2)."""
    if power == 1:
        return float(np.abs(values).sum())
    # Over 10,000 values BLAS wakes a thread for every piece, which spins for longer than the sum takes.
    parts = (values[start : start + _DOT] for start in range(0, values.size, _DOT))
    return math.fsum(float(np.dot(part, part)) for part in parts)


def _round_into(
    words: Words,
    chosen: Chosen,
    factor: float,
    draws: Draws | None,
    clamp: int,
    bits: int,
    power: int,
) -> float:
    """Round once, towards zero without ``draws``; return the sum of the levels to the ``power`` (0: none).

    In fixed point with ``DRAW_BITS`` after the point, to which values are rounded to nearest: as many
    random bits are added, and what is left of the point is the level. No level beyond the clamp comes of
    it, and a whole number stays as it is.
    """
    length = min(PIECE, chosen.size)
    fixed: npt.NDArray[np.signedinteger[Any]] = np.empty(
        length, np.int32 if clamp.bit_length() + DRAW_BITS < 31 else np.int64
    )
    level = np.empty(length if power else 0, np.float64)
    mask = None if bits == 8 * words.dtype.itemsize else words.dtype.type((1 << bits) - 1)
    unit = 1 << DRAW_BITS if draws else 1
    limit = clamp * unit
    total = 0.0
    for start, values in chosen.pieces(factor * unit):
        integer = fixed[: values.size]
        np.clip(values, -limit, limit, out=values)
        (np.rint if draws else np.trunc)(values, out=values)
        np.copyto(integer, values, casting="unsafe")
        if draws:
            integer += draws.next(values.size)
            integer >>= DRAW_BITS
        if power:
            np.copyto(level[: values.size], integer)
            total += _length(level[: values.size], power)
        written = words[start : start + values.size]
        # Two's complement, cut to the word: what the ring holds modulo 2**w.
        np.copyto(written, integer, casting="unsafe")
        if mask is not None:
            written &= mask
    return total


def add_noise(words: Words, table: NoiseTable, bits: int) -> None:
    """Add a fresh draw from ``table`` to each of ``words`` (uint[k] modulo 2**``bits``) in place."""
    mask = None if bits == 8 * words.dtype.itemsize else words.dtype.type((1 << bits) - 1)
    for start, numbers in noise_pieces(table, words.size):
        part = words[start : start + numbers.size]
        # Two's complement, cut to the word: what the ring adds modulo 2**w.
        part += numbers.astype(words.dtype)
        if mask is not None:
            part &= mask
