"""The operations that layers are made of; two classes have them (see the package).

Shapes are without broadcasting unless said; n is the batch axis. What is added here is added to
``plain_ops`` and ``builtin_ops``, and to the gradient tests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from shoal_coordinator.authoring.int8_weights import Int8Weights
    from shoal_coordinator.authoring.rows import Rows

Tensor = Any
Pair = tuple[int, int]


class Ops(Protocol):
    """What a layer may do to tensors that a gradient goes through."""

    dtype: Any
    """float32 or float64."""

    products: bool
    """Whether convolutions are products of matrices, which nothing fuses an activation into."""

    def mean_error(self, losses: Tensor, y: Tensor) -> Tensor:
        """Return the gradient of the mean of ``losses`` (n, 1): (n, 1), or (1, 1) for all; ``y`` (n, ...).

        Of the targets' number and not of the losses': what depends on the input alone is there beforehand.
        """
        ...

    def for_constants(self) -> Ops:
        """Return the operations for layers whose weights are constants."""
        ...

    def constant(self, values: Any) -> Tensor:
        """Return an array as a tensor without a gradient."""
        ...

    def int8_constant(self, weights: Int8Weights, x: Tensor) -> Tensor:
        """Return frozen weights as a tensor without a gradient; a trainable file holds their int8 levels.

        ``x`` is any tensor (n, ...) that is known only when the model runs.
        """
        ...

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum of two tensors of one shape."""
        ...

    def subtract(self, a: Tensor, b: Tensor) -> Tensor:
        """Difference of two tensors of one shape."""
        ...

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """Product, element by element, of two tensors of one shape."""
        ...

    def affine(self, x: Tensor, factor: float, shift: float) -> Tensor:
        """Return ``factor * x + shift`` with two numbers."""
        ...

    def add_channels(self, x: Tensor, b: Tensor) -> Tensor:
        """Return ``x`` (..., c) plus ``b`` (c,)."""
        ...

    def multiply_channels(self, x: Tensor, g: Tensor) -> Tensor:
        """Return ``x`` (..., c) times ``g`` (c,)."""
        ...

    def matmul(self, x: Tensor, w: Tensor) -> Tensor:
        """Return ``x`` (n, i) times ``w`` (i, o)."""
        ...

    def dense(self, x: Tensor, w: Tensor | Rows, b: Tensor) -> Tensor:
        """Return ``x`` (n, i) times ``w`` (i, o) plus ``b`` (o,)."""
        ...

    def relu(self, x: Tensor) -> Tensor:
        """The larger of x and 0."""
        ...

    def relu6(self, x: Tensor) -> Tensor:
        """Return x within 0 and 6."""
        ...

    def tanh(self, x: Tensor) -> Tensor:
        """Hyperbolic tangent."""
        ...

    def sigmoid(self, x: Tensor) -> Tensor:
        """Logistic function."""
        ...

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``x`` (n, ...) as (n, *shape)."""
        ...

    def expand(self, x: Tensor, axis: int) -> Tensor:
        """Return ``x`` with a further axis of length 1."""
        ...

    def conv2d(self, x: Tensor, w: Tensor, stride: Pair, padding: str) -> Tensor:
        """Cross-correlation of ``x`` (n, h, w, i) with ``w`` (kernel's h, w, i, o)."""
        ...

    def depthwise(self, x: Tensor, w: Tensor, stride: Pair, padding: str) -> Tensor:
        """Cross-correlation of each channel of ``x`` (n, h, w, c) with its own of ``w`` (h, w, c)."""
        ...

    def conv_squares(self, x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
        """Squared length (n, 1) of each example's gradient of ``conv2d``'s ``w``."""
        ...

    def depthwise_squares(self, x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
        """Squared length (n, 1) of each example's gradient of ``depthwise``'s ``w``."""
        ...

    def max_pool(self, x: Tensor, size: Pair) -> Tensor:
        """Largest of each window of ``x`` (n, h, w, c), side by side; equal ones share the gradient."""
        ...

    def average_pool(self, x: Tensor, size: Pair) -> Tensor:
        """Mean of each window of ``x`` (n, h, w, c), side by side."""
        ...

    def batch_norm(self, x: Tensor, g: Tensor, b: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``x`` (..., c) normalised over all axes but the last, its mean and its variance (c,)."""
        ...

    def normalise(
        self, x: Tensor, g: Tensor, b: Tensor, mean: Tensor, variance: Tensor, epsilon: float
    ) -> Tensor:
        """Return (x - mean) / root(variance + epsilon) times ``g`` plus ``b``, channel by channel.

        No gradient goes to mean and variance.
        """
        ...

    def transpose(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        """Axes in another ``order``, the batch's first."""
        ...

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        """Tensors one after another along ``axis``, which is not the batch's."""
        ...

    def cut(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """Entries ``start`` to ``stop`` of ``axis``, which is not the batch's."""
        ...

    def mean(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Mean over ``axes``, which are dropped; the batch's is not among them."""
        ...

    def maximum(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Maximum over ``axes``, which are dropped; equal ones share the gradient."""
        ...

    def log_softmax(self, x: Tensor) -> Tensor:
        """Return ``x`` (n, c) as logarithms of probabilities."""
        ...

    def row_squares(self, x: Tensor) -> Tensor:
        """Squared length (n, 1) of each row of ``x`` (n, ...); only where no gradient goes through."""
        ...

    def root(self, x: Tensor) -> Tensor:
        """Square root; only where no gradient goes through."""
        ...

    def stop(self, x: Tensor) -> Tensor:
        """Return ``x``, but no gradient goes through."""
        ...

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """Softmax cross-entropy in nats (n, 1) of ``logits`` (n, c) and labels ``y`` (n,) int32."""
        ...

    def squared_error(self, values: Tensor, y: Tensor) -> Tensor:
        """Mean over an example of its squared errors, (n, 1); ``values`` and ``y`` (n, ...)."""
        ...

    def gru(self, x: Tensor, w: Tensor, u: Tensor, b: Tensor, c: Tensor, *, last: bool) -> Tensor:
        """States (n, T, h) of a GRU over ``x`` (n, T, i), or the ``last`` one (n, h).

        ``w`` (i, 3, h), ``u`` (h, 3, h), ``b`` and ``c`` (3, h): update, reset, candidate.
        """
        ...

    def lstm(self, x: Tensor, w: Tensor, u: Tensor, b: Tensor, *, last: bool) -> Tensor:
        """States (n, T, h) of an LSTM over ``x`` (n, T, i), or the ``last`` one (n, h).

        ``w`` (i, 4, h), ``u`` (h, 4, h), ``b`` (4, h): input, forget, output, candidate.
        """
        ...

    def embedding(self, tokens: Tensor, table: Tensor) -> Tensor:
        """Rows (n, T, d) of ``table`` (v, d) by ``tokens`` (n, T) int32."""
        ...

    def layer_norm(self, x: Tensor, g: Tensor, b: Tensor) -> Tensor:
        """``x`` (..., c) to mean 0 and variance 1 over c, times ``g`` (c,), plus ``b`` (c,)."""
        ...

    def dropout(self, x: Tensor, seed: Tensor, rate: float, stream: int) -> Tensor:
        """``x`` with entries dropped with chance ``rate`` and the others scaled up.

        ``seed`` (1,) int32 draws them, for each ``stream`` (0 to 4095, a layer's) others.
        """
        ...

    def round_to(self, w: Tensor, levels: int) -> Tensor:
        """Weights rounded to ``levels`` steps on either side of zero; the gradient goes straight through."""
        ...

    def soft_cross_entropy(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """Cross-entropy in nats (n, 1) of ``logits`` with the softmax of ``wanted``, both (n, c)."""
        ...

    def tokens(self, indices: Any) -> Tensor:
        """Return an array of indices as an int32 tensor, for ``embedding``."""
        ...
