"""The next global model as base + scale * q: what the coordinator publishes and all apply alike."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Float32Vector, Indices, check_vector
from shoal_codecs.updates.errors import CoordinateError, NonFiniteUpdateError, VectorShapeError
from shoal_codecs.updates.ring import RingSpec, RingSum

LEAST_SCALE = float(np.float32(1e-30))
"""A weight of zero has subnormal neighbours, which not every processor tells from zero."""


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


def apply_step(base: Float32Vector, indices: Indices | None, step: Step) -> Float32Vector:
    """Return `base` (float32[D]) moved by `step` at `indices` (int64[k], None: all); `base` stays as it is.

    One rounding for the product and one for the sum, never a fused multiply-add: the result has the
    same bits on every machine. Raises VectorShapeError, CoordinateError or NonFiniteUpdateError.
    """
    check_vector(base, base.size)
    count = base.size if indices is None else indices.size
    if step.q.dtype != np.int32 or step.q.shape != (count,) or (indices is not None and indices.ndim != 1):
        raise VectorShapeError(f"a step of {step.q.dtype} {step.q.shape} does not match {count} coordinates")
    if indices is not None and indices.size and (indices[0] < 0 or indices[-1] >= base.size):
        raise CoordinateError(f"the step reaches beyond the model's {base.size} parameters")
    with np.errstate(over="ignore"):
        moved = step.q.astype(np.float32)
        moved *= np.float32(step.scale)
        moved += base if indices is None else base[indices]
    if not np.isfinite(moved).all():
        raise NonFiniteUpdateError("the step takes a weight out of float32; reject the round")
    if indices is None:
        return moved
    out = base.copy()
    out[indices] = moved
    return out


def quantise(move: npt.NDArray[np.float64], level_rms: float) -> Step:
    """Return `move` (float64[k], not all zero) as levels of `level_rms` times the rms of what is not zero.

    Rounded to the nearest level, ties to even. With `level_rms` at most 1 the largest value always has a
    level. Raises NonFiniteUpdateError where a value is no number or the scale leaves float32.
    """
    moved = move[move != 0]
    if not moved.size or not np.isfinite(moved).all():
        raise NonFiniteUpdateError("a move of zeros, NaN or infinity has no levels; reject the round")
    peak = float(np.abs(moved).max())
    # By way of the peak, for squares leave the floats long before the values do.
    rms = peak * math.sqrt(float(np.square(moved / peak).mean()))
    scale = max(_float32(level_rms * rms), LEAST_SCALE)
    return Step(np.rint(move / scale).astype(np.int32), scale)


def _float32(scale: float) -> float:
    with np.errstate(over="ignore"):
        rounded = float(np.float32(scale))
    if not math.isfinite(rounded):
        raise NonFiniteUpdateError(f"the step's scale {scale} leaves float32")
    return rounded
