"""Pools, and layers that change nothing but the shape."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from shoal_coordinator.authoring.convolution import Pair, pair, places
from shoal_coordinator.authoring.errors import LayerSettingError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors


@dataclass(frozen=True)
class _Pool(Layer):
    """Windows side by side over an image (height, width, channels) or a sequence (steps, channels).

    Windows that overlap are refused: their gradient does not convert well. What no whole window covers at
    the end is left out.
    """

    size: int | Pair = 2

    def build(self, shape: Shape) -> Built:
        """Give one entry a window."""
        if len(shape) not in {2, 3}:
            raise self.refuse_shape(shape, "(height, width, channels) or (steps, channels)")
        size = self._size(shape)
        return Built((*places(self, shape[:-1], size, size, "valid"), shape[-1]))

    def _size(self, shape: Shape) -> Shape:
        if len(shape) == 3:
            return pair(self.size)
        if not isinstance(self.size, int):
            raise LayerSettingError(f"{self.title}: size {self.size} for a sequence; give one number")
        return (self.size,)

    def _pooled(self, run: Run, x: Tensor, operation: str) -> Tensor:
        pool = getattr(run.ops, operation)
        if len(x.shape) == 4:
            return pool(x, pair(self.size))
        y = pool(run.ops.expand(x, 1), (1, self.size))
        return run.ops.reshape(y, tuple(y.shape[2:]))


@dataclass(frozen=True)
class MaxPool(_Pool):
    """Largest of each window; equal ones share the gradient."""

    KIND: ClassVar[str] = "max_pool"

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """Take the largest."""
        return self._pooled(run, x, "max_pool")


@dataclass(frozen=True)
class AveragePool(_Pool):
    """Mean of each window."""

    KIND: ClassVar[str] = "average_pool"

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """Take the mean."""
        return self._pooled(run, x, "average_pool")


@dataclass(frozen=True)
class _GlobalPool(Layer):
    def build(self, shape: Shape) -> Built:
        """Take (..., channels), give (channels,)."""
        if len(shape) < 2:
            raise self.refuse_shape(shape, "(..., channels)")
        return Built(shape[-1:])


@dataclass(frozen=True)
class GlobalAveragePool(_GlobalPool):
    """Mean of each channel over all places or steps."""

    KIND: ClassVar[str] = "global_average_pool"

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """Take the mean."""
        return run.ops.mean(x, tuple(range(1, len(x.shape) - 1)))


@dataclass(frozen=True)
class GlobalMaxPool(_GlobalPool):
    """Largest of each channel over all places or steps; equal ones share the gradient."""

    KIND: ClassVar[str] = "global_max_pool"

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """Take the largest."""
        return run.ops.maximum(x, tuple(range(1, len(x.shape) - 1)))


@dataclass(frozen=True)
class Flatten(Layer):
    """All axes as one."""

    KIND: ClassVar[str] = "flatten"

    def build(self, shape: Shape) -> Built:
        """Take anything, give one axis."""
        return Built((math.prod(shape),))

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """Reshape."""
        return run.ops.reshape(x, (math.prod(x.shape[1:]),))


@dataclass(frozen=True)
class Reshape(Layer):
    """The same entries in another shape, without the batch axis."""

    KIND: ClassVar[str] = "reshape"
    shape: Shape

    def build(self, shape: Shape) -> Built:
        """Take as many entries, give the wanted shape."""
        if min(self.shape, default=1) < 1:
            raise LayerSettingError(f"{self.title}: sides {self.shape}; each is at least 1")
        if math.prod(shape) != math.prod(self.shape):
            raise self.refuse_shape(shape, f"{math.prod(self.shape)} entries for {self.shape}")
        return Built(tuple(self.shape))

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:  # noqa: ARG002
        """Reshape."""
        return run.ops.reshape(x, tuple(self.shape))
