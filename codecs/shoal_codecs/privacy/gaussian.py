"""Gaussian noise from the ChaCha20 keystream, for gradients: nobody can go on from what was drawn before."""

import hashlib
import os

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.keystream import keystream_pieces

KEY_BYTES = 32
_WORD = np.dtype(np.uint64)
# The upper 53 bits make a float64 without rounding.
_UNUSED_BITS = np.uint64(11)
_UNIT = 2.0**-53


class GaussianNoise:
    """A stream of independent standard normal numbers; ``key`` (32 bytes) is for tests alone.

    Two uniforms make two normals (Box and Muller 1958). From 53 bits none is beyond 8.6, which is missed
    once in 1e17 numbers.
    """

    def __init__(self, key: bytes | None = None) -> None:
        self._key = os.urandom(KEY_BYTES) if key is None else key
        self._drawn = 0

    def draw(self, count: int) -> npt.NDArray[np.float64]:
        """Return the next ``count`` numbers, float64; each call has a stream of its own."""
        self._drawn += 1
        half = -(-count // 2)
        words = np.empty(2 * half, dtype=np.uint64)
        for start, piece in keystream_pieces(self._stream_key(), words.size, _WORD):
            words[start : start + piece.size] = piece
        words >>= _UNUSED_BITS
        uniform = words.astype(np.float64)
        # One more than the word: a logarithm of zero is none.
        length = np.sqrt(-2.0 * np.log((uniform[:half] + 1.0) * _UNIT))
        angle = uniform[half:] * (2.0 * np.pi * _UNIT)
        return np.concatenate((length * np.cos(angle), length * np.sin(angle)))[:count]

    def _stream_key(self) -> bytes:
        return hashlib.blake2b(
            self._drawn.to_bytes(8, "little"), key=self._key, digest_size=KEY_BYTES, person=b"shoal/1 gauss"
        ).digest()
