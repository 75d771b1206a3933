"""Scaling a narrower model's activations to the size that the full model's have."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from shoal_coordinator.authoring.errors import LayerSettingError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors


@dataclass(frozen=True)
class Scale(Layer):
    """Every entry times ``factor``; a narrower variant has one before each layer that adds up fewer inputs.

    So its sum stays what it is in the full model, with which the variant shares its weights (HeteroFL's
    scaler, Diao et al. 2021, section 3.2; as in inverted dropout).
    """

    KIND: ClassVar[str] = "scale"
    factor: float = 1.0

    def build(self, shape: Shape) -> Built:
        """Return the same shape."""
        if not 0 < self.factor < math.inf:
            raise LayerSettingError(f"{self.title}: factor is {self.factor}, above 0 is needed")
        return Built(shape)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """``factor x``."""
        return run.ops.affine(x, self.factor, 0.0)
