"""From a short update to integer levels in one pass over it, in float32: at half the cost of the exact ones.

Whether it is short, so that nothing has to be clipped, is learned on the way.
"""

import numpy as np

from shoal_codecs.updates.base import Float32Vector
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.rounding import DRAW_BITS, DRAW_STEP, Draws

PIECE = 1 << 16
MOST_LEVEL_BITS = 7
"""Up to levels of so many bits float32 holds a level and a draw exactly."""
_DOT = 1 << 13
_UNDERFLOW = 2.0**-126
_MIDDLE = np.float32(2.0 ** -(DRAW_BITS + 1))
_INT16_REACH = 2.0**15 - 2


def write_short_levels(
    words: Words, update: Float32Vector, factor: float, draws: Draws, *, clamp: int, bits: int, bound: float
) -> bool:
    """Round ``factor`` times ``update`` (float32[k]) stochastically into ``words`` (uint[k], 2**``bits``).

    Levels are clamped to +-``clamp``, of ``MOST_LEVEL_BITS`` at most. Returns True only where the L2 norm of
    the scaled values is below ``bound``; else ``words`` hold nothing of use, nor is the update known to be
    finite: round it exactly.
    """
    length = min(PIECE, update.size)
    buffer, chance = np.empty(length, np.float32), np.empty(length, np.float32)
    narrow = words.dtype == np.uint16
    levels = np.empty(0 if narrow else length, np.int16)
    limit = np.float32(clamp)
    with np.errstate(over="ignore"):
        scale = np.float32(factor)
    mask = None if bits == 8 * words.dtype.itemsize else words.dtype.type((1 << bits) - 1)
    squares = update.size * _UNDERFLOW
    for start in range(0, update.size, PIECE):
        values = buffer[: min(PIECE, update.size - start)]
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(update[start : start + PIECE], scale, out=values)
            found = _squares(values)
        squares += found
        # A dot product of _DOT terms is off by a share of _DOT * 2**-24 at most, values by a few 2**-24.
        if not squares * (1 + (_DOT + 8) * 2.0**-23) < bound * bound:
            return False
        if found >= _INT16_REACH**2:
            np.clip(values, -limit, limit, out=values)
        numbers = chance[: values.size]
        np.copyto(numbers, draws.next(values.size))
        numbers *= DRAW_STEP
        # The middle of each draw's interval: no bias, and what is whole stays so.
        numbers += _MIDDLE
        values += numbers
        np.floor(values, out=values)
        written = words[start : start + values.size]
        integer = written.view(np.int16) if narrow else levels[: values.size]
        np.copyto(integer, values, casting="unsafe")
        # A few lie beyond the clamp at most, which is cheaper to look for.
        if np.maximum.reduce(integer) > clamp or np.minimum.reduce(integer) < -clamp:
            np.clip(integer, -clamp, clamp, out=integer)
        # Two's complement, cut to the word: what the ring holds modulo 2**w.
        if not narrow:
            np.copyto(written, integer, casting="unsafe")
        if mask is not None:
            written &= mask
    return True


def _squares(values: Float32Vector) -> float:
    """Return the sum of squares; over 10,000 values BLAS would wake a thread, which spins for longer."""
    rows = values.size // _DOT
    total = float(np.dot(rest := values[rows * _DOT :], rest))
    for row in values[: rows * _DOT].reshape(rows, _DOT):
        total += float(row.dot(row))
    return total
