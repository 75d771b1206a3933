"""Convolutions and pools, over (n, height, width, channels); sequences are images of height 1.

Their own gradients: a convolution's by its input is a convolution of the error with the turned kernel, by its
weights the product of all patches with the error. A pool's windows lie side by side, so that its gradient is
the error enlarged.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from shoal_coordinator.authoring import conv_products, depthwise_ops
from shoal_coordinator.authoring.steps import positive
from shoal_coordinator.authoring.windows import Window, padded, patches, shifted, spread

Tensor = Any
Pair = tuple[int, int]


class PlainImages:
    """TensorFlow's own differentiation."""

    def conv2d(self, x: Tensor, w: Tensor, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""
        return tf.nn.conv2d(x, w, stride, padding.upper())

    def depthwise(self, x: Tensor, w: Tensor, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""
        steps = (1, *stride, 1)
        if stride[0] == stride[1]:
            return tf.nn.depthwise_conv2d(x, w[..., None], steps, padding.upper())
        whole = tf.nn.depthwise_conv2d(
            padded(x, _window(x, w, stride, padding)), w[..., None], (1,) * 4, "VALID"
        )
        return whole[:, :: stride[0], :: stride[1]]

    def conv_squares(self, x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""
        return _conv_squares(x, dy, size, stride, padding)

    def depthwise_squares(self, x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""
        return _depthwise_squares(x, dy, size, stride, padding)

    def max_pool(self, x: Tensor, size: Pair) -> Tensor:
        """See ``Ops``."""
        return tf.reduce_max(_windows(x, size), (2, 4))

    def average_pool(self, x: Tensor, size: Pair) -> Tensor:
        """See ``Ops``."""
        return tf.reduce_mean(_windows(x, size), (2, 4))


class BuiltinImages:
    """Gradients made of LiteRT's builtin operators.

    With ``products`` a convolution is one of matrices: faster where weights change, and nothing that an
    artefact can be made of.
    """

    products: bool

    def conv2d(self, x: Tensor, w: Tensor, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def conv2d(x: Tensor, w: Tensor) -> Any:
            window = _window(x, w, stride, padding)

            def gradient(dy: Tensor) -> Any:
                return conv_products.of_input(dy, w, window), conv_products.of_weights(x, dy, window)

            if self.products:
                return conv_products.convolve(x, w, window), gradient
            return tf.nn.conv2d(x, w, stride, padding.upper()), gradient

        return conv2d(x, w)

    def depthwise(self, x: Tensor, w: Tensor, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def depthwise(x: Tensor, w: Tensor) -> Any:
            window = _window(x, w, stride, padding)
            if self.products and depthwise_ops.fits(window):
                return depthwise_ops.convolve(x, w, window)

            def gradient(dy: Tensor) -> Any:
                kernel = tf.reshape(tf.reverse(tf.reshape(w, (-1, w.shape[2])), [0]), (*w.shape, 1))
                dx = tf.nn.depthwise_conv2d(spread(dy, window), kernel, (1,) * 4, "VALID")
                return dx, _depthwise_weights(x, dy, window)

            if stride[0] == stride[1]:
                y = tf.nn.depthwise_conv2d(x, w[..., None], (1, *stride, 1), padding.upper())
            else:
                whole = tf.nn.depthwise_conv2d(padded(x, window), w[..., None], (1,) * 4, "VALID")
                y = whole[:, :: stride[0], :: stride[1]]
            return y, gradient

        return depthwise(x, w)

    def conv_squares(self, x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""
        return _conv_squares(x, dy, size, stride, padding)

    def depthwise_squares(self, x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""
        return _depthwise_squares(x, dy, size, stride, padding)

    def max_pool(self, x: Tensor, size: Pair) -> Tensor:
        """See ``Ops``."""
        whole = _whole(x, size)

        @tf.custom_gradient
        def max_pool(x: Tensor) -> Any:
            y = tf.nn.max_pool2d(x, size, size, "VALID")

            def gradient(dy: Tensor) -> Tensor:
                kept = x if whole == tuple(x.shape[1:3]) else x[:, : whole[0], : whole[1]]
                off = _beside(y, size) - _side_by_side(kept, size)
                equal = 1.0 - positive(off)
                # Equal ones share the gradient.
                sides = (-1, *kept.shape[1:])
                many = tf.nn.avg_pool2d(tf.reshape(equal, sides), size, size, "VALID")
                share = dy / (many * float(math.prod(size)))
                return _filled(tf.reshape(equal * _beside(share, size), sides), x)

            return y, gradient

        return max_pool(x)

    def average_pool(self, x: Tensor, size: Pair) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def average_pool(x: Tensor) -> Any:
            def gradient(dy: Tensor) -> Tensor:
                return _filled(_enlarged(dy * (1 / math.prod(size)), size), x)

            return tf.nn.avg_pool2d(x, size, size, "VALID"), gradient

        return average_pool(x)


def _depthwise_weights(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    """Return the gradient by a depthwise kernel, (height, width, c)."""
    channels = x.shape[3]
    if window.stride == (1, 1):
        # The error is moved and not the input: what is made of it lives in the backward pass only.
        about = Window(window.size, (1, 1), "valid", tuple(spread(dy, window).shape[1:3]))
        products = [x * one for one in reversed(shifted(spread(dy, window), about))]
    else:
        products = [one * dy for one in shifted(x, window)]
    rows = [tf.reduce_sum(one, axis=(0, 1, 2)) for one in products]
    return tf.reshape(tf.concat(rows, axis=0), (*window.size, channels))


def _window(x: Tensor, w: Tensor, stride: Pair, padding: str) -> Window:
    return Window(tuple(w.shape[:2]), stride, padding, tuple(x.shape[1:3]))


def _conv_squares(x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
    window = Window(size, stride, padding, tuple(x.shape[1:3]))
    places = math.prod(window.counts)
    met = tf.reshape(patches(x, window), (-1, places, math.prod(size) * x.shape[3]))
    gradient = tf.matmul(met, tf.reshape(dy, (-1, places, dy.shape[3])), transpose_a=True)
    flat = tf.reshape(gradient, (-1, math.prod(gradient.shape[1:])))
    return tf.reduce_sum(flat * flat, axis=1, keepdims=True)


def _depthwise_squares(x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
    window = Window(size, stride, padding, tuple(x.shape[1:3]))
    entries = [tf.reduce_sum(one * dy, axis=(1, 2)) for one in shifted(x, window)]
    rows = tf.concat(entries, axis=1)
    return tf.reduce_sum(rows * rows, axis=1, keepdims=True)


def _whole(x: Tensor, size: Pair) -> Pair:
    """Return the sides that whole windows cover."""
    return x.shape[1] // size[0] * size[0], x.shape[2] // size[1] * size[1]


def _windows(x: Tensor, size: Pair) -> Tensor:
    """Return ``x`` as (n, places down, size, places across, size, c), without what no window covers."""
    high, wide = _whole(x, size)
    shape = (-1, high // size[0], size[0], wide // size[1], size[1], x.shape[3])
    return tf.reshape(x[:, :high, :wide], shape)


def _enlarged(y: Tensor, size: Pair) -> Tensor:
    """Return each entry ``size`` times beside itself."""
    sides = (y.shape[1] * size[0], y.shape[2] * size[1])
    return tf.compat.v1.image.resize_nearest_neighbor(y, sides)


def _beside(y: Tensor, size: Pair) -> Tensor:
    """Return ``y`` (n, high, wide, c) as (n, high, 1, wide, size x c), to go with each row of a window."""
    row = tf.concat([y] * size[1], axis=-1) if size[1] > 1 else y
    return tf.reshape(row, (-1, y.shape[1], 1, y.shape[2], size[1] * y.shape[3]))


def _side_by_side(x: Tensor, size: Pair) -> Tensor:
    """Return ``x`` as (n, places down, size, places across, size x c)."""
    high, wide = x.shape[1] // size[0], x.shape[2] // size[1]
    return tf.reshape(x, (-1, high, size[0], wide, size[1] * x.shape[3]))


def _filled(kept: Tensor, x: Tensor) -> Tensor:
    """Return ``kept`` with zeros where ``x`` goes on and no window was."""
    down, across = x.shape[1] - kept.shape[1], x.shape[2] - kept.shape[2]
    return tf.pad(kept, [[0, 0], [0, down], [0, across], [0, 0]]) if down or across else kept
