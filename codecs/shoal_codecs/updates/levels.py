"""Integers that are mostly small, in few bytes: packed words, planes or Huffman codes, whichever is smallest.

Quantised moves of a model have one peak at zero. Planes say where a level is not zero, among those where it
is over one, and so on, each as coordinates (``indexcode``): within 3 % of the entropy where levels are
coarse, and a sparse move pays for its own coordinates only. Huffman codes (DEFLATE without matches, RFC
1951) are better where levels are fine, packed words where there are few of them.
"""

import struct
import zlib
from enum import IntEnum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Indices, Payload
from shoal_codecs.updates.bitpack import MAX_BITS, pack_words, unpack_words, word_dtype
from shoal_codecs.updates.errors import PayloadContentError, PayloadLengthError, VectorShapeError
from shoal_codecs.updates.indexcode import pack_indices, unpack_indices

Levels: TypeAlias = npt.NDArray[np.int32]
MAX_PLANES = 64
"""Over this largest level planes would cost time and win nothing."""
PLANE_BLOCK = 1 << 20
"""Levels that are coded in planes at once: bounds the memory of both ends."""
_PLANE = struct.Struct("<II")
_COUNT = struct.Struct("<I")
_PARAMETER_AT = 1
_BODY_AT = 2
_RAW_DEFLATE = -15
_ESCAPE = 255
_LONGEST = 5


class LevelCoding(IntEnum):
    """First byte of coded levels; the second is the width in bits (packed), else zero."""

    PACKED = 0
    PLANES = 1
    HUFFMAN = 2


def pack_levels(q: Levels) -> bytes:
    """Code int32[k], k >= 1, in the fewest bytes.

    Raises VectorShapeError.
    """
    if q.dtype != np.int32 or q.ndim != 1 or not q.size:
        raise VectorShapeError(f"levels are int32[k], got {q.dtype} of {q.shape}")
    folded = (q.astype(np.uint32) << np.uint32(1)) ^ (q >> np.int32(31)).astype(np.uint32)
    peak = max(int(q.max()), -int(q.min()))
    ways = [_packed(folded), _huffman(folded)]
    if peak <= MAX_PLANES:
        ways.append(_planes(q))
    return min(ways, key=len)


def unpack_levels(payload: Payload, count: int) -> Levels:
    """Return the int32[count] that `pack_levels` coded; memory is bounded by `count`.

    Raises PayloadLengthError, PayloadContentError or CoordinateError.
    """
    if len(payload) <= _BODY_AT:
        raise PayloadLengthError(f"{len(payload)} bytes cannot hold {count} levels")
    coding, parameter, body = payload[0], payload[_PARAMETER_AT], memoryview(payload)[_BODY_AT:]
    if coding == LevelCoding.PACKED:
        if not 1 <= parameter <= MAX_BITS:
            raise PayloadContentError(f"packed levels have 1..{MAX_BITS} bits, not {parameter}")
        return _unfolded(unpack_words(body, count, parameter).astype(np.uint32))
    if coding == LevelCoding.HUFFMAN and not parameter:
        return _unfolded(_unpack_huffman(body, count))
    if coding == LevelCoding.PLANES and not parameter:
        return _unpack_planes(body, count)
    raise PayloadContentError(f"unknown level coding {coding}/{parameter}; known: {[*LevelCoding]}")


def _unfolded(folded: npt.NDArray[np.uint32]) -> Levels:
    """Undo the folding, in place: of a device's memory this is the largest part."""
    signs = (folded & np.uint32(1)).view(np.int32)
    np.negative(signs, out=signs)
    folded >>= np.uint32(1)
    q = folded.view(np.int32)
    q ^= signs
    return q


def _packed(folded: npt.NDArray[np.uint32]) -> bytes:
    bits = max(1, int(folded.max()).bit_length())
    return bytes((LevelCoding.PACKED, bits)) + pack_words(folded.astype(word_dtype(bits)), bits)


def _huffman(folded: npt.NDArray[np.uint32]) -> bytes:
    # What does not fit a byte is rare: it follows after the bytes, where each says 255.
    short = np.minimum(folded, _ESCAPE).astype(np.uint8)
    deflater = zlib.compressobj(9, zlib.DEFLATED, _RAW_DEFLATE, 9, zlib.Z_HUFFMAN_ONLY)
    body = deflater.compress(short.data) + deflater.compress(
        folded[folded >= _ESCAPE].astype("<u4").tobytes()
    )
    return bytes((LevelCoding.HUFFMAN, 0)) + body + deflater.flush()


def _unpack_huffman(body: Payload, count: int) -> npt.NDArray[np.uint32]:
    inflater = zlib.decompressobj(_RAW_DEFLATE)
    try:
        data = np.frombuffer(inflater.decompress(body, count * _LONGEST + 1), dtype=np.uint8)
    except zlib.error as error:
        raise PayloadContentError(f"the levels' codes are damaged ({error})") from error
    escaped = np.flatnonzero(data[:count] == _ESCAPE)
    if data.size != count + 4 * escaped.size or not inflater.eof or inflater.unused_data:
        raise PayloadLengthError(f"the codes do not hold exactly {count} levels")
    folded = data[:count].astype(np.uint32)
    folded[escaped] = data[count:].view("<u4")
    return folded


def _planes(q: Levels) -> bytes:
    parts = [bytes((LevelCoding.PLANES, 0))]
    for start in range(0, q.size, PLANE_BLOCK):
        block = q[start : start + PLANE_BLOCK]
        left = np.abs(block)
        for level in range(1, MAX_PLANES + 1):
            at: Indices = np.flatnonzero(left >= level).astype(np.int64)
            if not at.size:
                break
            coded = _marks(at, left.size)
            parts += (_PLANE.pack(at.size, len(coded)), coded)
            left = left[at]
            if level == 1:
                parts.append(np.packbits(block[at] < 0, bitorder="little").tobytes())
        parts.append(_COUNT.pack(0))
    return b"".join(parts)


def _unpack_planes(body: memoryview, count: int) -> Levels:
    q = np.zeros(count, dtype=np.int32)
    offset = 0
    for start in range(0, count, PLANE_BLOCK):
        offset = _unpack_block(body, offset, q[start : start + PLANE_BLOCK])
    if offset != len(body):
        raise PayloadLengthError(f"{len(body) - offset} bytes follow the last plane")
    return q


def _unpack_block(body: memoryview, offset: int, block: Levels) -> int:
    """Add the planes from `offset` on to `block`, which is zero, and return where they end."""
    places = np.arange(block.size) if block.size else np.empty(0, dtype=np.int64)
    first: Indices = places[:0]
    negative = np.empty(0, dtype=np.uint8)
    for level in range(MAX_PLANES + 1):
        marked = _COUNT.unpack(_slice(body, offset, _COUNT.size))[0]
        if not marked:
            block[first] *= 1 - 2 * negative.astype(np.int32)
            return offset + _COUNT.size
        if level == MAX_PLANES or marked > places.size:
            raise PayloadContentError("a plane marks more levels than there are")
        marked, size = _PLANE.unpack(_slice(body, offset, _PLANE.size))
        offset += _PLANE.size
        places = places[_unpack_marks(_slice(body, offset, size), marked, places.size)]
        block[places] += 1
        offset += size
        if level == 0:
            first = places
            signs = _slice(body, offset, (marked + 7) // 8)
            negative = np.unpackbits(np.frombuffer(signs, dtype=np.uint8), count=marked, bitorder="little")
            offset += len(signs)
    raise PayloadContentError("planes without an end")


def _marks(at: Indices, count: int) -> bytes:
    """Code which of `count` are marked; where most are, which are not, and nothing where all are."""
    if 2 * at.size <= count:
        return pack_indices(at, count)
    return pack_indices(_others(at, count), count) if at.size < count else b""


def _unpack_marks(body: memoryview, marked: int, count: int) -> Indices:
    if 2 * marked <= count:
        return unpack_indices(body, marked, count)
    if marked < count:
        return _others(unpack_indices(body, count - marked, count), count)
    if len(body):
        raise PayloadLengthError(f"{len(body)} bytes for a plane that marks all levels")
    return np.arange(count, dtype=np.int64)


def _others(at: Indices, count: int) -> Indices:
    free = np.ones(count, dtype=np.bool_)
    free[at] = False
    return np.flatnonzero(free).astype(np.int64)


def _slice(body: memoryview, offset: int, size: int) -> memoryview:
    if offset + size > len(body):
        raise PayloadLengthError("the planes end before they should")
    return body[offset : offset + size]
