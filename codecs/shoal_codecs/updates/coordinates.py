"""The coordinates all devices of a round send, drawn from one shared seed.

Derived from a ChaCha20 keystream and not from a numpy generator, whose streams may change between
versions: every device of a fleet must draw the same set for years.
"""

import numpy as np

from shoal_codecs.updates.base import MAX_DIMENSION, SEED_BYTES, Indices
from shoal_codecs.updates.errors import CodecContextError, CoordinateError
from shoal_codecs.updates.keystream import keystream_pieces
from shoal_codecs.wire.sha256 import sha256

_LABEL = b"shoal/rand-coordinates/v1\x00"
_WORD = np.dtype(np.uint64)


def rand_coordinates(seed: bytes, dimension: int, count: int) -> Indices:
    """Draw `count` of `dimension` coordinates, every set equally likely, same on every platform.

    Word i of the keystream (64 bits, little-endian) under the key SHA-256(label, seed) belongs to
    coordinate i; the coordinates with the `count` smallest words are taken, the lower index first
    where two words are equal. Returns int64[count], increasing.
    Raises CodecContextError for a seed that is not 32 bytes, CoordinateError for a bad count.
    """
    if len(seed) != SEED_BYTES:
        raise CodecContextError(f"a coordinate seed has {SEED_BYTES} bytes, got {len(seed)}")
    if not 1 <= dimension <= MAX_DIMENSION or not 1 <= count <= dimension:
        raise CoordinateError(f"cannot draw {count} of {dimension} coordinates")
    if count == dimension:
        return np.arange(dimension, dtype=np.int64)
    key = sha256(_LABEL + seed)
    # Only words under a generous threshold are kept: what is sorted and stored is then about
    # `count` large. A set that falls short (far beyond six sigma) is drawn again without it.
    ceiling = _likely_ceiling(dimension, count)
    positions, words = _words_up_to(key, dimension, ceiling)
    if len(positions) < count:
        positions, words = _words_up_to(key, dimension, 2**64 - 1)
    last = np.partition(words, count - 1)[count - 1]
    taken = words < last
    taken[np.flatnonzero(words == last)[: count - np.count_nonzero(taken)]] = True
    chosen: Indices = positions[taken]
    return chosen


def _likely_ceiling(dimension: int, count: int) -> int:
    """Return a 64-bit value that almost surely has `count` of `dimension` words at or below it."""
    generous = count + 6.0 * count**0.5 + 16.0
    return min(2**64 - 1, int(generous / dimension * 2.0**64))


def _words_up_to(
    key: bytes, dimension: int, ceiling: int
) -> tuple[Indices, np.ndarray[tuple[int], np.dtype[np.uint64]]]:
    """Return the positions and values of all keystream words at or below `ceiling`."""
    positions: list[Indices] = []
    kept: list[np.ndarray[tuple[int], np.dtype[np.uint64]]] = []
    limit = np.uint64(ceiling)
    for start, words in keystream_pieces(key, dimension, _WORD):
        inside = np.flatnonzero(words <= limit)
        kept.append(words[inside].astype(np.uint64, copy=False))
        inside += start
        positions.append(inside.astype(np.int64, copy=False))
    return np.concatenate(positions), np.concatenate(kept)
