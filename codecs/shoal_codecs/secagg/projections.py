"""Random projections of shares, and what they say of a vector that no hub has whole. Imports numpy.

The projections of all shares add up to those of the update; the mean of their squares, doubled, estimates
its squared norm (Johnson and Lindenstrauss; entries after Achlioptas 2003, with a half instead of two thirds
of zeros).
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from shoal_codecs.secagg.errors import ProjectionError
from shoal_codecs.secagg.norm_bound import PROJECTIONS
from shoal_codecs.updates.keystream import Words, keystream_pieces

DEVICE_BYTES = 4 * PROJECTIONS
_COLUMNS = 1 << 16
_SIGNS = np.array([0, 0, 1, -1], dtype=np.int8)
Matrix = npt.NDArray[np.int8]
Projected = npt.NDArray[np.int64]


def projection_matrix(seed: bytes, count: int) -> Matrix:
    """Return int8[16, count] of -1, 0, 0, +1, two bits each of the ChaCha20 stream of ``seed`` (32 bytes)."""
    entries = np.empty(PROJECTIONS * count, dtype=np.int8)
    quarter = -(-entries.size // 4)
    drawn = np.empty((quarter, 4), dtype=np.int8)
    for start, piece in keystream_pieces(seed, quarter, np.dtype(np.uint8)):
        for place in range(4):
            drawn[start : start + piece.size, place] = _SIGNS[(piece >> np.uint8(2 * place)) & 3]
    entries[:] = drawn.reshape(-1)[: entries.size]
    return entries.reshape(PROJECTIONS, count)


def project(words: Words, matrix: Matrix, bits: int) -> Projected:
    """Return int64[16] below 2**bits: the projections of ``words`` (uint[count]) modulo 2**bits."""
    total = np.zeros(PROJECTIONS, dtype=np.int64)
    for start in range(0, words.size, _COLUMNS):
        part = slice(start, start + _COLUMNS)
        # Exact: 2**16 products below 2**32 stay below 2**53.
        product = matrix[:, part].astype(np.float64) @ words[part].astype(np.float64)
        total += product.astype(np.int64)
    return total & ((1 << bits) - 1)


def pack_projections(rows: Sequence[Projected]) -> bytes:
    """Return the projections of many devices, 64 bytes each."""
    return np.array(rows, dtype="<u4").tobytes()


def short_enough(parts: Sequence[bytes], devices: int, bits: int, limit: float) -> npt.NDArray[np.bool_]:
    """Return bool[devices]: whether each update's norm, in levels, seems to be at most ``limit``.

    ``parts`` are every hub's packed projections, of the devices in one order.

    Raises:
        ProjectionError: a part that is not of so many devices.
    """
    total = np.zeros((devices, PROJECTIONS), dtype=np.int64)
    for part in parts:
        if len(part) != devices * DEVICE_BYTES:
            raise ProjectionError(
                f"{len(part)} bytes of projections, {devices} devices have {devices * DEVICE_BYTES}: "
                "update that hub"
            )
        total += np.frombuffer(part, dtype="<u4").reshape(devices, PROJECTIONS)
    half = 1 << (bits - 1)
    lifted = ((total + half) & ((1 << bits) - 1)) - half
    squares = np.square(lifted.astype(np.float64)).mean(axis=1) * 2
    fits: npt.NDArray[np.bool_] = squares <= limit**2
    return fits
