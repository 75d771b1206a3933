"""TensorFlow's own operations: float64 for references, float32 for inference models."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from shoal_coordinator.authoring.compression_ops import PlainCompression
from shoal_coordinator.authoring.image_ops import PlainImages
from shoal_coordinator.authoring.int8_weights import Int8Weights
from shoal_coordinator.authoring.sequence_ops import PlainSequences
from shoal_coordinator.authoring.token_ops import PlainTokens

Tensor = Any


class PlainOps(PlainImages, PlainCompression, PlainSequences, PlainTokens):
    """Operations whose gradients are TensorFlow's automatic ones; see ``ops.Ops`` for each."""

    products = False

    def __init__(self, dtype: Any = tf.float64) -> None:
        self.dtype = dtype

    def mean_error(self, losses: Tensor, y: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.ones_like(losses) / tf.cast(tf.shape(y)[0], losses.dtype)

    def for_constants(self) -> PlainOps:
        """See ``Ops``."""
        return self

    def constant(self, values: Any) -> Tensor:
        """See ``Ops``."""
        return tf.constant(values, self.dtype)

    def int8_constant(self, weights: Int8Weights, x: Tensor) -> Tensor:  # noqa: ARG002
        """See ``Ops``."""
        return tf.constant(weights.levels.astype(weights.scales.dtype) * weights.scales, self.dtype)

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return a + b

    def subtract(self, a: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return a - b

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return a * b

    def affine(self, x: Tensor, factor: float, shift: float) -> Tensor:
        """See ``Ops``."""
        scaled = x if factor == 1 else x * tf.constant(factor, self.dtype)
        return scaled if shift == 0 else scaled + tf.constant(shift, self.dtype)

    def add_channels(self, x: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return x + b

    def multiply_channels(self, x: Tensor, g: Tensor) -> Tensor:
        """See ``Ops``."""
        return x * g

    def matmul(self, x: Tensor, w: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.matmul(x, w)

    def dense(self, x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.matmul(x, w) + b

    def relu(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.nn.relu(x)

    def relu6(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.nn.relu6(x)

    def tanh(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.tanh(x)

    def sigmoid(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.sigmoid(x)

    def reshape(self, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """See ``Ops``."""
        return tf.reshape(x, (-1, *shape))

    def expand(self, x: Tensor, axis: int) -> Tensor:
        """See ``Ops``."""
        return tf.expand_dims(x, axis)

    def batch_norm(self, x: Tensor, g: Tensor, b: Tensor, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        """See ``Ops``."""
        mean, variance = tf.nn.moments(x, list(range(len(x.shape) - 1)))
        return self.normalise(x, g, b, mean, variance, epsilon), mean, variance

    def normalise(
        self, x: Tensor, g: Tensor, b: Tensor, mean: Tensor, variance: Tensor, epsilon: float
    ) -> Tensor:
        """See ``Ops``."""
        return (x - mean) / tf.sqrt(tf.nn.relu(variance) + tf.constant(epsilon, self.dtype)) * g + b

    def transpose(self, x: Tensor, order: tuple[int, ...]) -> Tensor:
        """See ``Ops``."""
        return tf.transpose(x, order)

    def concat(self, parts: list[Tensor], axis: int) -> Tensor:
        """See ``Ops``."""
        return tf.concat(parts, axis)

    def cut(self, x: Tensor, axis: int, start: int, stop: int) -> Tensor:
        """See ``Ops``."""
        return x[(slice(None),) * axis + (slice(start, stop),)]

    def mean(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """See ``Ops``."""
        return tf.reduce_mean(x, axes)

    def maximum(self, x: Tensor, axes: tuple[int, ...]) -> Tensor:
        """See ``Ops``."""
        return tf.reduce_max(x, axes)

    def log_softmax(self, x: Tensor) -> Tensor:
        """See ``Ops``."""
        return tf.nn.log_softmax(x)

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
        return tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits)[:, None]

    def squared_error(self, values: Tensor, y: Tensor) -> Tensor:
        """See ``Ops``."""
        count = math.prod(values.shape[1:])
        return tf.reduce_mean(tf.reshape((values - y) ** 2, (-1, count)), axis=1, keepdims=True)
