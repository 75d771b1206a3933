"""Layers beside those that multiply: embedding of tokens, layer norm, dropout."""

from __future__ import annotations

import math
import zlib
from dataclasses import dataclass, replace
from typing import ClassVar, Self

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.authoring.dense import narrowed
from shoal_coordinator.authoring.errors import LayerSettingError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors


@dataclass(frozen=True)
class Embedding(Layer):
    """A row of ``table`` (tokens, width) for each token 0 to ``tokens`` - 1; first in a model of tokens."""

    KIND: ClassVar[str] = "embedding"
    TAKES_TOKENS: ClassVar[bool] = True
    tokens: int
    width: int

    def build(self, shape: Shape) -> Built:
        """Take (steps,) int32, give (steps, width)."""
        if len(shape) != 1:
            raise self.refuse_shape(shape, "(steps,) tokens")
        if self.tokens < 2 or self.width < 1:
            raise LayerSettingError(
                f"{self.title}: {self.tokens} tokens of width {self.width}; at least 2 and 1 are needed"
            )
        # Variance 1 / width: sums over a row are of order 1.
        table = Parameter("table", (self.tokens, self.width), math.sqrt(3 / self.width))
        return Built((shape[0], self.width), (table,))

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Look each token up."""
        return run.ops.embedding(x, p["table"])

    def narrow(self, share: float) -> Self:
        """Keep the first columns."""
        return replace(self, width=narrowed(self.width, share))


@dataclass(frozen=True)
class LayerNorm(Layer):
    """Last axis to mean 0 and variance 1, times ``g``, plus ``b`` (Ba et al. 2016); in and out of training.

    What an example is divided by comes from itself alone, so that it goes with DP-SGD.
    """

    KIND: ClassVar[str] = "layer_norm"

    def build(self, shape: Shape) -> Built:
        """Take (..., c), give the same."""
        if not shape or shape[-1] < 2:
            raise self.refuse_shape(shape, "a last axis of at least two features")
        g = Parameter("g", (shape[-1],), initial_mean=1.0)
        return Built(shape, (g, Parameter("b", (shape[-1],))))

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Normalise, scale, shift."""
        return run.ops.layer_norm(x, p["g"], p["b"])

    def squares(self, run: Run, p: Tensors, x: Tensor, dy: Tensor) -> Tensor:  # noqa: ARG002
        """Sum over positions first: the parameters are shared by all of them."""
        ops, axes = run.ops, tuple(range(1, len(x.shape) - 1))
        width, positions = x.shape[-1], math.prod(x.shape[1:-1])
        unit = ops.layer_norm(x, ops.constant([1.0] * width), ops.constant([0.0] * width))
        of_g, of_b = ops.multiply(dy, unit), dy
        if axes:
            of_g, of_b = (ops.affine(ops.mean(one, axes), float(positions), 0.0) for one in (of_g, of_b))
        return ops.add(ops.row_squares(of_g), ops.row_squares(of_b))


@dataclass(frozen=True)
class Dropout(Layer):
    """In training each entry is dropped with chance ``rate``, others are scaled up (Srivastava et al. 2014).

    The task then takes a ``seed`` for each step, from which every entry's mask is hashed.
    """

    KIND: ClassVar[str] = "dropout"
    NEEDS_SEED: ClassVar[bool] = True
    rate: float

    def build(self, shape: Shape) -> Built:
        """Give what is taken."""
        if not 0 < self.rate < 1:
            raise LayerSettingError(f"{self.title}: rate is {self.rate}, it must be between 0 and 1")
        return Built(shape)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """Drop entries in training, nothing otherwise."""
        if not run.training:
            return x
        return run.ops.dropout(x, run.seed, self.rate, zlib.crc32(run.layer.encode()) % 4096)
