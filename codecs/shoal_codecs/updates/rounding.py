"""Rounding to integer levels, and int8 blocks with one scale each."""

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Float32Vector, Payload, check_length
from shoal_codecs.updates.errors import NonFiniteUpdateError, PayloadContentError

LEVELS = 127
# 127 of these is just under the largest float32: a decoded value can never become infinite.
MAX_SCALE = np.float32(2.6e36)
# Peaks under this would need a subnormal scale, which loses its precision; they are sent as zero.
MIN_PEAK = np.float32(1e-35)

_F = TypeVar("_F", np.float32, np.float64)


def round_stochastically(values: npt.NDArray[_F], rng: np.random.Generator) -> npt.NDArray[_F]:
    """Round each value up with the probability of its fraction, else down: unbiased.

    Returns integral values of the same dtype and shape; integers stay as they are.
    """
    floor: npt.NDArray[_F] = np.floor(values)
    # Comparing the exact fraction, not flooring values + u: that sum rounds up near one.
    floor += rng.random(values.shape, dtype=np.float32) < values - floor
    return floor


def block_bytes(count: int, block: int) -> int:
    """Return the bytes of `count` int8 values with a float32 scale for every `block` of them."""
    return count + 4 * -(-count // block)


def pack_blocks(
    values: Float32Vector, block: int, rng: np.random.Generator | None
) -> tuple[bytes, Float32Vector]:
    """Quantise float32[n] to int8 with one scale per `block`.

    Rounds stochastically with `rng`, to nearest without. Returns the bytes (scales, then levels;
    little-endian) and what a decoder will read, float32[n]. The error of a value is at most one
    level of its block (half a level to nearest). Raises NonFiniteUpdateError.
    """
    count = values.size
    rows = -(-count // block)
    grid = np.zeros((rows, block), dtype=np.float32)
    grid.reshape(-1)[:count] = values
    peaks = np.maximum(grid.max(axis=1), -grid.min(axis=1))
    scales = np.where(peaks < MIN_PEAK, np.float32(0), peaks / np.float32(LEVELS))
    if not (scales <= MAX_SCALE).all():
        raise NonFiniteUpdateError(
            f"the update reaches {peaks.max():.3g}, too large for float32 scales; clip it first"
        )
    grid /= np.where(scales > 0, scales, np.float32(np.inf))[:, None]
    levels = np.rint(grid) if rng is None else round_stochastically(grid, rng)
    np.clip(levels, -LEVELS, LEVELS, out=levels)
    levels_int8 = levels.astype(np.int8).reshape(-1)[:count]
    payload = scales.astype("<f4").tobytes() + levels_int8.tobytes()
    levels *= scales[:, None]
    return payload, levels.reshape(-1)[:count]


def unpack_blocks(payload: Payload, count: int, block: int) -> Float32Vector:
    """Return the float32[count] that `pack_blocks` coded.

    Raises PayloadLengthError, or PayloadContentError for a scale or level no encoder writes.
    """
    check_length(payload, block_bytes(count, block), f"{count} int8 values in blocks of {block}")
    rows = -(-count // block)
    scales = np.frombuffer(payload, dtype="<f4", count=rows).astype(np.float32)
    if not ((scales >= 0) & (scales <= MAX_SCALE)).all():
        raise PayloadContentError("a block's scale is negative, not finite or too large")
    levels = np.frombuffer(payload, dtype=np.int8, offset=4 * rows, count=count)
    if levels.min() < -LEVELS:
        raise PayloadContentError(f"levels run from -{LEVELS} to {LEVELS}, found -128")
    full = count // block * block
    out = np.empty(count, dtype=np.float32)
    head = out[:full].reshape(-1, block)
    np.multiply(levels[:full].reshape(-1, block), scales[: full // block, None], out=head)
    np.multiply(levels[full:], scales[-1], out=out[full:])
    return out
