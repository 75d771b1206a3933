"""Depthwise convolutions as matrix products, channel by channel.

An interpreter's fast kernels take depthwise convolutions of constant weights only. Where one of weights that
train stands between what they take, they cannot take that together: the graph is parted, and what goes from
one part to the next is held beside them. Of a narrow image a few rows times a band matrix of the kernel's
entries are a convolution too, and a product of matrices takes any weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from shoal_coordinator.authoring.joining import joined
from shoal_coordinator.authoring.windows import Window

Tensor = Any

# Most of a band matrix is zeros: in wider images that costs more than a slow kernel does.
_WIDEST = 32
# What fast products compute at once: a block narrower than that is no faster.
_LANES = 16


def fits(window: Window) -> bool:
    """Return whether products are a way for a convolution by ``window``."""
    return max(window.sides[1], window.counts[1]) <= _WIDEST


@dataclass(frozen=True)
class _Bands:
    """How blocks of rows meet: ``rows`` of the output, and ``stride`` times as many of the input.

    Block i of the output is the sum of the input's blocks i + s for each s of ``shifts``, each times a matrix
    of what its entries, rows and columns together, give to each entry of the output's block.
    """

    window: Window

    @cached_property
    def rows(self) -> int:
        """How many rows of the output are a block."""
        high, wide = self.window.counts
        most = max(1, min(high, _LANES // wide))
        return next(one for one in range(most, 0, -1) if high % one == 0)

    @property
    def rows_met(self) -> int:
        """How many rows of the input are a block."""
        return self.rows * self.window.stride[0]

    @property
    def blocks(self) -> int:
        """How many blocks the output has."""
        return self.window.counts[0] // self.rows

    @property
    def blocks_met(self) -> int:
        """How many the input has; the last one is filled up."""
        return -(-self.window.sides[0] // self.rows_met)

    @cached_property
    def shifts(self) -> range:
        """How many blocks further on in the input those lie that a block of the output meets."""
        first = -self.window.pads[0][0]
        last = first + (self.rows - 1) * self.window.stride[0] + self.window.size[0] - 1
        return range(
            max(first // self.rows_met, 1 - self.blocks),
            min(last // self.rows_met, self.blocks_met - 1) + 1,
        )

    @cached_property
    def down(self) -> npt.NDArray[np.float32]:
        """Which of the kernel's rows each pair of rows is met with, (shifts x rows met x rows, size)."""
        size, step, before = self.window.size[0], self.window.stride[0], self.window.pads[0][0]
        pairs = np.zeros((len(self.shifts), self.rows_met, self.rows, size), np.float32)
        for place, shift in enumerate(self.shifts):
            for row in range(self.rows):
                for entry in range(size):
                    met = row * step + entry - before - shift * self.rows_met
                    if 0 <= met < self.rows_met:
                        pairs[place, met, row, entry] = 1
        return pairs.reshape(-1, size)

    @cached_property
    def across(self) -> npt.NDArray[np.float32]:
        """Which of a row's entries each pair of columns is met with, (width x places, size)."""
        size, step, before = self.window.size[1], self.window.stride[1], self.window.pads[1][0]
        wide, places = self.window.sides[1], self.window.counts[1]
        pairs = np.zeros((wide, places, size), np.float32)
        for place in range(places):
            for entry in range(size):
                met = place * step + entry - before
                if 0 <= met < wide:
                    pairs[met, place, entry] = 1
        return pairs.reshape(-1, size)

    def matrices(self, w: Tensor) -> list[Tensor]:
        """Return for each shift the band matrices (c, entries met, entries) of the kernel ``w``."""
        wide, channels = w.shape[1:]
        rows = tf.matmul(tf.transpose(w, (1, 2, 0)), tf.constant(self.down.T, w.dtype))
        by_pair = tf.transpose(tf.reshape(rows, (wide, channels, len(self.shifts), -1)), (2, 1, 3, 0))
        bands = tf.matmul(by_pair, tf.constant(self.across.T, w.dtype))
        laid = tf.transpose(tf.reshape(bands, (-1, *self._sides)), (0, 1, 3, 2, 4))
        laid = tf.reshape(laid, (len(self.shifts) * channels, *self._entries))
        return [laid[place * channels : (place + 1) * channels] for place in range(len(self.shifts))]

    def entries_of(self, matrices: list[Tensor]) -> Tensor:
        """Return the kernel (height, width, c) of whose entries these are sums, (c, entries met, entries)."""
        channels = matrices[0].shape[0]
        down, across, met, kept = self._sides
        laid = tf.reshape(joined(matrices, axis=0), (-1, down, met, across, kept))
        laid = tf.transpose(laid, (0, 1, 3, 2, 4))
        rows = tf.matmul(
            tf.reshape(laid, (len(self.shifts), channels, down * across, met * kept)),
            tf.constant(self.across, laid.dtype),
        )
        by_pair = tf.reshape(tf.transpose(rows, (3, 1, 0, 2)), (self.window.size[1], channels, -1))
        return tf.transpose(tf.matmul(by_pair, tf.constant(self.down, laid.dtype)), (2, 0, 1))

    @property
    def _sides(self) -> tuple[int, int, int, int]:
        """Rows met, rows, width and places."""
        return self.rows_met, self.rows, self.window.sides[1], self.window.counts[1]

    @property
    def _entries(self) -> tuple[int, int]:
        """What of an input's block, and of an output's, lies together."""
        met, rows, wide, places = self._sides
        return met * wide, rows * places

    def met(self, x: Tensor) -> Tensor:
        """Return an input (n, height, width, c) as (n, blocks met, entries met, c)."""
        missing = self.blocks_met * self.rows_met - x.shape[1]
        if missing:
            x = tf.pad(x, [[0, 0], [0, missing], [0, 0], [0, 0]])
        return x if self.rows_met == 1 else tf.reshape(x, (-1, self.blocks_met, self._entries[0], x.shape[3]))

    def input(self, met: Tensor) -> Tensor:
        """Return what ``met`` takes."""
        high, wide = self.window.sides
        x = met
        if self.rows_met > 1:
            x = tf.reshape(met, (-1, self.blocks_met * self.rows_met, wide, met.shape[3]))
        return x if x.shape[1] == high else x[:, :high]

    def kept(self, y: Tensor) -> Tensor:
        """Return an output (n, height, width, c) as (n, blocks, entries, c)."""
        return y if self.rows == 1 else tf.reshape(y, (-1, self.blocks, self._entries[1], y.shape[3]))

    def output(self, kept: Tensor) -> Tensor:
        """Return what ``kept`` takes."""
        return kept if self.rows == 1 else tf.reshape(kept, (-1, *self.window.counts, kept.shape[3]))


def convolve(x: Tensor, w: Tensor, window: Window) -> Any:
    """Return the convolution (n, *counts, c) of ``x`` with ``w`` (height, width, c), and its gradient.

    That takes an error and gives the gradients by ``x`` and ``w``.
    """
    bands = _Bands(window)
    matrices = bands.matrices(w)
    met = _moved(tf.transpose(bands.met(x), (3, 1, 0, 2)), bands.shifts, bands.blocks)
    y = _sum([tf.matmul(one, matrix) for one, matrix in zip(met, matrices, strict=True)])
    y = tf.reshape(y, (y.shape[0], bands.blocks, -1, y.shape[2]))
    y = bands.output(tf.transpose(y, (2, 1, 3, 0)))

    def gradient(dy: Tensor) -> Any:
        error = tf.transpose(bands.kept(dy), (3, 1, 0, 2))
        back = _moved(error, [-one for one in bands.shifts], bands.blocks_met)
        parts = zip(back, matrices, strict=True)
        dx = _sum([tf.raw_ops.BatchMatMulV2(x=one, y=matrix, adj_y=True) for one, matrix in parts])
        dx = tf.reshape(dx, (dx.shape[0], bands.blocks_met, -1, dx.shape[2]))
        dx = bands.input(tf.transpose(dx, (2, 1, 3, 0)))
        met = tf.transpose(bands.met(x), (3, 2, 1, 0))
        met = tf.reshape(met, (*met.shape[:2], -1))
        return dx, bands.entries_of([tf.matmul(met, one) for one in back])

    return y, gradient


def _moved(x: Tensor, shifts: Any, count: int) -> list[Tensor]:
    """Return for each shift the ``count`` blocks of ``x`` (c, blocks, n, entries) from there on as rows.

    Shape (c, count x n, entries) each; a block that is not there is zeros.
    """
    before = max(0, -min(shifts))
    after = max(0, count + max(shifts) - x.shape[1])
    if before or after:
        x = tf.pad(x, [[0, 0], [before, after], [0, 0], [0, 0]])
    cuts = [_cut(x, before + one, count) for one in shifts]
    return [tf.reshape(one, (x.shape[0], -1, x.shape[3])) for one in cuts]


def _cut(x: Tensor, start: int, count: int) -> Tensor:
    return x if count == x.shape[1] else x[:, start : start + count]


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for one in parts[1:]:
        total += one
    return total
