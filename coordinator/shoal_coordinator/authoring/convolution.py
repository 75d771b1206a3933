"""Convolutions over images (height, width, channels) and over sequences (steps, channels)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from shoal_codecs.wire.task import Parameter
from shoal_coordinator.authoring.dense import Nonlinearity, glorot_bound, narrowed, with_activation
from shoal_coordinator.authoring.errors import LayerSettingError
from shoal_coordinator.authoring.layer import Built, Layer, Run, Shape, Tensor, Tensors

Padding = Literal["same", "valid"]
Pair = tuple[int, int]


def pair(value: int | Pair) -> Pair:
    """Return a side, or both, as (height, width)."""
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def places(layer: Layer, shape: Shape, size: Shape, stride: Shape, padding: str) -> Shape:
    """Return how often a kernel fits along each axis of ``shape``.

    Raises:
        LayerSettingError: sides or steps under 1, or another padding.
        LayerShapeError: the kernel is larger than what it runs over.
    """
    if min(*size, *stride) < 1 or padding not in {"same", "valid"}:
        raise LayerSettingError(
            f"{layer.title}: kernel {size}, stride {stride}, padding {padding!r}; sides are at least 1, "
            'padding is "same" or "valid"'
        )
    if padding == "same":
        return tuple(-(-side // step) for side, step in zip(shape, stride, strict=True))
    counts = [(side - one) // step + 1 for side, one, step in zip(shape, size, stride, strict=True)]
    if min(counts) < 1:
        raise layer.refuse_shape(shape, f'at least {size} (or padding "same")')
    return tuple(counts)


@dataclass(frozen=True)
class Conv2D(Layer):
    """A kernel over an image: ``w`` (height, width, inputs, filters), ``b`` (filters,)."""

    KIND: ClassVar[str] = "conv"
    filters: int
    kernel: int | Pair = 3
    stride: int | Pair = 1
    padding: Padding = "same"
    activation: Nonlinearity = ""

    def build(self, shape: Shape) -> Built:
        """Take (height, width, channels), give (places down, places across, filters)."""
        if len(shape) != 3:
            raise self.refuse_shape(shape, "(height, width, channels)")
        if self.filters < 1:
            raise LayerSettingError(f"{self.title}: filters is {self.filters}, at least 1 is needed")
        size = pair(self.kernel)
        counts = places(self, shape[:2], size, pair(self.stride), self.padding)
        field = size[0] * size[1]
        bound = glorot_bound(field * shape[2], field * self.filters)
        w = Parameter("w", (*size, shape[2], self.filters), bound)
        return Built((*counts, self.filters), (w, Parameter("b", (self.filters,))))

    def parts(self) -> tuple[Layer, ...]:
        """Split the activation off."""
        return with_activation(replace(self, activation=""), self.activation)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Convolve, add the bias."""
        y = run.ops.conv2d(x, p["w"], pair(self.stride), self.padding)
        return run.ops.add_channels(y, p["b"])

    def squares(self, run: Run, p: Tensors, x: Tensor, dy: Tensor) -> Tensor:  # noqa: ARG002
        """Of the patches' product with the error, and of the error's sum."""
        ops = run.ops
        of_w = ops.conv_squares(x, dy, pair(self.kernel), pair(self.stride), self.padding)
        return ops.add(of_w, bias_squares(run, dy))

    def narrow(self, share: float) -> Self:
        """Keep the first filters."""
        return replace(self, filters=narrowed(self.filters, share))


@dataclass(frozen=True)
class DepthwiseConv2D(Layer):
    """A kernel of its own for each channel: ``w`` (height, width, channels), ``b`` (channels,)."""

    KIND: ClassVar[str] = "depthwise"
    kernel: int | Pair = 3
    stride: int | Pair = 1
    padding: Padding = "same"
    activation: Nonlinearity = ""

    def build(self, shape: Shape) -> Built:
        """Take (height, width, channels), give (places down, places across, channels)."""
        if len(shape) != 3:
            raise self.refuse_shape(shape, "(height, width, channels)")
        size = pair(self.kernel)
        counts = places(self, shape[:2], size, pair(self.stride), self.padding)
        field = size[0] * size[1]
        w = Parameter("w", (*size, shape[2]), glorot_bound(field, field))
        return Built((*counts, shape[2]), (w, Parameter("b", (shape[2],))))

    def parts(self) -> tuple[Layer, ...]:
        """Split the activation off."""
        return with_activation(replace(self, activation=""), self.activation)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Convolve each channel, add the bias."""
        y = run.ops.depthwise(x, p["w"], pair(self.stride), self.padding)
        return run.ops.add_channels(y, p["b"])

    def squares(self, run: Run, p: Tensors, x: Tensor, dy: Tensor) -> Tensor:  # noqa: ARG002
        """Of each kernel entry's product with the error, and of the error's sum."""
        ops = run.ops
        of_w = ops.depthwise_squares(x, dy, pair(self.kernel), pair(self.stride), self.padding)
        return ops.add(of_w, bias_squares(run, dy))


@dataclass(frozen=True)
class Conv1D(Layer):
    """A kernel over a sequence: ``w`` (steps, inputs, filters), ``b`` (filters,)."""

    KIND: ClassVar[str] = "conv1d"
    filters: int
    kernel: int = 3
    stride: int = 1
    padding: Padding = "same"
    activation: Nonlinearity = ""

    def build(self, shape: Shape) -> Built:
        """Take (steps, channels), give (places, filters)."""
        if len(shape) != 2:
            raise self.refuse_shape(shape, "(steps, channels)")
        if self.filters < 1:
            raise LayerSettingError(f"{self.title}: filters is {self.filters}, at least 1 is needed")
        counts = places(self, shape[:1], (self.kernel,), (self.stride,), self.padding)
        bound = glorot_bound(self.kernel * shape[1], self.kernel * self.filters)
        w = Parameter("w", (self.kernel, shape[1], self.filters), bound)
        return Built((*counts, self.filters), (w, Parameter("b", (self.filters,))))

    def parts(self) -> tuple[Layer, ...]:
        """Split the activation off."""
        return with_activation(replace(self, activation=""), self.activation)

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Convolve as an image of height 1, add the bias."""
        ops = run.ops
        w = ops.expand(p["w"], 0)
        y = ops.conv2d(ops.expand(x, 1), w, (1, self.stride), self.padding)
        return ops.add_channels(ops.reshape(y, tuple(y.shape[2:])), p["b"])

    def squares(self, run: Run, p: Tensors, x: Tensor, dy: Tensor) -> Tensor:  # noqa: ARG002
        """Of the patches' product with the error, and of the error's sum."""
        ops = run.ops
        image, error = ops.expand(x, 1), ops.expand(dy, 1)
        of_w = ops.conv_squares(image, error, (1, self.kernel), (1, self.stride), self.padding)
        return ops.add(of_w, bias_squares(run, error))

    def narrow(self, share: float) -> Self:
        """Keep the first filters."""
        return replace(self, filters=narrowed(self.filters, share))


def bias_squares(run: Run, dy: Tensor) -> Tensor:
    """Return the squared length (n, 1) of each example's gradient of a bias that is added everywhere."""
    ops = run.ops
    count = float(dy.shape[1] * dy.shape[2])
    return ops.row_squares(ops.affine(ops.mean(dy, (1, 2)), count, 0.0))
