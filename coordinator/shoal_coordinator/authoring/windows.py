"""Where a kernel lies on an image, and what it meets there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from shoal_coordinator.authoring.joining import joined

Tensor = Any
Pair = tuple[int, int]

# Of so few entries a product with ones and zeros costs less than laying each out by itself.
_FEW_ENTRIES = 32


@dataclass(frozen=True)
class Window:
    """Where a kernel of ``size`` lies on an image of ``sides``."""

    size: Pair
    stride: Pair
    padding: str
    sides: Pair
    around: tuple[Pair, Pair] | None = None
    """Zeros before and after each axis, where ``padding`` does not say them."""
    turned: bool = False
    """Whether the kernel's entries are met in reverse."""

    @property
    def counts(self) -> Pair:
        """How many places there are along height and width."""
        return tuple(self._count(axis) for axis in (0, 1))  # type: ignore[return-value]

    @property
    def pads(self) -> tuple[Pair, Pair]:
        """Zeros before and after, along height and width; what a kernel never reaches counts as negative."""
        return self.around or (self._pads(0), self._pads(1))

    def _count(self, axis: int) -> int:
        side, size, stride = self.sides[axis], self.size[axis], self.stride[axis]
        if self.around is not None:
            return (side + sum(self.around[axis]) - size) // stride + 1
        return -(-side // stride) if self.padding == "same" else (side - size) // stride + 1

    def _pads(self, axis: int) -> Pair:
        missing = (self._count(axis) - 1) * self.stride[axis] + self.size[axis] - self.sides[axis]
        before = missing // 2 if self.padding == "same" and missing > 0 else 0
        return before, missing - before


def padded(x: Tensor, window: Window) -> Tensor:
    """Return ``x`` with the zeros that the window needs around it."""
    pads = [[0, 0], *([max(before, 0), max(after, 0)] for before, after in window.pads), [0, 0]]
    return tf.pad(x, pads) if any(map(any, pads)) else x


def shifted(x: Tensor, window: Window) -> list[Tensor]:
    """Return what each entry of the kernel meets, row by row, (n, *counts, c) each."""
    across = [_met(column, 1, window) for column in _met(x, 2, window)]
    return [column[row] for row in range(window.size[0]) for column in across]


def met_across(x: Tensor, window: Window) -> Tensor:
    """Return what a row of the kernel meets on each row of ``x``, (n, h, places, entries of a row)."""
    return _joined(x, 2, window)


def patches(x: Tensor, window: Window) -> Tensor:
    """Return what the kernel meets at each place, (n, *counts, entries of the kernel)."""
    if window.size == window.stride == (1, 1) and window.counts == window.sides:
        return x
    entries = math.prod(window.size) * x.shape[3]
    if entries <= _FEW_ENTRIES and window.around is None:
        each = np.eye(entries, dtype=x.dtype.as_numpy_dtype)
        kernel = tf.constant(each.reshape(*window.size, x.shape[3], entries))
        return tf.nn.conv2d(x, kernel, window.stride, window.padding.upper())
    # Row by row: of an image of few channels one entry alone is too little to copy at a time.
    return _joined(met_across(x, window), 1, window)


def _joined(x: Tensor, axis: int, window: Window) -> Tensor:
    """Return what a side of the kernel meets along ``axis``, joined as channels."""
    return joined(_met(x, axis, window), axis=-1)


def _met(x: Tensor, axis: int, window: Window) -> list[Tensor]:
    """Return what each entry of a side of the kernel meets along ``axis``, at all its places."""
    size, step, count = (one[axis - 1] for one in (window.size, window.stride, window.counts))
    before, after = (max(one, 0) for one in window.pads[axis - 1])
    # Whole steps, and as many as the last entry's last place needs.
    steps = (size - 1) // step + count
    after += max(0, steps * step - before - after - x.shape[axis])
    if before or after:
        pads = [[0, 0]] * 4
        pads[axis] = [before, after]
        x = tf.pad(x, pads)
    front = (slice(None),) * axis
    if step > 1:
        # Steps as an axis of their own: fast kernels cut what lies together.
        x = x[(*front, slice(0, steps * step))]
        high, wide, channels = x.shape[1:]
        sides = (high, wide // step, step * channels) if axis == 2 else (high // step, step * wide, channels)
        x = tf.reshape(x, (-1, *sides))
    parts = [_cut(x, axis, i // step, count, i % step, step) for i in range(size)]
    return parts[::-1] if window.turned else parts


def _cut(x: Tensor, axis: int, start: int, count: int, place: int, step: int) -> Tensor:
    """Return ``count`` steps along ``axis`` from ``start``, of each the entry at ``place``."""
    if count == x.shape[axis] and step == 1:
        return x
    inner = x.shape[axis + 1] // step
    front = (slice(None),) * axis
    return x[(*front, slice(start, start + count), slice(place * inner, (place + 1) * inner))]


def opened(dy: Tensor, window: Window) -> Tensor:
    """Return the error with zeros for skipped places."""
    down, across = window.stride
    high, wide, channels = dy.shape[1:]
    if (down, across) == (1, 1):
        return dy
    if down > 1:
        dy = tf.pad(tf.reshape(dy, (-1, high, 1, wide * channels)), [[0, 0], [0, 0], [0, down - 1], [0, 0]])
        high *= down
    if across > 1:
        dy = tf.pad(tf.reshape(dy, (-1, wide, 1, channels)), [[0, 0], [0, 0], [0, across - 1], [0, 0]])
        wide *= across
    dy = tf.reshape(dy, (-1, high, wide, channels))
    # Each last place brought its own zeros.
    return dy[:, : high - down + 1, : wide - across + 1]


def turned_on(error: Tensor, window: Window) -> Window:
    """Return how the turned kernel lies on the opened ``error``."""
    around = tuple(
        (size - 1 - before, size - 1 - after)
        for size, (before, after) in zip(window.size, window.pads, strict=True)
    )
    return Window(window.size, (1, 1), "valid", tuple(error.shape[1:3]), around, turned=True)  # type: ignore[arg-type]


def spread(dy: Tensor, window: Window) -> Tensor:
    """Return the error with zeros for skipped places and around, as the turned kernel runs over it."""
    error = opened(dy, window)
    return padded(error, turned_on(error, window))
