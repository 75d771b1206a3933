"""Which coordinates a round's devices have, where they train narrower variants of a task (HeteroFL).

What none of them has was not looked at. There it is not that the mean update is zero, but that there is none:
an optimiser's momentum must not move it, and noise alone must not either.
"""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Indices
from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.wire.plan import Plan
from shoal_coordinator.algorithms.base import Algorithm, Float64Vector
from shoal_coordinator.algorithms.state import AlgorithmState

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What a round looked at: the coordinates ``drawn`` (int64[k], None: all), of them where ``mask`` says.

    ``mask`` is bool[k], or None where some device has every coordinate.
    """

    drawn: Indices | None
    mask: Mask | None

    def clear(self, values: npt.NDArray[np.float64] | npt.NDArray[np.int32]) -> None:
        """Set to zero what of ``values`` ([k], in place) nobody looked at."""
        if self.mask is not None:
            values[~self.mask] = 0

    def move(
        self, algorithm: Algorithm, mean: Float64Vector, rate: float, state: AlgorithmState, dimension: int
    ) -> Float64Vector:
        """Return by how much the weights at ``drawn`` move (float64[k]); where nobody looked, by nothing.

        There the algorithm's state stays as it is, too. The arguments are those of ``Algorithm.move``,
        ``mean`` float64[k].
        """
        if self.mask is None:
            return algorithm.move(mean, rate, state, self.drawn, dimension)
        places = np.flatnonzero(self.mask) if self.drawn is None else self.drawn[self.mask]
        moved = np.zeros(mean.size, np.float64)
        moved[self.mask] = algorithm.move(mean[self.mask], rate, state, places, dimension)
        return moved


def seen(
    plan: Plan, levels: ModelLevels | None, drawn: Indices | None, devices: Collection[str] | None = None
) -> Seen:
    """Return what the updates of ``devices`` (None: anybody of the cohort) say something of.

    Raises:
        SliceShapeError: the plan gives a device a variant that the task, whose ``levels`` these are, has not.
    """
    if levels is None or not plan.variants:
        return Seen(drawn, None)
    level_of = dict(zip(plan.cohort, plan.variants, strict=True))
    trained = set(level_of.values()) if devices is None else {level_of.get(name, 0) for name in devices}
    slices = [levels.slice_of(level) for level in sorted(trained)]
    covered = np.zeros(plan.codec.dimension, np.bool_)
    for cut in slices:
        if cut is None:
            return Seen(drawn, None)
        covered[cut.positions] = True
    return Seen(drawn, covered if drawn is None else covered[drawn])
