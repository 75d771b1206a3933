"""The dense layer and activations."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self, get_args

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.authoring.errors import LayerSettingError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors

Nonlinearity = Literal["", "relu", "relu6", "tanh", "sigmoid"]


def glorot_bound(fan_in: int, fan_out: int) -> float:
    """Return the bound of Glorot and Bengio's uniform distribution (2010, equation 16)."""
    return math.sqrt(6 / (fan_in + fan_out))


def narrowed(width: int, share: float) -> int:
    """Return ``share`` of a layer's ``width``, at least 1."""
    return max(1, math.ceil(width * share - 1e-9))


@dataclass(frozen=True)
class Activation(Layer):
    """A nonlinear function of each entry."""

    KIND: ClassVar[str] = "activation"
    function: Nonlinearity

    def build(self, shape: Shape) -> Built:
        """Return the same shape."""
        if not self.function or self.function not in get_args(Nonlinearity):
            raise LayerSettingError(
                f"{self.title}: no activation {self.function!r}; use one of "
                f"{', '.join(one for one in get_args(Nonlinearity) if one)}"
            )
        return Built(shape)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """Apply the function."""
        applied: Tensor = getattr(run.ops, self.function)(x)
        return applied


def with_activation(layer: Layer, function: Nonlinearity) -> tuple[Layer, ...]:
    """Return ``layer`` and, where there is one, its activation as a layer of its own."""
    return (layer, Activation(function)) if function else (layer,)


@dataclass(frozen=True)
class Dense(Layer):
    """Every output from every input: ``w`` (inputs, units), ``b`` (units,)."""

    KIND: ClassVar[str] = "dense"
    BY_ROWS: ClassVar[tuple[str, ...]] = ("w",)
    units: int
    activation: Nonlinearity = ""

    def build(self, shape: Shape) -> Built:
        """Take (inputs,), give (units,)."""
        if len(shape) != 1:
            raise self.refuse_shape(shape, "one axis of features (put Flatten() before it)")
        if self.units < 1:
            raise LayerSettingError(f"{self.title}: units is {self.units}, at least 1 is needed")
        inputs = shape[0]
        w = Parameter("w", (inputs, self.units), glorot_bound(inputs, self.units))
        return Built((self.units,), (w, Parameter("b", (self.units,))))

    def parts(self) -> tuple[Layer, ...]:
        """Split the activation off."""
        return with_activation(replace(self, activation=""), self.activation)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """``x w + b``."""
        return run.ops.dense(x, p["w"], p["b"])

    def squares(self, run: Run, p: Tensors, x: Tensor, dy: Tensor) -> Tensor:  # noqa: ARG002
        """Product of the lengths of input and error (Goodfellow 2015); the bias is an input of 1."""
        ops = run.ops
        return ops.multiply(ops.affine(ops.row_squares(x), 1.0, 1.0), ops.row_squares(dy))

    def narrow(self, share: float) -> Self:
        """Keep the first units."""
        return replace(self, units=narrowed(self.units, share))
