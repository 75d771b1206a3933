"""Products with weights, and their gradients of LiteRT's builtin operators."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from shoal_coordinator.authoring.joining import joined
from shoal_coordinator.authoring.rows import Rows

Tensor = Any


def _error_before(dy: Tensor, w: Tensor) -> Tensor:
    """Return ``dy`` (n, units) times the transposed ``w`` (inputs, units).

    As the turned product, transposed: what stands right is packed anew at each step, and ``w`` is large.
    """
    return tf.transpose(tf.raw_ops.BatchMatMulV2(x=w, y=dy, adj_y=True))


@tf.custom_gradient
def matmul(x: Tensor, w: Tensor) -> Any:
    """Return ``x`` (n, i) times ``w`` (i, o)."""

    def gradient(dy: Tensor) -> Any:
        return _error_before(dy, w), tf.matmul(x, dy, transpose_a=True)

    return tf.matmul(x, w), gradient


@tf.custom_gradient
def dense(x: Tensor, w: Tensor, b: Tensor) -> Any:
    """Return ``x`` (n, i) times ``w`` (i, o) plus ``b`` (o,)."""

    def gradient(dy: Tensor) -> Any:
        return _error_before(dy, w), tf.matmul(x, dy, transpose_a=True), tf.reduce_sum(dy, axis=0)

    return tf.matmul(x, w) + b, gradient


def dense_by_rows(x: Tensor, w: Rows, b: Tensor) -> Tensor:
    """Return ``x`` (n, i) times ``w`` (i, o) plus ``b`` (o,), block by block."""

    @tf.custom_gradient
    def added(x: Tensor, b: Tensor, *blocks: Tensor) -> Any:
        parts = w.along(x)

        def gradient(dy: Tensor) -> Any:
            before = joined([_error_before(dy, block) for block in blocks], axis=1)
            return before, tf.reduce_sum(dy, axis=0), *(tf.matmul(one, dy, transpose_a=True) for one in parts)

        y = b
        for part, block in zip(parts, blocks, strict=True):
            y = tf.matmul(part, block) + y
        return y, gradient

    return added(x, b, *w.blocks)
