"""Words of any width from 1 to 32 bits, packed without gaps."""

from typing import Any

import numpy as np

from shoal_codecs.updates.base import Payload, check_length
from shoal_codecs.updates.errors import PayloadContentError, VectorShapeError, WordWidthError
from shoal_codecs.updates.keystream import Words

MAX_BITS = 32
# Eight words of w bits fill exactly w bytes, so that byte positions repeat with every group.
_GROUP = 8
_LANE = np.dtype("<u8")


def word_dtype(bits: int) -> np.dtype[Any]:
    """Return the smallest native unsigned dtype for words of `bits` (1..32).

    Raises WordWidthError.
    """
    if not 1 <= bits <= MAX_BITS:
        raise WordWidthError(f"words of {bits} bits cannot be packed; use 1..{MAX_BITS}")
    return np.dtype(np.uint8 if bits <= 8 else np.uint16 if bits <= 16 else np.uint32)


def packed_size(count: int, bits: int) -> int:
    """Return the bytes that `count` words of `bits` take when packed."""
    return (count * bits + 7) // 8


def check_words(words: Words, count: int, bits: int) -> Words:
    """Return `words` if it is uint[count] of the dtype for `bits`, all below 2**bits.

    Raises VectorShapeError or WordWidthError.
    """
    dtype = word_dtype(bits)
    if words.dtype != dtype or words.shape != (count,):
        raise VectorShapeError(f"expected {dtype} of shape ({count},), got {words.dtype} of {words.shape}")
    if bits < dtype.itemsize * 8 and count and int(words.max()) >> bits:
        raise WordWidthError(f"a word does not fit {bits} bits; reduce it modulo 2**{bits} first")
    return words


def pack_words(words: Words, bits: int) -> bytes:
    """Pack uint[n] words of `bits` (1..32): word i holds bits i*bits onwards, lowest bit first.

    The unused bits of the last byte are zero. Raises VectorShapeError or WordWidthError.
    """
    count = words.size
    dtype = word_dtype(bits)
    check_words(words, count, bits)
    if bits == dtype.itemsize * 8:
        return words.astype(dtype.newbyteorder("<"), copy=False).tobytes()
    groups = -(-count // _GROUP)
    lanes = np.zeros(groups * _GROUP, dtype=dtype)
    lanes[:count] = words
    lanes = lanes.reshape(groups, _GROUP)
    packed = np.zeros((groups, bits), dtype=np.uint8)
    for lane in range(_GROUP):
        first, shift, width = _lane_bytes(lane, bits)
        placed = lanes[:, lane].astype(_LANE) << np.uint64(shift)
        packed[:, first : first + width] |= placed.view(np.uint8).reshape(groups, 8)[:, :width]
    return packed.tobytes()[: packed_size(count, bits)]


def unpack_words(payload: Payload, count: int, bits: int) -> Words:
    """Return the uint[count] words of `bits` (1..32) that `pack_words` packed.

    Raises WordWidthError, PayloadLengthError, or PayloadContentError for set bits after the last.
    """
    dtype = word_dtype(bits)
    size = packed_size(count, bits)
    check_length(payload, size, f"{count} words of {bits} bits")
    if bits == dtype.itemsize * 8:
        whole: Words = np.frombuffer(payload, dtype=dtype.newbyteorder("<"), count=count)
        return whole.astype(dtype)
    spare = size * 8 - count * bits
    if spare and payload[-1] >> (8 - spare):
        raise PayloadContentError(f"the last {spare} bits of packed words must be zero")
    groups = -(-count // _GROUP)
    padded = np.zeros(groups * bits, dtype=np.uint8)
    padded[:size] = np.frombuffer(payload, dtype=np.uint8, count=size)
    packed = padded.reshape(groups, bits)
    words = np.empty((groups, _GROUP), dtype=dtype)
    taken = np.zeros((groups, 8), dtype=np.uint8)
    mask = np.uint64((1 << bits) - 1)
    for lane in range(_GROUP):
        first, shift, width = _lane_bytes(lane, bits)
        taken[:, :width] = packed[:, first : first + width]
        taken[:, width:] = 0
        words[:, lane] = (taken.view(_LANE)[:, 0] >> np.uint64(shift)) & mask
    return words.reshape(-1)[:count]


def _lane_bytes(lane: int, bits: int) -> tuple[int, int, int]:
    """Return (first byte, shift in bits, bytes touched) of a lane within its group."""
    first, shift = divmod(lane * bits, 8)
    return first, shift, (shift + bits + 7) // 8
