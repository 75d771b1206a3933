"""Chance for stochastic rounding, from a ChaCha20 keystream: four times as fast as drawing floats."""

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.keystream import PIECE_BYTES, ZEROS, stream_cipher

KEY_BYTES = 32
_WORD = np.dtype(np.uint16)
_STEP = np.float32(2.0**-16)


class Dither:
    """Draws of 16 bits; the key is `rng`'s, so that a seeded generator gives the same rounding again."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._stream = stream_cipher(rng.bytes(KEY_BYTES))
        self._bytes = np.empty(0, dtype=np.uint8)
        self._numbers = np.empty(0, dtype=np.float32)

    def below(self, fractions: npt.NDArray[np.float32]) -> npt.NDArray[np.bool_]:
        """Return for each of `fractions` (float32, 0 to 1, any shape) whether a fresh draw is below it.

        True with the probability of the fraction, to 2**-17; never for zero.
        """
        count = fractions.size
        if self._numbers.size < count:
            self._bytes = np.empty(count * _WORD.itemsize, dtype=np.uint8)
            self._numbers = np.empty(count, dtype=np.float32)
        size = count * _WORD.itemsize
        for start in range(0, size, PIECE_BYTES):
            length = min(PIECE_BYTES, size - start)
            self._stream.update_into(ZEROS[:length], self._bytes[start : start + length].data)
        numbers = self._numbers[:count]
        np.copyto(numbers, self._bytes[:size].view(_WORD))
        # The middle of each draw's interval.
        numbers += np.float32(0.5)
        numbers *= _STEP
        below: npt.NDArray[np.bool_] = np.less(numbers.reshape(fractions.shape), fractions)
        return below
