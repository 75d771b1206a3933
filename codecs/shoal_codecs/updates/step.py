"""The next global model as base + scale * q: what the coordinator publishes and all apply alike."""

import math
import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Float32Vector, Indices, Payload, check_vector
from shoal_codecs.updates.bitpack import MAX_BITS, pack_words, unpack_words, word_dtype
from shoal_codecs.updates.errors import (
    CoordinateError,
    NonFiniteUpdateError,
    PayloadContentError,
    PayloadLengthError,
    VectorShapeError,
)
from shoal_codecs.updates.ring import MIN_RING_BITS, RingSpec, RingSum

_HEADER = struct.Struct("<fB")


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """A quantised step: coordinate i of the round moves by float32(scale) * float32(q[i]).

    `q`: int32[k]. `scale`: a value float32 holds exactly, in model units per level.
    """

    q: npt.NDArray[np.int32]
    scale: float


def step_from_sum(total: RingSum, spec: RingSpec, server_lr: float = 1.0) -> Step:
    """Return the weighted mean update times `server_lr` as a step; q is the sum itself.

    The mean of updates weighted by omega_i = min(n_i, W)/W is the sum over (S * sum omega_i).
    Raises NonFiniteUpdateError where the scale leaves float32.
    """
    scale = server_lr * spec.weight_cap / (spec.levels_per_unit * total.weight)
    return Step(total.q, _float32(scale))


def apply_step(base: Float32Vector, indices: Indices, step: Step) -> Float32Vector:
    """Return `base` (float32[D]) moved by `step` at `indices` (int64[k]); `base` stays as it is.

    One rounding for the product and one for the sum, never a fused multiply-add: the result has the
    same bits on every machine. Raises VectorShapeError, CoordinateError or NonFiniteUpdateError.
    """
    check_vector(base, base.size)
    if step.q.dtype != np.int32 or step.q.shape != indices.shape or indices.ndim != 1:
        raise VectorShapeError(
            f"a step of {step.q.dtype} {step.q.shape} does not match {indices.shape} coordinates"
        )
    if indices.size and (indices[0] < 0 or indices[-1] >= base.size):
        raise CoordinateError(f"the step reaches beyond the model's {base.size} parameters")
    with np.errstate(over="ignore"):
        moved = step.q.astype(np.float32)
        moved *= np.float32(step.scale)
        moved += base[indices]
    if not np.isfinite(moved).all():
        raise NonFiniteUpdateError("the step takes a weight out of float32; reject the round")
    out = base.copy()
    out[indices] = moved
    return out


def encode_step(q: npt.NDArray[np.int32], scale: float, bound: int) -> bytes:
    """Pack int32[k] levels within +-`bound` at the narrowest width that holds them.

    Layout: scale float32, width u8, two's complement words; little-endian. `bound` is what the
    decoder accepts, n_max * L for a plain sum. Raises VectorShapeError, PayloadContentError or
    NonFiniteUpdateError.
    """
    if q.dtype != np.int32 or q.ndim != 1 or not q.size:
        raise VectorShapeError(f"a step is int32[k], got {q.dtype} of {q.shape}")
    peak = max(int(q.max()), -int(q.min()))
    if peak > bound:
        raise PayloadContentError(f"level {peak} is over the agreed bound {bound}")
    bits = max(MIN_RING_BITS, peak.bit_length() + 1)
    if bits > MAX_BITS:
        raise PayloadContentError(f"level {peak} needs more than {MAX_BITS} bits")
    words = (q & np.int32((1 << (bits - 1)) - 1)).astype(np.uint32)
    words |= (q < 0).astype(np.uint32) << np.uint32(bits - 1)
    header = _HEADER.pack(_float32(scale), bits)
    return header + pack_words(words.astype(word_dtype(bits)), bits)


def decode_step(payload: Payload, count: int, bound: int) -> Step:
    """Return the step of `count` levels within +-`bound` that `encode_step` packed.

    Raises PayloadLengthError or PayloadContentError.
    """
    if len(payload) <= _HEADER.size:
        raise PayloadLengthError(f"{len(payload)} bytes cannot hold a step of {count} levels")
    scale, bits = _HEADER.unpack_from(payload)
    if not MIN_RING_BITS <= bits <= MAX_BITS:
        raise PayloadContentError(f"a step's width is {MIN_RING_BITS}..{MAX_BITS}, not {bits}")
    if not math.isfinite(scale):
        raise PayloadContentError("a step's scale must be finite")
    words = unpack_words(memoryview(payload)[_HEADER.size :], count, bits)
    unused = MAX_BITS - bits
    lifted = (words.astype(np.uint32) << np.uint32(unused)).view(np.int32)
    q: npt.NDArray[np.int32] = lifted >> np.int32(unused)
    if int(q.max()) > bound or int(q.min()) < -bound:
        raise PayloadContentError(f"a level is beyond the agreed bound {bound}")
    return Step(q, scale)


def _float32(scale: float) -> float:
    with np.errstate(over="ignore"):
        rounded = float(np.float32(scale))
    if not math.isfinite(rounded):
        raise NonFiniteUpdateError(f"the step's scale {scale} leaves float32")
    return rounded
