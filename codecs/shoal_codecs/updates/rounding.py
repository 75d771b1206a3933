"""Chance for stochastic rounding, from a keystream: several times as fast as drawing floats.

It never leaves the device, so each takes the cipher that its processor does best.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from shoal_codecs.security.stream_cipher import best_cipher
from shoal_codecs.updates.base import Chance
from shoal_codecs.updates.keystream import PIECE_BYTES, SPARE_BYTES, StreamKey, draw_pieces

DRAW_BITS = 16
_KEY_BYTES = 32
_WORD = np.dtype(np.uint16)
DRAW_STEP = np.float32(2.0**-DRAW_BITS)


class Draws:
    """Uniform numbers of ``DRAW_BITS`` bits; the key is the generator's.

    A seeded generator gives the same numbers again, on processors that are best at the same cipher.
    """

    def __init__(self, rng: Chance) -> None:
        self._draw = draw_pieces(StreamKey(best_cipher(), rng.bytes(_KEY_BYTES)))
        self._octets = np.empty(SPARE_BYTES, np.uint8)

    def next(self, count: int) -> npt.NDArray[np.uint16]:
        """Return ``count`` fresh numbers, in the same place each time."""
        size = count * _WORD.itemsize
        if self._octets.size < size + SPARE_BYTES:
            self._octets = np.empty(size + SPARE_BYTES, np.uint8)
        for start in range(0, size, PIECE_BYTES):
            self._draw(min(PIECE_BYTES, size - start), self._octets[start:].data)
        return self._octets[:size].view(_WORD)


class Dither:
    """Draws as fractions; the key is `rng`'s."""

    def __init__(self, rng: Chance) -> None:
        self._draws = Draws(rng)
        self._numbers = np.empty(0, dtype=np.float32)

    def below(self, fractions: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Return for each of `fractions` (float32, 0 to 1, any shape) whether a fresh draw is below it.

        True with the probability of the fraction, to 2**-17; never for zero.
        """
        count = fractions.size
        if self._numbers.size < count:
            self._numbers = np.empty(count, dtype=np.float32)
        numbers = self._numbers[:count]
        np.copyto(numbers, self._draws.next(count))
        # The middle of each draw's interval.
        numbers += np.float32(0.5)
        numbers *= DRAW_STEP
        below: npt.NDArray[np.bool_] = np.less(numbers.reshape(fractions.shape), fractions)
        return below
