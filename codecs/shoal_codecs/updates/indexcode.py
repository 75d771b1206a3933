"""Sorted coordinates in few bytes: a bitmap, varint gaps or Rice gaps, whichever is smallest.

Rice coding (Golomb 1966, Rice 1979) splits a gap into a quotient in unary and `r` low bits; the two
parts are kept in two streams, so that both are read without a loop over coordinates.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Indices, Payload, check_length
from shoal_codecs.updates.bitpack import pack_words, packed_size, unpack_words, word_dtype
from shoal_codecs.updates.errors import (
    CoordinateError,
    PayloadContentError,
    PayloadLengthError,
)

HEADER_BYTES = 2
_MAX_VARINT_BYTES = 5
_MAX_RICE_BITS = 30
_ByteArray = npt.NDArray[np.uint8]


class IndexCoding(IntEnum):
    """First byte of a coded coordinate list; the second is the Rice parameter, else zero."""

    BITMAP = 0
    VARINT = 1
    RICE = 2


def pack_indices(indices: Indices, dimension: int) -> bytes:
    """Code int64[k], strictly increasing, below `dimension`, k >= 1.

    Raises CoordinateError.
    """
    if indices.ndim != 1 or not indices.size or indices[0] < 0 or indices[-1] >= dimension:
        raise CoordinateError(f"coordinates must lie in 0..{dimension - 1} and be at least one")
    gaps = np.diff(indices, prepend=-1) - 1
    if gaps.min() < 0:
        raise CoordinateError("coordinates must be strictly increasing")
    rice_bits = _best_rice_bits(gaps)
    sizes = {
        IndexCoding.BITMAP: (dimension + 7) // 8,
        IndexCoding.VARINT: int(_varint_lengths(gaps).sum()),
        IndexCoding.RICE: _rice_size(gaps, rice_bits),
    }
    coding = min(sizes, key=sizes.__getitem__)
    if coding is IndexCoding.BITMAP:
        return bytes((coding, 0)) + _pack_bitmap(indices, dimension)
    if coding is IndexCoding.VARINT:
        return bytes((coding, 0)) + _pack_varints(gaps)
    return bytes((coding, rice_bits)) + _pack_rice(gaps, rice_bits)


def unpack_indices(payload: Payload, count: int, dimension: int) -> Indices:
    """Return the int64[count] coordinates that `pack_indices` coded.

    Raises PayloadLengthError, PayloadContentError or CoordinateError.
    """
    if len(payload) <= HEADER_BYTES:
        raise PayloadLengthError(f"{len(payload)} bytes cannot hold {count} coordinates")
    coding, parameter = payload[0], payload[1]
    body = np.frombuffer(payload, dtype=np.uint8, offset=HEADER_BYTES)
    if coding == IndexCoding.RICE:
        gaps = _unpack_rice(body, count, parameter)
    elif parameter:
        raise PayloadContentError("only Rice coding has a parameter; its byte must be zero")
    elif coding == IndexCoding.VARINT:
        gaps = _unpack_varints(body, count)
    elif coding == IndexCoding.BITMAP:
        return _unpack_bitmap(body, count, dimension)
    else:
        raise PayloadContentError(f"unknown index coding {coding}; known: {[*IndexCoding]}")
    indices: Indices = np.cumsum(gaps + 1) - 1
    if indices[-1] >= dimension:
        raise CoordinateError(f"coordinate {indices[-1]} is beyond the model's {dimension}")
    return indices


def _pack_bitmap(indices: Indices, dimension: int) -> bytes:
    bits = np.zeros(dimension, dtype=np.uint8)
    bits[indices] = 1
    return np.packbits(bits, bitorder="little").tobytes()


def _unpack_bitmap(body: _ByteArray, count: int, dimension: int) -> Indices:
    check_length(body.data, (dimension + 7) // 8, f"a bitmap of {dimension} coordinates")
    indices = np.flatnonzero(np.unpackbits(body, bitorder="little")).astype(np.int64)
    if len(indices) != count or indices[-1] >= dimension:
        raise CoordinateError(f"the bitmap does not mark {count} of {dimension} coordinates")
    return indices


def _varint_lengths(gaps: Indices) -> Indices:
    lengths = np.ones(gaps.shape, dtype=np.int64)
    for septet in range(1, _MAX_VARINT_BYTES):
        lengths += gaps >> (7 * septet) > 0
    return lengths


def _pack_varints(gaps: Indices) -> bytes:
    lengths = _varint_lengths(gaps)
    starts = np.cumsum(lengths) - lengths
    out = np.zeros(int(lengths.sum()), dtype=np.uint8)
    for septet in range(int(lengths.max())):
        held = lengths > septet
        more = np.where(lengths[held] > septet + 1, 0x80, 0)
        out[starts[held] + septet] = (gaps[held] >> (7 * septet)) & 0x7F | more
    return out.tobytes()


def _unpack_varints(body: _ByteArray, count: int) -> Indices:
    ends = np.flatnonzero(body < 0x80)
    if len(ends) != count or ends[-1] != len(body) - 1:
        raise PayloadLengthError(f"{len(body)} bytes do not hold exactly {count} varint gaps")
    lengths = np.diff(ends, prepend=-1)
    if lengths.max() > _MAX_VARINT_BYTES:
        raise PayloadContentError(f"a varint gap is longer than {_MAX_VARINT_BYTES} bytes")
    starts = ends - lengths + 1
    gaps = np.zeros(count, dtype=np.int64)
    for septet in range(int(lengths.max())):
        held = lengths > septet
        gaps[held] |= (body[starts[held] + septet].astype(np.int64) & 0x7F) << (7 * septet)
    return gaps


def _rice_size(gaps: Indices, rice_bits: int) -> int:
    unary_bits = int((gaps >> rice_bits).sum()) + gaps.size
    return packed_size(gaps.size, rice_bits) + (unary_bits + 7) // 8


def _best_rice_bits(gaps: Indices) -> int:
    # The best parameter for geometric gaps is near log2(mean * ln 2); its neighbours are tried
    # because real gaps are not geometric.
    guess = max(1, int(float(gaps.mean()) * 0.693)).bit_length()
    tried = range(max(0, guess - 2), min(_MAX_RICE_BITS, guess + 1) + 1)
    return min(tried, key=lambda bits: _rice_size(gaps, bits))


def _pack_rice(gaps: Indices, rice_bits: int) -> bytes:
    ends = np.cumsum((gaps >> rice_bits) + 1) - 1
    unary = np.zeros(int(ends[-1]) + 1, dtype=np.uint8)
    unary[ends] = 1
    low = b""
    if rice_bits:
        remainders = gaps & ((1 << rice_bits) - 1)
        low = pack_words(remainders.astype(word_dtype(rice_bits)), rice_bits)
    return low + np.packbits(unary, bitorder="little").tobytes()


def _unpack_rice(body: _ByteArray, count: int, rice_bits: int) -> Indices:
    if rice_bits > _MAX_RICE_BITS:
        raise PayloadContentError(f"Rice parameter {rice_bits} is over {_MAX_RICE_BITS}")
    low_size = packed_size(count, rice_bits)
    if len(body) <= low_size:
        raise PayloadLengthError(f"{len(body)} bytes cannot hold {count} Rice gaps")
    ends = np.flatnonzero(np.unpackbits(body[low_size:], bitorder="little")).astype(np.int64)
    if len(ends) != count or ends[-1] // 8 != len(body) - low_size - 1:
        raise PayloadLengthError(f"{len(body)} bytes do not hold exactly {count} Rice gaps")
    gaps: Indices = (np.diff(ends, prepend=-1) - 1) << rice_bits
    if rice_bits:
        gaps |= unpack_words(body[:low_size].data, count, rice_bits)
    return gaps
