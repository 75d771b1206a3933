"""Convolutions with fewer products: two by two outputs at a time, of a kernel that moves by one place.

Lavin and Gray 2016, section 4.1. Constants change images and kernels into frequencies and products back; in
between stands one product of matrices for each frequency. Images are changed by depthwise convolutions with
constants, which fast kernels take. Each frequency is a tensor of its own, small enough to stay near.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from shoal_coordinator.authoring.joining import joined
from shoal_coordinator.authoring.toom_cook import OUTPUTS, SIZES, Matrix, constants
from shoal_coordinator.authoring.windows import Pair, Window

Tensor = Any
Frequencies = list[list[Tensor]]
"""Tensors (tiles, channels), by the frequency along height and that along width."""

# With fewer, the changes cost more than the products save.
_LEAST_CHANNELS = 16


def suits(window: Window, inputs: int, filters: int) -> bool:
    """Return whether a convolution costs less in frequencies."""
    moves = window.stride == (1, 1) and SIZES.issuperset(window.size)
    return moves and min(inputs, filters) >= _LEAST_CHANNELS


def convolve(x: Tensor, w: Tensor, window: Window) -> Tensor:
    """Return the convolution (n, *counts, filters) of ``x`` (n, height, width, inputs) with ``w``."""
    pairs = zip(_of_image(x, window), _of_kernel(w, turned=window.turned), strict=True)
    products = [[tf.matmul(one, kernel) for one, kernel in zip(*rows, strict=True)] for rows in pairs]
    rows = [_outputs(row, window.size[1]) for row in products]
    parts = [_outputs(column, window.size[0]) for column in zip(*rows, strict=True)]
    return _interleaved(parts, window.counts, w.shape[3])


def of_weights(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    """Return the gradient (height, width, inputs, filters) by the weights of a kernel that is not turned."""
    inputs, filters = x.shape[3], dy.shape[3]
    # Made anew, and the other way round so that nobody finds it the same: kept since the way forward it would
    # be the most that is held.
    pairs = zip(_of_image(x, window, across_first=True), _of_error(dy, window), strict=True)
    products = [
        tf.reshape(tf.matmul(one, error, transpose_a=True), (1, inputs, filters))
        for rows in pairs
        for one, error in zip(*rows, strict=True)
    ]
    every = tf.reshape(joined(products, axis=0), (-1, inputs * filters))
    dw = _mixed(_kernel_matrix(window.size).T, every)
    return tf.reshape(dw, (*window.size, inputs, filters))


def _of_image(x: Tensor, window: Window, *, across_first: bool = False) -> Frequencies:
    """Return the frequencies of the tiles of ``x``, which overlap."""
    down, across = (constants(size).of_inputs for size in window.size)
    sides = list(zip(window.size, window.pads, window.counts, strict=True))
    if all(before == after == size // 2 for size, (before, after), _ in sides):
        return _filtered(x, down, across, "SAME", across_first=across_first)
    pads = [(before, after + count % OUTPUTS) for _, (before, after), count in sides]
    whole = tf.pad(x, [(0, 0), *pads, (0, 0)])
    return _filtered(whole, down, across, "VALID", across_first=across_first)


def _of_error(dy: Tensor, window: Window) -> Frequencies:
    """Return the frequencies of the tiles of an error, which lie side by side."""
    odd = [(0, count % OUTPUTS) for count in window.counts]
    if any(after for _, after in odd):
        dy = tf.pad(dy, [(0, 0), *odd, (0, 0)])
    down, across = (constants(size).of_outputs for size in window.size)
    return _filtered(dy, down, across, "VALID")


def _filtered(
    x: Tensor, down: Matrix, across: Matrix, padding: str, *, across_first: bool = False
) -> Frequencies:
    """Run each row of ``down`` and each of ``across`` over ``x``, by one tile at a time."""
    if across_first:
        columns = [_run_over(x, row[None, :], padding) for row in across]
        return [[_flat(_run_over(one, row[:, None], padding)) for one in columns] for row in down]
    rows = [_run_over(x, row[:, None], padding) for row in down]
    return [[_flat(_run_over(one, row[None, :], padding)) for row in across] for one in rows]


def _run_over(x: Tensor, kernel: Matrix, padding: str) -> Tensor:
    """Return the depthwise convolution of ``x`` with one constant ``kernel`` for all channels."""
    every = np.repeat(kernel[:, :, None, None], x.shape[3], axis=2)
    steps = (1, *(OUTPUTS if side > 1 else 1 for side in kernel.shape), 1)
    return tf.nn.depthwise_conv2d(x, tf.constant(every), steps, padding)


def _flat(x: Tensor) -> Tensor:
    return tf.reshape(x, (-1, x.shape[3]))


def _of_kernel(w: Tensor, *, turned: bool) -> Frequencies:
    """Return the frequencies (inputs, filters) of a kernel, or of the turned one."""
    rows, across, inputs, filters = w.shape
    matrix = _kernel_matrix((rows, across))
    # The kernel's entries are met in reverse.
    every = _mixed(matrix[:, ::-1] if turned else matrix, tf.reshape(w, (rows * across, -1)))
    parts = [tf.reshape(every[k : k + 1], (inputs, filters)) for k in range(len(matrix))]
    wide = across - 1 + OUTPUTS
    return [parts[start : start + wide] for start in range(0, len(parts), wide)]


def _kernel_matrix(size: Pair) -> Matrix:
    """Return what makes a kernel's frequencies (rows) of its entries (columns)."""
    down, across = (constants(side).of_weights for side in size)
    return np.kron(down, across)


def _mixed(matrix: Matrix, rows: Tensor) -> Tensor:
    """Return ``matrix`` (a, b) times ``rows`` (b, c)."""
    # With an axis more, or the converter would transpose all of it.
    many, width = matrix.shape
    mixed = tf.matmul(tf.constant(matrix.reshape(1, many, width)), tf.reshape(rows, (1, width, -1)))
    return tf.reshape(mixed, (many, -1))


def _outputs(products: Any, size: int) -> list[Tensor]:
    """Return the two outputs that a line of frequencies makes."""
    zero, *pairs, last = products
    points = constants(size).of_outputs[1:-1:2, 1]
    first, second = zero, None
    for one, other, point in zip(pairs[::2], pairs[1::2], points, strict=True):
        first += one + other
        difference = one - other if point == 1 else (one - other) * point
        second = difference if second is None else second + difference
    return [first, second + last]


def _interleaved(parts: list[list[Tensor]], counts: Pair, channels: int) -> Tensor:
    """Return the image (n, *counts, channels) of ``parts`` by the place in a tile, across and down."""
    high, wide = (-(-count // OUTPUTS) for count in counts)
    across = [[tf.reshape(one, (-1, high, wide, channels)) for one in column] for column in parts]
    rows = [tf.concat(row, axis=3) for row in zip(*across, strict=True)]
    rows = [tf.reshape(row, (-1, high, 1, wide * OUTPUTS * channels)) for row in rows]
    y = tf.reshape(tf.concat(rows, axis=2), (-1, high * OUTPUTS, wide * OUTPUTS, channels))
    return y if (high * OUTPUTS, wide * OUTPUTS) == counts else y[:, : counts[0], : counts[1]]
