"""Partial training: layers whose weights are constants of the graph, and never travel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from shoal_coordinator.authoring.errors import LayerSettingError
from shoal_coordinator.authoring.int8_weights import Int8Weights
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors
from shoal_coordinator.authoring.model import build_model

if TYPE_CHECKING:
    import numpy.typing as npt

Arrays = Mapping[str, "npt.NDArray[Any] | Int8Weights"]


@dataclass(frozen=True)
class Frozen(Layer):
    """``layer`` with these ``weights`` by short names, as outside training."""

    KIND: ClassVar[str] = "frozen"
    DESCRIBED: ClassVar[bool] = False
    layer: Layer
    weights: Arrays = field(compare=False, repr=False)

    def build(self, shape: Shape) -> Built:
        """Take and give what the layer does; no parameters.

        Raises:
            LayerSettingError: weights missing, too many, or of another shape.
        """
        built = self.layer.build(shape)
        wanted = {one.name: one.shape for one in built.parameters}
        found = {name: tuple(one.shape) for name, one in self.weights.items()}
        if wanted != found:
            raise LayerSettingError(f"{self.title}: weights {found}, the layer has {wanted}: give those")
        return Built(built.shape)

    def parts(self) -> tuple[Layer, ...]:
        """Freeze the first part, which has the weights; an activation needs none."""
        first, *others = self.layer.parts()
        return (Frozen(first, self.weights, name=self.name or first.name), *others)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Do what the layer does with its constants."""
        del p
        ops = run.ops.for_constants()
        constants = {
            name: ops.int8_constant(one, x) if isinstance(one, Int8Weights) else ops.constant(one)
            for name, one in self.weights.items()
        }
        return self.layer.forward(Run(ops, layer=run.layer), constants, x)


def freeze(layers: Iterable[Layer], shape: Shape, weights: Arrays) -> list[Layer]:
    """Return ``layers`` with all weights frozen, for examples of ``shape``.

    ``weights`` holds arrays by full names (``conv1_w``), as a model of these layers alone has them: what
    ``numpy.savez`` kept of a trained model, for example.

    Raises:
        LayerSettingError: a parameter is missing, or of another shape.
    """
    model = build_model(layers, shape)
    absent = [one.name for one in model.parameters if one.name not in weights]
    if absent:
        raise LayerSettingError(f"weights lack {', '.join(absent)}: freeze with those of a trained model")
    return [
        Frozen(one.layer, one.own(weights), name=one.name) if one.parameters else one.layer
        for one in model.placed
    ]
