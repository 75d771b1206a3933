"""Embedding, layer norm and dropout: operations that are no chain of the others.

A mask of dropout is a hash of (seed, layer, entry): the same wherever it is computed, so that a device's
gradients can be compared with the author's. It is a Feistel network over two halves of 12 bits whose round is
the middle of a square. Every product stays under 2^24, so float32 holds it exactly and the interpreter's fast
float kernels do the work; float64 gives the same mask.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any
EPSILON = 1e-5
"""Added to the variance by layer norm."""
_WORD = 4096
_ROUNDS = 6


class PlainTokens:
    """TensorFlow's own differentiation."""

    dtype: Any

    def tokens(self, indices: Any) -> Tensor:
        """See ``Ops``."""
        return tf.constant(indices, tf.int32)

    def embedding(self, tokens: Tensor, table: Tensor) -> Tensor:
        """See ``Ops``."""
        # Of what was reshaped the gradient is a tensor, and not a list of rows.
        return tf.gather(tf.reshape(table, table.shape), tokens)

    def layer_norm(self, x: Tensor, g: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        mean = tf.reduce_mean(x, axis=-1, keepdims=True)
        variance = tf.reduce_mean((x - mean) ** 2, axis=-1, keepdims=True)
        return (x - mean) / tf.sqrt(variance + EPSILON) * g + b

    def dropout(self, x: Tensor, seed: Tensor, rate: float, stream: int) -> Tensor:
        """See ``Ops``."""
        return x * keep_mask(x, seed, rate, stream, self.dtype)


class BuiltinTokens:
    """Gradients made of LiteRT's builtin operators."""

    dtype: Any

    def tokens(self, indices: Any) -> Tensor:
        """See ``Ops``."""
        return tf.constant(indices, tf.int32)

    def embedding(self, tokens: Tensor, table: Tensor) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def embedding(table: Tensor) -> Any:
            def gradient(dy: Tensor) -> Tensor:
                # SCATTER_ND adds up what goes to one row.
                places = tf.reshape(tokens, (-1, 1))
                return tf.scatter_nd(places, tf.reshape(dy, (-1, table.shape[1])), table.shape)

            return tf.gather(table, tokens), gradient

        return embedding(table)

    def layer_norm(self, x: Tensor, g: Tensor, b: Tensor) -> Tensor:
        """See ``Ops``."""
        return _layer_norm(x, g, b)

    def dropout(self, x: Tensor, seed: Tensor, rate: float, stream: int) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def dropout(x: Tensor) -> Any:
            mask = keep_mask(x, seed, rate, stream, tf.float32)
            return x * mask, lambda dy: dy * mask

        return dropout(x)


@tf.custom_gradient
def _layer_norm(x: Tensor, g: Tensor, b: Tensor) -> Any:
    width = x.shape[-1]
    centred = x - tf.reduce_mean(x, axis=-1, keepdims=True)
    inverse = tf.math.rsqrt(tf.reduce_mean(centred * centred, axis=-1, keepdims=True) + EPSILON)
    unit = centred * inverse

    def gradient(dy: Tensor) -> Any:
        scaled = dy * g
        along = tf.reduce_mean(scaled * unit, axis=-1, keepdims=True)
        dx = inverse * (scaled - tf.reduce_mean(scaled, axis=-1, keepdims=True) - unit * along)
        flat = (-1, width)
        return dx, tf.reduce_sum(tf.reshape(dy * unit, flat), 0), tf.reduce_sum(tf.reshape(dy, flat), 0)

    return unit * g + b, gradient


def keep_mask(x: Tensor, seed: Tensor, rate: float, stream: int, dtype: Any) -> Tensor:
    """Return 1 / (1 - rate) where an entry of ``x`` (n, ...) is kept and 0 where it is dropped.

    ``seed`` (1,) int32 is the step's, ``stream`` the layer's number.
    """
    count = tf.cast(tf.range(tf.size(x)), dtype)
    words = [
        tf.cast(word, dtype)
        for word in (
            tf.math.floormod(seed, _WORD),
            tf.math.floormod(tf.math.floordiv(seed, _WORD), _WORD),
            tf.math.floormod(tf.math.floordiv(seed, _WORD * _WORD), _WORD),
        )
    ]
    left, right = _word(count), tf.floor(count * (1 / _WORD))
    for turn in range(_ROUNDS):
        key = _word(words[turn % 3] + float((stream * 1009 + turn * 2741 + 977) % _WORD))
        mixed = _word(right + key)
        left, right = right, _word(left + tf.floor(mixed * mixed * (1 / 64)) + key)
    kept = tf.cast(right >= float(round(rate * _WORD)), dtype)
    return tf.reshape(kept * (1 / (1 - rate)), tf.shape(x))


def _word(x: Tensor) -> Tensor:
    """Return ``x`` modulo 4096; exact for integers under 2^24."""
    return x - tf.floor(x * (1 / _WORD)) * float(_WORD)
