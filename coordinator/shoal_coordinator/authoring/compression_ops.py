"""Operations of compression: weights rounded in the forward pass, and the loss beside a teacher."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any
_LEAST = 1e-12


class PlainCompression:
    """TensorFlow's own differentiation."""

    dtype: Any

    def round_to(self, w: Tensor, levels: int) -> Tensor:
        """See ``Ops``."""
        # In float32, as in the interpreter: where a weight lies between two levels both choose the same.
        rounded = tf.cast(_rounded(tf.cast(w, tf.float32), levels), self.dtype)
        return w + tf.stop_gradient(rounded - w)

    def soft_cross_entropy(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """See ``Ops``."""
        return -tf.reduce_sum(
            tf.stop_gradient(tf.nn.softmax(wanted)) * tf.nn.log_softmax(logits), axis=1, keepdims=True
        )


class BuiltinCompression:
    """Gradients made of LiteRT's builtin operators."""

    def round_to(self, w: Tensor, levels: int) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def round_to(w: Tensor) -> Any:
            return _rounded(w, levels), lambda dy: dy

        return round_to(w)

    def soft_cross_entropy(self, logits: Tensor, wanted: Tensor) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def soft_cross_entropy(logits: Tensor) -> Any:
            shares = tf.nn.softmax(wanted)

            def gradient(dy: Tensor) -> Tensor:
                return dy * (tf.nn.softmax(logits) - shares)

            return -tf.reduce_sum(shares * tf.nn.log_softmax(logits), axis=1, keepdims=True), gradient

        return soft_cross_entropy(logits)


def _rounded(w: Tensor, levels: int) -> Tensor:
    """Round to ``levels`` steps on either side of zero; one scale for two axes, one a last entry for more."""
    axes = list(range(len(w.shape) - 1)) if len(w.shape) > 2 else list(range(len(w.shape)))
    scale = tf.maximum(tf.reduce_max(tf.abs(w), axis=axes, keepdims=True), _LEAST) / float(levels)
    return tf.round(w / scale) * scale
