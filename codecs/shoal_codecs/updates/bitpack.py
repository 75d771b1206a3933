"""Words of any width from 1 to 32 bits, packed without gaps."""

from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.buffers import written
from shoal_codecs.updates.base import Payload, check_length
from shoal_codecs.updates.errors import PayloadContentError, VectorShapeError, WordWidthError
from shoal_codecs.updates.keystream import Words

MAX_BITS = 32
# 64 words of w bits fill exactly w lanes of 64 bits, so that shifts repeat with every group.
_GROUP = 64
_LANE = np.dtype("<u8")
_LANE_BITS = 64
# Words packed at a time: what they become meanwhile stays in the second-level cache.
_PIECE = 1 << 16


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
    packed = packed_view(words, bits)
    return packed if isinstance(packed, bytes) else packed.tobytes()


def packed_view(words: Words, bits: int) -> bytes | memoryview:
    """Return what `pack_words` does; of words as wide as their type the `words` themselves, uncopied.

    Raises VectorShapeError or WordWidthError.
    """
    count = words.size
    dtype = word_dtype(bits)
    check_words(words, count, bits)
    if bits == dtype.itemsize * 8:
        return words.astype(dtype.newbyteorder("<"), copy=False).view(np.uint8).data
    size = packed_size(count, bits)
    spare = -(-count // _GROUP) * bits * _LANE.itemsize + _LANE.itemsize - size
    return written(size, partial(_pack_into, words, bits), spare)


def unpack_words(payload: Payload, count: int, bits: int) -> Words:
    """Return the uint[count] words of `bits` (1..32) that `pack_words` packed.

    Raises WordWidthError, PayloadLengthError, or PayloadContentError for set bits after the last.
    """
    dtype = word_dtype(bits)
    size = packed_size(count, bits)
    check_length(payload, size, f"{count} words of {bits} bits")
    if bits == dtype.itemsize * 8:
        plain: Words = np.frombuffer(payload, dtype=dtype.newbyteorder("<"), count=count)
        return plain.astype(dtype)
    check_padding(payload, count, bits)
    words = np.empty(-(-count // _GROUP) * _GROUP, dtype=dtype)
    group_bytes = bits * _LANE.itemsize
    whole = size // group_bytes
    packed = np.frombuffer(payload, dtype=_LANE, count=whole * bits).reshape(whole, bits)
    for start in range(0, whole, _PIECE // _GROUP):
        part = packed[start : start + _PIECE // _GROUP]
        _unpack_groups(part, bits, words[start * _GROUP : (start + len(part)) * _GROUP])
    if whole * group_bytes < size:
        last = np.zeros(group_bytes, dtype=np.uint8)
        last[: size - whole * group_bytes] = np.frombuffer(payload, np.uint8, offset=whole * group_bytes)
        _unpack_groups(last.view(_LANE).reshape(1, bits), bits, words[whole * _GROUP :])
    return words[:count]


def check_padding(payload: Payload, count: int, bits: int) -> None:
    """Refuse packed words (as many bytes as `packed_size` says) with bits set after the last word.

    Raises PayloadContentError.
    """
    spare = len(payload) * 8 - count * bits
    if spare and payload[-1] >> (8 - spare):
        raise PayloadContentError(f"the last {spare} bits of packed words must be zero")


def _pack_into(words: Words, bits: int, buffer: memoryview) -> None:
    """Pack ``words`` into ``buffer``, which has room for whole groups and a lane more."""
    packed = np.frombuffer(buffer, np.uint8)
    whole = words.size // _GROUP * _GROUP
    for start in range(0, whole, _PIECE):
        end = min(start + _PIECE, whole)
        _pack_groups(words[start:end], bits, packed[start // 8 * bits :])
    if whole < words.size:
        last = np.zeros(_GROUP, dtype=words.dtype)
        last[: words.size - whole] = words[whole:]
        _pack_groups(last, bits, packed[whole // 8 * bits :])


def _pack_groups(words: Words, bits: int, packed: npt.NDArray[np.uint8]) -> None:
    """Pack whole groups of `words` into the first bytes of `packed`; a lane's bytes after them are spoilt."""
    lanes: Words = words.astype(words.dtype.newbyteorder("<"))
    joined = bits
    while lanes.dtype.itemsize < _LANE.itemsize:
        cell = lanes.dtype.itemsize * 8
        lanes = lanes.view(f"<u{lanes.dtype.itemsize * 2}")
        kind = lanes.dtype.type
        # Two neighbours share a cell of twice the width: the upper one moves down to the lower one's end.
        upper = lanes >> kind(cell - joined)
        upper &= kind(((1 << joined) - 1) << joined)
        lanes &= kind((1 << joined) - 1)
        lanes |= upper
        joined *= 2
    # Eight words take `bits` whole bytes, one to four lanes hold them: each lane of the result is written
    # over what the one after it has spilt into the next eight words' bytes.
    columns = lanes.reshape(words.size // 8, -1).T
    for place in reversed(range(-(-bits // _LANE.itemsize))):
        written = np.ndarray(
            words.size // 8, _LANE, packed.data, offset=place * _LANE.itemsize, strides=(bits,)
        )
        found = np.zeros(0, _LANE)
        for number, column in enumerate(columns):
            shift = number * joined - place * _LANE_BITS
            if -joined < shift < _LANE_BITS:
                moved = column << np.uint64(shift) if shift >= 0 else column >> np.uint64(-shift)
                found = np.bitwise_or(found, moved, out=found) if found.size else moved
        written[:] = found


def _unpack_groups(packed: Words, bits: int, words: Words) -> None:
    """Undo `_pack_groups`: `packed` uint64[groups, bits] into `words`, `_GROUP` for each group."""
    joined = bits * (_LANE.itemsize // words.dtype.itemsize)
    rows = np.ascontiguousarray(packed.T)
    columns = np.empty((_GROUP * bits // joined, len(packed)), dtype=_LANE)
    for lane, column in enumerate(columns):
        place, shift = divmod(lane * joined, _LANE_BITS)
        np.right_shift(rows[place], np.uint64(shift), out=column)
        if shift + joined > _LANE_BITS:
            np.bitwise_or(column, rows[place + 1] << np.uint64(_LANE_BITS - shift), out=column)
    lanes: Words = columns.T.reshape(-1)
    while lanes.dtype.itemsize > words.dtype.itemsize:
        kind, cell = lanes.dtype.type, lanes.dtype.itemsize * 4
        joined //= 2
        # What lies above the joined bits belongs to the next lane.
        upper = lanes >> kind(joined)
        upper &= kind((1 << joined) - 1)
        upper <<= kind(cell)
        lanes &= kind((1 << joined) - 1)
        lanes |= upper
        lanes = lanes.view(f"<u{lanes.dtype.itemsize // 2}")
    words[:] = lanes
