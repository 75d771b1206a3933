"""Where a kernel lies on an image, and what it meets there."""

from __future__ import annotations

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


def padded(x: Tensor, window: Window) -> Tensor:
    """Return ``x`` with the zeros that the window needs around it."""
    pads = [[0, 0], *([max(before, 0), max(after, 0)] for before, after in window.pads), [0, 0]]
    return tf.pad(x, pads) if any(map(any, pads)) else x


def shifted(x: Tensor, window: Window) -> list[Tensor]:
    """Return what each entry of the kernel meets, row by row, (n, *counts, c) each."""
    whole, (high, wide) = padded(x, window), window.counts
    down, across = window.stride
    return [
        whole[:, i : i + (high - 1) * down + 1 : down, j : j + (wide - 1) * across + 1 : across]
        for i in range(window.size[0])
        for j in range(window.size[1])
    ]


def patches(x: Tensor, window: Window) -> Tensor:
    """Return what the kernel meets at each place, (n, *counts, entries of the kernel)."""
    met = shifted(x, window)
    return tf.concat(met, axis=-1) if len(met) > 1 else met[0]


def spread(dy: Tensor, window: Window) -> Tensor:
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
