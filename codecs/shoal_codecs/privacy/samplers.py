"""Noise from the system's generator: ChaCha20 keystream through an alias table, piece by piece.

Every call draws a key of its own, which exists nowhere else: noise can neither be drawn twice nor stored.
"""

import os
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from shoal_codecs.privacy.noise_table import NoiseTable
from shoal_codecs.updates.keystream import PIECE_BYTES, keystream_pieces

KEY_BYTES = 32
Noise = npt.NDArray[np.int32]
# Each number takes a 64-bit uniform and a 32-bit word for column and sign: 12 bytes.
PIECE = PIECE_BYTES // 12 // 64 * 64
_PIECE_WORDS = PIECE_BYTES // 8


def noise_pieces(table: NoiseTable, count: int, key: bytes | None = None) -> Iterator[tuple[int, Noise]]:
    """Yield (position, int32 numbers) of ``count`` independent draws from ``table``.

    ``key`` (32 bytes) is for tests alone. A piece shares its buffer with the next: use it before going on.
    """
    source = os.urandom(KEY_BYTES) if key is None else key
    pieces = -(-count // PIECE)
    column, drawn = np.empty(PIECE, np.uint32), np.empty(PIECE, np.int32)
    threshold, other = np.empty(PIECE, np.uint64), np.empty(PIECE, np.int32)
    keep = np.empty(PIECE, np.bool_)
    shift = np.uint32(32 - table.bits)
    stream = keystream_pieces(source, pieces * _PIECE_WORDS, np.dtype(np.uint64))
    for number, (_, words) in enumerate(stream):
        uniform = words[:PIECE]
        choice = words[PIECE : PIECE + PIECE // 2].view("<u4")
        np.right_shift(choice, shift, out=column)
        # Every column is below the table's length: clipping only spares take its own check.
        table.threshold.take(column, out=threshold, mode="clip")
        table.alias.take(column, out=other, mode="clip")
        np.less(uniform, threshold, out=keep)
        np.copyto(drawn, other)
        np.copyto(drawn, column, where=keep, casting="unsafe")
        # The lowest bit belongs to no column. Where it is set x becomes ~x + 1, which is -x.
        np.bitwise_and(choice, 1, out=column)
        sign = column.view(np.int32)
        np.negative(sign, out=other)
        drawn ^= other
        drawn += sign
        start = number * PIECE
        yield start, drawn[: min(PIECE, count - start)]


def draw(table: NoiseTable, count: int, key: bytes | None = None) -> Noise:
    """Return ``count`` independent draws from ``table`` as int32; ``key`` (32 bytes) is for tests alone."""
    out = np.empty(count, np.int32)
    for start, numbers in noise_pieces(table, count, key):
        out[start : start + numbers.size] = numbers
    return out
