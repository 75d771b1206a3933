"""Sub-models that are prefixes of a larger one's tensors: which coordinates they have in its vector.

HeteroFL (Diao et al. 2021, section 3): a narrower model's parameter is ``full[:s0, :s1, ...]``, so that every
device trains the same coordinates as all narrower ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from shoal_codecs.updates.base import Float32Vector, Indices, check_shape, kept_for
from shoal_codecs.updates.errors import SliceShapeError
from shoal_codecs.wire.task import Parameter, TaskBundle, dimension

FULL = 100
UNMEASURED = 0


@dataclass(frozen=True, slots=True, eq=False)
class ModelSlice:
    """``part`` cut out of ``full`` by prefixes; ``positions`` int64[d] are its places in the full vector.

    They increase strictly, for both vectors are in C order.

    Raises:
        SliceShapeError: parameters with other names, in another order, or longer than the full ones.
    """

    full: tuple[Parameter, ...]
    part: tuple[Parameter, ...]
    positions: Indices = field(init=False)

    def __post_init__(self) -> None:
        check_slice(self.full, self.part)
        found, start = [], 0
        for whole, cut in zip(self.full, self.part, strict=True):
            found.append(_places(start, whole.shape, cut.shape))
            start += whole.size
        object.__setattr__(self, "positions", np.concatenate(found))

    @property
    def dimension(self) -> int:
        """Length d of the sub-model's vector."""
        return self.positions.size

    def kept(self, kept: int) -> int:
        """Return how many of the d coordinates travel where ``kept`` of all D do."""
        return kept_for(self.dimension, kept / dimension(self.full))

    def cut(self, vector: Float32Vector) -> Float32Vector:
        """Return the sub-model's vector (d,) out of the full ``vector`` (D,)."""
        check_shape(vector, dimension(self.full))
        return vector[self.positions]

    def spread(self, vector: Float32Vector) -> Float32Vector:
        """Return a full vector (D,) that is ``vector`` (d,) at the sub-model's places, and else zero."""
        check_shape(vector, self.dimension)
        out = np.zeros(dimension(self.full), np.float32)
        out[self.positions] = vector
        return out


class ModelLevels:
    """A task's models by level: 0 is the full one, n its n-th variant; a level is one byte of a plan.

    ``percents`` are the widths kept.
    """

    def __init__(self, bundle: TaskBundle) -> None:
        self._bundle = bundle
        self.percents = (FULL, *(round(FULL * one.share) for one in bundle.variants))
        self._slices: dict[int, ModelSlice] = {}

    def level_for(self, percent: int) -> int | None:
        """Return the widest level that a device takes which takes ``percent`` of the width; None: none.

        Of a device that does not know yet (0) it is the narrowest.
        """
        order = sorted(range(len(self.percents)), key=lambda level: -self.percents[level])
        if percent == UNMEASURED:
            return order[-1]
        return next((level for level in order if self.percents[level] <= percent), None)

    def slice_of(self, level: int) -> ModelSlice | None:
        """Return which part of the full model ``level`` is, None for all of it.

        Raises:
            SliceShapeError: the task has no such level.
        """
        if not 0 <= level < len(self.percents):
            raise SliceShapeError(
                f"the plan gives a device variant {level}, the task has {len(self.percents) - 1}: plan anew"
            )
        if level == 0:
            return None
        if level not in self._slices:
            part = self._bundle.variants[level - 1].parameters
            self._slices[level] = ModelSlice(self._bundle.parameters, part)
        return self._slices[level]

    def bundle_of(self, level: int) -> TaskBundle:
        """Return the task as a device trains it on ``level``; raises as ``slice_of``."""
        if self.slice_of(level) is None:
            return self._bundle
        return self._bundle.variant(self._bundle.variants[level - 1].share)


def _places(start: int, whole: tuple[int, ...], part: tuple[int, ...]) -> Indices:
    """Return the places of the prefix ``part`` of a tensor of shape ``whole`` that begins at ``start``."""
    # Never as many as the whole has: this is for boards that the whole is too large for.
    places = np.full((), start, np.int64)
    for axis, side in enumerate(part):
        places = places[..., None] + np.arange(side) * math.prod(whole[axis + 1 :])
    return places.reshape(-1)


def check_slice(full: Sequence[Parameter], part: Sequence[Parameter]) -> None:
    """Raise SliceShapeError unless ``part`` are the parameters ``full``, each cut to a prefix."""
    names = [one.name for one in full]
    if names != [one.name for one in part]:
        raise SliceShapeError(
            "a variant has other parameters than the task, or in another order: author it again"
        )
    for whole, cut in zip(full, part, strict=True):
        fits = len(cut.shape) == len(whole.shape) and all(
            0 < side <= most for side, most in zip(cut.shape, whole.shape, strict=True)
        )
        if not fits:
            raise SliceShapeError(
                f"a variant's {whole.name} of {cut.shape} is no prefix of {whole.shape}: author it again"
            )
