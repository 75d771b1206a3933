"""Smaller models, decided before the first round: rounded, pruned or clustered weights, and a teacher.

Each is inside the graph, so that devices, codecs and secret sharing know nothing of it, and the deployed
model has it too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.authoring.errors import DescriptionError, LayerSettingError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors
from shoal_coordinator.authoring.model import Model, build_model
from shoal_coordinator.authoring.ops import Ops

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Arrays = Mapping[str, "npt.NDArray[Any]"]
MOST_BITS = 8


@dataclass(frozen=True)
class Compressed(Layer):
    """What the three have in common: ``layer``, with other weights in the place of its own."""

    DESCRIBED: ClassVar[bool] = False
    layer: Layer

    def build(self, shape: Shape) -> Built:
        """Take, give and have what the layer does."""
        return self.layer.build(shape)

    def parts(self) -> tuple[Layer, ...]:
        """Wrap the first part, which has the weights."""
        first, *others = self.layer.parts()
        return (replace(self, layer=first, name=self.name or first.name), *others)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Do what the layer does, with its weights as they are changed."""
        return self.layer.forward(run, self.changed(run.ops, p), x)

    def changed(self, ops: Ops, p: Tensors) -> Tensors:
        """Return the weights that the layer gets."""
        raise NotImplementedError


@dataclass(frozen=True)
class Quantised(Compressed):
    """Quantisation-aware training: weights of two axes and more are rounded to ``bits`` in the forward pass.

    The gradient goes straight through to the full weights, which are what travels (Jacob et al. 2018;
    Bengio et al. 2013). Two axes share one scale, more have one for each channel, as the int8 artefact has
    them.
    """

    KIND: ClassVar[str] = "quantised"
    bits: int = MOST_BITS

    def build(self, shape: Shape) -> Built:
        """Take and give what the layer does.

        Raises:
            LayerSettingError: bits that are none.
        """
        if not 2 <= self.bits <= MOST_BITS:
            raise LayerSettingError(f"{self.title}: bits is {self.bits}, 2 to {MOST_BITS} make sense")
        return super().build(shape)

    def changed(self, ops: Ops, p: Tensors) -> Tensors:
        """Round what is no bias."""
        levels = 2 ** (self.bits - 1) - 1
        return {name: ops.round_to(one, levels) if len(one.shape) > 1 else one for name, one in p.items()}


@dataclass(frozen=True)
class Pruned(Compressed):
    """Weights that ``masks`` (0 or 1, by short names) leave out are zero and stay so (Han et al. 2015).

    A mask may be one of the largest weights of a model trained on public data: ``largest``.
    """

    KIND: ClassVar[str] = "pruned"
    masks: Arrays = field(compare=False, repr=False)

    def build(self, shape: Shape) -> Built:
        """Take and give what the layer does.

        Raises:
            LayerSettingError: a mask for no weight, or of another shape, or of other numbers.
        """
        built = super().build(shape)
        shapes = {one.name: one.shape for one in built.parameters}
        for name, mask in self.masks.items():
            if shapes.get(name) != mask.shape or not ((mask == 0) | (mask == 1)).all():
                raise LayerSettingError(
                    f"{self.title}: mask {name} {mask.shape} for weights {shapes}: give zeros and ones in a "
                    "weight's shape"
                )
        return built

    def changed(self, ops: Ops, p: Tensors) -> Tensors:
        """Multiply by the masks."""
        kept = {name: ops.constant(mask) for name, mask in self.masks.items()}
        return {name: ops.multiply(one, kept[name]) if name in kept else one for name, one in p.items()}


@dataclass(frozen=True)
class Clustered(Compressed):
    """Weights share ``clusters[name]`` values: each entry is the index of its value (Han et al. 2016).

    The values are the parameters, so that an update of 16 values travels where there was one of thousands.
    The indices may be those of a model trained on public data: ``nearest``.
    """

    KIND: ClassVar[str] = "clustered"
    clusters: Arrays = field(compare=False, repr=False)

    def build(self, shape: Shape) -> Built:
        """Take and give what the layer does; a clustered weight becomes (values, 1).

        Raises:
            LayerSettingError: indices for no weight, or of another shape.
        """
        built = super().build(shape)
        shapes = {one.name: one.shape for one in built.parameters}
        for name, indices in self.clusters.items():
            if shapes.get(name) != indices.shape or indices.dtype.kind not in "iu" or indices.min() < 0:
                raise LayerSettingError(
                    f"{self.title}: clusters {name} {indices.shape} for weights {shapes}: give an index for "
                    "each entry of a weight"
                )
        parameters = [
            Parameter(one.name, (int(self.clusters[one.name].max()) + 1, 1), one.initial_bound)
            if one.name in self.clusters
            else one
            for one in built.parameters
        ]
        return Built(built.shape, tuple(parameters))

    def changed(self, ops: Ops, p: Tensors) -> Tensors:
        """Look the values up."""
        found = dict(p)
        for name, indices in self.clusters.items():
            rows = ops.embedding(ops.tokens(indices.reshape(1, -1)), p[name])
            found[name] = ops.reshape(rows, indices.shape[1:])
        return found


def largest(weights: npt.NDArray[Any], share: float) -> npt.NDArray[np.float32]:
    """Return the mask that keeps the ``share`` of ``weights`` with the largest sizes."""
    import numpy as np  # noqa: PLC0415 - descriptions without such weights need no numpy

    count = max(1, round(share * weights.size))
    sizes = np.abs(weights).ravel()
    mask = np.zeros(weights.size, np.float32)
    mask[np.argsort(-sizes, kind="stable")[:count]] = 1
    return mask.reshape(weights.shape)


def nearest(weights: npt.NDArray[Any], values: int, rounds: int = 50) -> npt.NDArray[np.int32]:
    """Return each weight's index among ``values`` that k-means finds, beginning evenly over their range."""
    import numpy as np  # noqa: PLC0415 - descriptions without such weights need no numpy

    flat = weights.ravel().astype(np.float64)
    centres = np.linspace(flat.min(), flat.max(), values)
    for _ in range(rounds):
        indices = np.searchsorted((centres[1:] + centres[:-1]) / 2, flat)
        counts = np.bincount(indices, minlength=values)
        sums = np.bincount(indices, flat, minlength=values)
        centres = np.where(counts > 0, sums / np.maximum(counts, 1), centres)
    return indices.reshape(weights.shape).astype(np.int32)


@dataclass(frozen=True)
class Teacher:
    """A larger model that training also follows (Hinton et al. 2015): frozen ``layers`` of the same input.

    The loss becomes (1 - ``weight``) times the task's own and ``weight`` times ``temperature`` squared
    times the cross-entropy with the teacher's probabilities, both models' logits divided by the
    temperature. The teacher is in ``train`` only: what is deployed does without it.
    """

    layers: Sequence[Layer]
    weight: float = 0.5
    temperature: float = 2.0

    def model(self, shape: Shape, output: Shape) -> Model:
        """Return the teacher for examples of ``shape``, which gives what the student does.

        Raises:
            DescriptionError: it has something to train, gives another output, or its settings make no loss.
        """
        built = build_model(self.layers, shape, frozen=True)
        if built.parameters or built.output != output:
            raise DescriptionError(
                f"the teacher gives {built.output} and trains {len(built.parameters)} tensors: freeze() it, "
                f"and let it end as the task does, with {output}"
            )
        if not 0 < self.weight <= 1 or not 0 < self.temperature < math.inf:
            raise DescriptionError(
                f"teacher weight {self.weight}, temperature {self.temperature}: above 0, and weight at most 1"
            )
        return built

    def losses(self, ops: Ops, own: Tensor, output: Tensor, told: Tensor) -> Tensor:
        """Return each example's loss (n, 1) from the task's ``own``, both models' logits (n, labels)."""
        soft = ops.soft_cross_entropy(
            ops.affine(output, 1 / self.temperature, 0.0), ops.affine(told, 1 / self.temperature, 0.0)
        )
        return ops.add(
            ops.affine(own, 1 - self.weight, 0.0), ops.affine(soft, self.weight * self.temperature**2, 0.0)
        )
