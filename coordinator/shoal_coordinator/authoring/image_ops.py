"""Convolutions and pools, over (n, height, width, channels); sequences are images of height 1.

Their own gradients: a convolution's by its input is a convolution of the error with the turned kernel, by its
weights the product of all patches with the error. A pool's windows lie side by side, so that its gradient is
the error enlarged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

Tensor = Any
Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Where a kernel of ``size`` lies on an image of ``sides``."""

    size: Pair
    stride: Pair
    padding: str
    sides: Pair

    @property
    def counts(self) -> Pair:
        """How many places there are along height and width."""
        return tuple(self._count(axis) for axis in (0, 1))  # type: ignore[return-value]

    @property
    def pads(self) -> tuple[Pair, Pair]:
        """Zeros before and after, along height and width; what a kernel never reaches counts as negative."""
        return self._pads(0), self._pads(1)

    def _count(self, axis: int) -> int:
        side, size, stride = self.sides[axis], self.size[axis], self.stride[axis]
        return -(-side // stride) if self.padding == "same" else (side - size) // stride + 1

    def _pads(self, axis: int) -> Pair:
        missing = (self._count(axis) - 1) * self.stride[axis] + self.size[axis] - self.sides[axis]
        before = missing // 2 if self.padding == "same" and missing > 0 else 0
        return before, missing - before


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
            _padded(x, _window(x, w, stride, padding)), w[..., None], (1,) * 4, "VALID"
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
    """Gradients made of LiteRT's builtin operators."""

    def conv2d(self, x: Tensor, w: Tensor, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def conv2d(x: Tensor, w: Tensor) -> Any:
            window = _window(x, w, stride, padding)

            def gradient(dy: Tensor) -> Any:
                # One axis is turned: an old interpreter gets two at once silently wrong.
                kernel = tf.reverse(tf.reshape(w, (-1, *w.shape[2:])), [0])
                kernel = tf.reshape(tf.transpose(kernel, (0, 2, 1)), (*w.shape[:2], w.shape[3], w.shape[2]))
                dx = tf.nn.conv2d(_spread(dy, window), kernel, 1, "VALID")
                inputs = math.prod(w.shape[:3])
                patches = tf.reshape(_patches(x, window), (-1, inputs))
                dw = tf.matmul(patches, tf.reshape(dy, (-1, w.shape[3])), transpose_a=True)
                return dx, tf.reshape(dw, w.shape)

            return tf.nn.conv2d(x, w, stride, padding.upper()), gradient

        return conv2d(x, w)

    def depthwise(self, x: Tensor, w: Tensor, stride: Pair, padding: str) -> Tensor:
        """See ``Ops``."""

        @tf.custom_gradient
        def depthwise(x: Tensor, w: Tensor) -> Any:
            window = _window(x, w, stride, padding)

            def gradient(dy: Tensor) -> Any:
                kernel = tf.reshape(tf.reverse(tf.reshape(w, (-1, w.shape[2])), [0]), (*w.shape, 1))
                dx = tf.nn.depthwise_conv2d(_spread(dy, window), kernel, (1,) * 4, "VALID")
                rows = [
                    tf.reduce_sum(tf.reshape(one * dy, (-1, w.shape[2])), axis=0, keepdims=True)
                    for one in _shifted(x, window)
                ]
                return dx, tf.reshape(tf.concat(rows, axis=0), w.shape)

            if stride[0] == stride[1]:
                y = tf.nn.depthwise_conv2d(x, w[..., None], (1, *stride, 1), padding.upper())
            else:
                whole = tf.nn.depthwise_conv2d(_padded(x, window), w[..., None], (1,) * 4, "VALID")
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
                kept = x[:, : whole[0], : whole[1]]
                equal = tf.cast(tf.equal(kept, _enlarged(y, size)), tf.float32)
                # Equal ones share the gradient.
                many = tf.nn.avg_pool2d(equal, size, size, "VALID") * float(math.prod(size))
                return _filled(equal * _enlarged(dy / many, size), x)

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


def _window(x: Tensor, w: Tensor, stride: Pair, padding: str) -> Window:
    return Window(tuple(w.shape[:2]), stride, padding, tuple(x.shape[1:3]))


def _padded(x: Tensor, window: Window) -> Tensor:
    """Return ``x`` with the zeros that the window needs around it."""
    pads = [[0, 0], *([max(before, 0), max(after, 0)] for before, after in window.pads), [0, 0]]
    return tf.pad(x, pads) if any(map(any, pads)) else x


def _shifted(x: Tensor, window: Window) -> list[Tensor]:
    """Return what each entry of the kernel meets, row by row, (n, *counts, c) each."""
    padded, (high, wide) = _padded(x, window), window.counts
    down, across = window.stride
    return [
        padded[:, i : i + (high - 1) * down + 1 : down, j : j + (wide - 1) * across + 1 : across]
        for i in range(window.size[0])
        for j in range(window.size[1])
    ]


def _patches(x: Tensor, window: Window) -> Tensor:
    """Return what the kernel meets at each place, (n, *counts, entries of the kernel)."""
    shifted = _shifted(x, window)
    return tf.concat(shifted, axis=-1) if len(shifted) > 1 else shifted[0]


def _spread(dy: Tensor, window: Window) -> Tensor:
    """Return the error with zeros for skipped places and around, as the turned kernel runs over it."""
    down, across = window.stride
    high, wide, channels = dy.shape[1:]
    if down > 1:
        dy = tf.pad(tf.reshape(dy, (-1, high, 1, wide * channels)), [[0, 0], [0, 0], [0, down - 1], [0, 0]])
        high *= down
    if across > 1:
        dy = tf.pad(tf.reshape(dy, (-1, wide, 1, channels)), [[0, 0], [0, 0], [0, across - 1], [0, 0]])
        wide *= across
    dy = tf.reshape(dy, (-1, high, wide, channels))
    # Each last place brought its own zeros.
    dy = dy[:, : high - down + 1, : wide - across + 1]
    pads = [
        [size - 1 - before, size - 1 - after]
        for size, (before, after) in zip(window.size, window.pads, strict=True)
    ]
    return tf.pad(dy, [[0, 0], *pads, [0, 0]]) if any(map(any, pads)) else dy


def _conv_squares(x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
    window = Window(size, stride, padding, tuple(x.shape[1:3]))
    places = math.prod(window.counts)
    patches = tf.reshape(_patches(x, window), (-1, places, math.prod(size) * x.shape[3]))
    gradient = tf.matmul(patches, tf.reshape(dy, (-1, places, dy.shape[3])), transpose_a=True)
    flat = tf.reshape(gradient, (-1, math.prod(gradient.shape[1:])))
    return tf.reduce_sum(flat * flat, axis=1, keepdims=True)


def _depthwise_squares(x: Tensor, dy: Tensor, size: Pair, stride: Pair, padding: str) -> Tensor:
    window = Window(size, stride, padding, tuple(x.shape[1:3]))
    entries = [tf.reduce_sum(one * dy, axis=(1, 2)) for one in _shifted(x, window)]
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


def _filled(kept: Tensor, x: Tensor) -> Tensor:
    """Return ``kept`` with zeros where ``x`` goes on and no window was."""
    down, across = x.shape[1] - kept.shape[1], x.shape[2] - kept.shape[2]
    return tf.pad(kept, [[0, 0], [0, down], [0, across], [0, 0]]) if down or across else kept
