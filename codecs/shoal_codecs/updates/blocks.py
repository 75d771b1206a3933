"""Values as small signed levels with one float32 scale per block, int8 or int4.

Worked through in pieces that stay in the second-level cache: a pass over memory costs more than any of the
arithmetic here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Chance, Float32Vector, Payload, check_length
from shoal_codecs.updates.errors import NonFiniteUpdateError, PayloadContentError
from shoal_codecs.updates.rounding import Dither

# 127 of these is just under the largest float32: a decoded value can never become infinite.
MAX_SCALE = np.float32(2.6e36)
# Peaks under this would need a subnormal scale, which loses its precision; they are sent as zero.
MIN_PEAK = np.float32(1e-35)
# Small enough for the second-level cache, large enough that calls into numpy cost nothing.
_PIECE_VALUES = 1 << 15
_Levels = npt.NDArray[np.int8]
_PAIR = np.dtype("<u2")


@dataclass(frozen=True, slots=True)
class BlockCoder:
    """Levels from -`peak` to `peak` in `bits` (8 or 4) each.

    Layout: a float32 scale for every block, then the levels; little-endian, of two nibbles the earlier
    level is the lower, and an unused last nibble is zero.
    """

    peak: int
    bits: int

    def size(self, count: int, block: int) -> int:
        """Return the bytes of `count` values with a scale for every `block` of them."""
        return 4 * -(-count // block) + self._level_bytes(count)

    def pack(self, values: Float32Vector, block: int, rng: Chance | None) -> bytes:
        """Code float32[n]; rounds stochastically with `rng` (unbiased), to nearest without.

        The error of a value is at most one level of its block, half a level to nearest.
        Raises NonFiniteUpdateError.
        """
        count = values.size
        block = min(block, count)
        rows = -(-count // block)
        payload = np.zeros(self.size(count, block), dtype=np.uint8)
        scales = np.empty(rows, dtype=np.float32)
        room = payload[4 * rows :]
        dither = None if rng is None else Dither(rng)
        for first, grid in _pieces(values, block):
            taken = scales[first : first + len(grid)]
            self._scales(grid, taken)
            levels = self._levels(grid, taken, dither).reshape(-1)[: count - first * block]
            self._store(levels, room, first * block)
        payload[: 4 * rows] = scales.astype("<f4", copy=False).view(np.uint8)
        return payload.tobytes()

    def unpack(self, payload: Payload, count: int, block: int) -> Float32Vector:
        """Return the float32[count] that `pack` coded.

        Raises PayloadLengthError, or PayloadContentError for a scale or level no encoder writes.
        """
        what = f"{count} values of {self.bits} bits in blocks of {block}"
        check_length(payload, self.size(count, block), what)
        block = min(block, count)
        rows = -(-count // block)
        scales = np.frombuffer(payload, dtype="<f4", count=rows).astype(np.float32, copy=False)
        if not ((scales >= 0) & (scales <= MAX_SCALE)).all():
            raise PayloadContentError("a block's scale is negative, not finite or too large")
        room = np.frombuffer(payload, dtype=np.uint8, offset=4 * rows)
        if self.bits == 4 and count % 2 and room[-1] >> 4:
            raise PayloadContentError("the unused last nibble must be zero")
        out = np.empty(count, dtype=np.float32)
        per_piece = _rows_per_piece(block)
        for first in range(0, rows, per_piece):
            start, stop = first * block, min(count, (first + per_piece) * block)
            levels = self._load(room, start, stop)
            if levels.min() < -self.peak:
                raise PayloadContentError(f"levels run from -{self.peak} to {self.peak}")
            whole = (stop - start) // block * block
            head = out[start : start + whole].reshape(-1, block)
            np.multiply(levels[:whole].reshape(-1, block), scales[first : first + len(head), None], out=head)
            np.multiply(levels[whole:], scales[-1], out=out[start + whole : stop])
        return out

    def _level_bytes(self, count: int) -> int:
        return (count * self.bits + 7) // 8

    def _scales(self, grid: npt.NDArray[np.float32], out: Float32Vector) -> None:
        """Put each row's scale into `out`: a hair above peak/levels, so that no quotient passes the peak."""
        peaks = _row_peaks(grid)
        np.nextafter(peaks / np.float32(self.peak), np.float32(np.inf), out=out)
        out[peaks < MIN_PEAK] = 0
        if not (out <= MAX_SCALE).all():
            raise NonFiniteUpdateError(
                f"the update reaches {peaks.max():.3g}, too large for float32 scales; clip it first"
            )

    @staticmethod
    def _levels(grid: npt.NDArray[np.float32], scales: Float32Vector, dither: Dither | None) -> _Levels:
        exact: npt.NDArray[np.float32] = np.divide(
            grid, np.where(scales > 0, scales, np.float32(np.inf))[:, None], dtype=np.float32
        )
        if dither is None:
            return np.rint(exact, out=exact).astype(np.int8)
        floor = np.floor(exact)
        # The exact fraction is compared, not value + u floored: that sum rounds up near one.
        exact -= floor
        levels = floor.astype(np.int8)
        levels += dither.below(exact).view(np.int8)
        return levels

    def _store(self, levels: _Levels, room: npt.NDArray[np.uint8], start: int) -> None:
        """Put the levels of values `start` onwards into place; `start` is even."""
        if self.bits == 8:
            room[start : start + levels.size] = levels.view(np.uint8)
            return
        if levels.size % 2:
            levels = np.append(levels, np.int8(0))
        pairs = levels.view(_PAIR)
        nibbles = (pairs >> np.uint16(4)) & np.uint16(0xF0)
        nibbles |= pairs & np.uint16(0x0F)
        room[start // 2 : start // 2 + pairs.size] = nibbles

    def _load(self, room: npt.NDArray[np.uint8], start: int, stop: int) -> _Levels:
        """Return the levels of values `start` to `stop`; `start` is even."""
        if self.bits == 8:
            return room[start:stop].view(np.int8)
        pairs = room[start // 2 : (stop + 1) // 2].astype(_PAIR)
        pairs |= pairs << np.uint16(4)
        pairs &= np.uint16(0x0F0F)
        levels = pairs.view(np.int8)
        # Flipping a nibble's top bit and taking it away again extends the sign.
        levels ^= np.int8(8)
        levels -= np.int8(8)
        return levels[: stop - start]


def _row_peaks(grid: npt.NDArray[np.float32]) -> Float32Vector:
    """Return the largest magnitude of each row."""
    rows, block = grid.shape
    # Quicker than a maximum along an axis, which begins anew for every row.
    peaks: Float32Vector = np.maximum.reduceat(np.abs(grid).reshape(-1), np.arange(rows) * block)
    return peaks


def _rows_per_piece(block: int) -> int:
    """Return an even number of rows, so that pieces of nibbles begin on a byte."""
    return max(2, _PIECE_VALUES // block // 2 * 2)


def _pieces(values: Float32Vector, block: int) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield (first row, rows of `block` values); the last row is filled up with zeros."""
    step = _rows_per_piece(block)
    for start in range(0, values.size, step * block):
        piece = values[start : start + step * block]
        if piece.size % block:
            padded = np.zeros(-(-piece.size // block) * block, dtype=np.float32)
            padded[: piece.size] = piece
            piece = padded
        yield start // block, piece.reshape(-1, block)


INT8 = BlockCoder(127, 8)
INT4 = BlockCoder(7, 4)
