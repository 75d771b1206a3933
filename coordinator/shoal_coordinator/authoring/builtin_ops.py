"""Operations in float32 whose gradients are made of LiteRT's builtin operators.

TensorFlow's own gradients do not all convert (ReluGrad, MaxPoolGrad, Conv2DBackpropFilter, StridedSliceGrad,
and BroadcastGradientArgs wherever the batch is of unknown length). So each operation brings its own.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import tensorflow as tf

from shoal_coordinator.authoring import dense_ops
from shoal_coordinator.authoring.compression_ops import BuiltinCompression
from shoal_coordinator.authoring.image_ops import BuiltinImages
from shoal_coordinator.authoring.int8_weights import Int8Weights
from shoal_coordinator.authoring.rows import Rows
from shoal_coordinator.authoring.sequence_ops import BuiltinSequences
from shoal_coordinator.authoring.steps import positive
from shoal_coordinator.authoring.token_ops import BuiltinTokens

Tensor = Any


class BuiltinOps(BuiltinImages, BuiltinCompression, BuiltinSequences, BuiltinTokens):
    """Operations that train inside the interpreter; see ``ops.Ops`` for each."""

    dtype = tf.float32

    def __init__(self, *, products: bool = False) -> None:
        self.products = products

    def mean_error(self, losses: Tensor, y: Tensor) -> Tensor:
        """See ``Ops``."""
        del losses
        return 1.0 / tf.cast(tf.reshape(tf.shape(y)[:1], (1, 1)), tf.float32)

    def for_constants(self) -> BuiltinOps:
        """Return those without products: fast kernels convolve with constants."""
        return BuiltinOps()

    def constant(self, values: Any) -> Tensor:
        """See ``Ops``."""
        return tf.constant(values, tf.float32)

    def int8_constant(self, weights: Int8Weights, x: Tensor) -> Tensor:
        """See ``Ops``."""
        channels = weights.shape[-1]
        # The converter would turn the levels to float32, four times as long, were their shape known to it.
        rows = tf.concat([tf.shape(x)[:1] * 0 - 1, [channels]], axis=0)
        levels = tf.reshape(tf.constant(weights.levels), rows)
        return tf.reshape(tf.cast(levels, tf.float32) * tf.constant(weights.scales), weights.shape)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return _add(a, b)

    def subtract(self, a: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return _subtract(a, b)

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return _multiply(a, b)

    def affine(self, x: Tensor, factor: float, shift: float) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def affine(x: Tensor) -> Any:
            scaled = x if factor == 1 else x * factor
            return scaled if shift == 0 else scaled + shift, lambda dy: dy * factor

        return affine(x)

    def add_channels(self, x: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return _add_channels(x, b)

    def multiply_channels(self, x: Tensor, g: Tensor) -> Tensor:
        """See ``Ops``."""
        return _multiply_channels(x, g)

    def matmul(self, x: Tensor, w: Tensor) -> Tensor:
        """See ``Ops``."""
        return dense_ops.matmul(x, w)

    def dense(self, x: Tensor, w: Tensor | Rows, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return dense_ops.dense_by_rows(x, w, b) if isinstance(w, Rows) else dense_ops.dense(x, w, b)

    def relu(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return _relu(x)

    def relu6(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return _relu6(x)

    def tanh(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return _tanh(x)

    def sigmoid(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return _sigmoid(x)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See ``Ops``."""
        back = (-1, *x.shape[1:])

        @tf.custom_gradient
        def reshape(x: Tensor) -> Any:
            return tf.reshape(x, (-1, *shape)), lambda dy: tf.reshape(dy, back)

        return reshape(x)

    def expand(self, x: Tensor, axis: int) -> Tensor:
        """See ``Ops``."""
        back = (-1, *x.shape[1:])

        # A reshape, which the fast kernels have.
        @tf.custom_gradient
        def expand(x: Tensor) -> Any:
            return tf.reshape(x, (*back[:axis], 1, *back[axis:])), lambda dy: tf.reshape(dy, back)

        return expand(x)

    def batch_norm(self, x: Tensor, g: Tensor, b: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Ops``."""
        places = tuple(range(len(x.shape) - 1))
        mean = tf.reduce_mean(x, axis=places)
        centred = x - mean
        variance = tf.reduce_mean(centred * centred, axis=places)
        inverse = tf.math.rsqrt(variance + epsilon)

        @tf.custom_gradient
        def batch_norm(x: Tensor, g: Tensor, b: Tensor) -> Any:
            # Channels' factors are multiplied with each other first: they are far fewer than entries.
            away, factor = x - mean, g * inverse

            def gradient(dy: Tensor) -> Any:
                along = tf.reduce_mean(dy * away, axis=places) * (inverse * inverse)
                level = tf.reduce_mean(dy, axis=places)
                dx = (dy - level - away * along) * factor
                of_g = tf.reduce_sum(dy * away, axis=places) * inverse
                return dx, of_g, tf.reduce_sum(dy, axis=places)

            return away * factor + b, gradient

        return batch_norm(x, g, b), tf.stop_gradient(mean), tf.stop_gradient(variance)

    def normalise(
        self, x: Tensor, g: Tensor, b: Tensor, mean: Tensor, variance: Tensor, epsilon: float
    ) -> Tensor:
        """See ``Ops``."""
        # A fleet's mean of rounded variances can fall a little under zero.
        inverse = tf.math.rsqrt(tf.nn.relu(variance) + epsilon)

        @tf.custom_gradient
        def normalise(x: Tensor, g: Tensor, b: Tensor) -> Any:
            factor = g * inverse

            def gradient(dy: Tensor) -> Any:
                of_g = _over_all_but_channels(dy * (x - mean)) * inverse
                return dy * factor, of_g, _over_all_but_channels(dy)

            return x * factor + (b - mean * factor), gradient

        return normalise(x, g, b)

    def transpose(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        """See ``Ops``."""
        back = tuple(order.index(axis) for axis in range(len(order)))

        @tf.custom_gradient
        def transpose(x: Tensor) -> Any:
            return tf.transpose(x, order), lambda dy: tf.transpose(dy, back)

        return transpose(x)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        """See ``Ops``."""
        ends = [0]
        for part in parts:
            ends.append(ends[-1] + part.shape[axis])

        @tf.custom_gradient
        def concat(*parts: Tensor) -> Any:
            def gradient(dy: Tensor) -> list[Tensor]:
                return [_cut(dy, axis, start, stop) for start, stop in pairwise(ends)]

            return tf.concat(parts, axis), gradient

        return concat(*parts)

    def cut(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """See ``Ops``."""
        before, after = start, x.shape[axis] - stop

        @tf.custom_gradient
        def cut(x: Tensor) -> Any:
            def gradient(dy: Tensor) -> Tensor:
                pads = [[0, 0]] * len(x.shape)
                pads[axis] = [before, after]
                return tf.pad(dy, pads)

            return _cut(x, axis, start, stop), gradient

        return cut(x)

    def mean(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """See ``Ops``."""
        kept = _kept(x, axes)
        share = 1.0 / math.prod(x.shape[axis] for axis in axes)
        spread = [side if axis in axes else 1 for axis, side in enumerate(x.shape)]

        @tf.custom_gradient
        def mean(x: Tensor) -> Any:
            def gradient(dy: Tensor) -> Tensor:
                # Laid out by a product, which the fast kernels have.
                return tf.reshape(dy * share, kept) * tf.ones(spread, tf.float32)

            return tf.reduce_mean(x, axes), gradient

        return mean(x)

    def maximum(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """See ``Ops``."""
        kept = _kept(x, axes)

        @tf.custom_gradient
        def maximum(x: Tensor) -> Any:
            top = tf.reduce_max(x, axes)

            def gradient(dy: Tensor) -> Tensor:
                equal = 1.0 - positive(tf.reshape(top, kept) - x)
                return equal * tf.reshape(dy / tf.reduce_sum(equal, axes), kept)

            return top, gradient

        return maximum(x)

    def log_softmax(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return _log_softmax(x)

    def row_squares(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        flat = tf.reshape(x, (-1, math.prod(x.shape[1:])))
        return tf.reduce_sum(flat * flat, axis=1, keepdims=True)

    def root(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.sqrt(x)

    def stop(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.stop_gradient(x)

    def cross_entropy(self, logits: Tensor, y: Tensor) -> Tensor:
        """See ``Ops``."""
        return _cross_entropy(logits, tf.one_hot(y, logits.shape[1]))

    def squared_error(self, values: Tensor, y: Tensor) -> Tensor:
        """See ``Ops``."""
        count = math.prod(values.shape[1:])
        shape = (-1, *values.shape[1:])

        @tf.custom_gradient
        def squared_error(values: Tensor) -> Any:
            off = tf.reshape(values - y, (-1, count))

            def gradient(dy: Tensor) -> Tensor:
                return tf.reshape(off * dy * (2.0 / count), shape)

            return tf.reduce_mean(off * off, axis=1, keepdims=True), gradient

        return squared_error(values)


def _cut(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _kept(x: Tensor, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of ``x`` with a side of 1 for each of ``axes`` and the batch open."""
    return (-1, *(1 if axis in axes else side for axis, side in enumerate(x.shape) if axis))


@tf.custom_gradient
def _add(a: Tensor, b: Tensor) -> Any:
    return a + b, lambda dy: (dy, dy)


@tf.custom_gradient
def _subtract(a: Tensor, b: Tensor) -> Any:
    return a - b, lambda dy: (dy, -dy)


@tf.custom_gradient
def _multiply(a: Tensor, b: Tensor) -> Any:
    return a * b, lambda dy: (dy * b, dy * a)


def _over_all_but_channels(x: Tensor) -> Tensor:
    # To the interpreter another shape is a copy.
    return tf.reduce_sum(x, axis=tuple(range(len(x.shape) - 1)))


@tf.custom_gradient
def _add_channels(x: Tensor, b: Tensor) -> Any:
    return x + b, lambda dy: (dy, _over_all_but_channels(dy))


@tf.custom_gradient
def _multiply_channels(x: Tensor, g: Tensor) -> Any:
    return x * g, lambda dy: (dy * g, _over_all_but_channels(dy * x))


@tf.custom_gradient
def _relu(x: Tensor) -> Any:
    y = tf.nn.relu(x)
    return y, lambda dy: dy * positive(y)


@tf.custom_gradient
def _relu6(x: Tensor) -> Any:
    y = tf.nn.relu6(x)
    return y, lambda dy: dy * (positive(y) * positive(6.0 - y))


@tf.custom_gradient
def _tanh(x: Tensor) -> Any:
    y = tf.tanh(x)
    return y, lambda dy: dy * (1.0 - y * y)


@tf.custom_gradient
def _sigmoid(x: Tensor) -> Any:
    y = tf.sigmoid(x)
    return y, lambda dy: dy * (y * (1.0 - y))


@tf.custom_gradient
def _log_softmax(x: Tensor) -> Any:
    def gradient(dy: Tensor) -> Tensor:
        return dy - tf.nn.softmax(x) * tf.reduce_sum(dy, axis=1, keepdims=True)

    return tf.nn.log_softmax(x), gradient


@tf.custom_gradient
def _cross_entropy(logits: Tensor, wanted: Tensor) -> Any:
    def gradient(dy: Tensor) -> Any:
        return dy * (tf.nn.softmax(logits) - wanted), None

    return -tf.reduce_sum(wanted * tf.nn.log_softmax(logits), axis=1, keepdims=True), gradient
