"""Convolutions as matrix products.

An interpreter's fast kernels take convolutions of constant weights only: those of weights that train are left
to a slow one, which lays every patch out. Fast products take any weights.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from shoal_coordinator.authoring.windows import Window, padded, patches, spread

Tensor = Any


def convolve(x: Tensor, w: Tensor, window: Window) -> Tensor:
    """Return the convolution (n, *counts, filters) of ``x`` (n, height, width, inputs) with ``w``."""
    high, wide = window.counts
    rows, across, inputs, filters = w.shape
    if not _by_rows(window, inputs, filters):
        met = tf.reshape(patches(x, window), (-1, math.prod(w.shape[:3])))
        return tf.reshape(tf.matmul(met, tf.reshape(w, (-1, filters))), (-1, high, wide, filters))
    kernel = tf.reshape(tf.transpose(w, (1, 2, 0, 3)), (across * inputs, rows * filters))
    parts = tf.reshape(tf.matmul(_met_across(x, window), kernel), (-1, high + rows - 1, wide, rows * filters))
    y = parts[:, :high, :, :filters]
    for row in range(1, rows):
        y += parts[:, row : row + high, :, row * filters : (row + 1) * filters]
    return y


def of_input(dy: Tensor, w: Tensor, window: Window) -> Tensor:
    """Return the gradient by the input: the error convolved with the turned kernel."""
    # One axis is turned: an old interpreter gets two at once silently wrong.
    kernel = tf.reverse(tf.reshape(w, (-1, *w.shape[2:])), [0])
    kernel = tf.reshape(tf.transpose(kernel, (0, 2, 1)), (*w.shape[:2], w.shape[3], w.shape[2]))
    error = spread(dy, window)
    return convolve(error, kernel, Window(window.size, (1, 1), "valid", tuple(error.shape[1:3])))


def of_weights(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    """Return the gradient by the weights: the error's product with what the kernel meets."""
    rows, across = window.size
    inputs, filters = x.shape[3], dy.shape[3]
    turned = tf.transpose(dy, (3, 0, 1, 2))
    if not _by_rows(window, inputs, filters):
        met = tf.reshape(patches(x, window), (-1, rows * across * inputs))
        dw = tf.transpose(tf.matmul(tf.reshape(turned, (filters, -1)), met))
        return tf.reshape(dw, (rows, across, inputs, filters))
    # The error is moved and not the input: what is made of it lives in the backward pass only.
    moved = [
        tf.reshape(tf.pad(turned, [[0, 0], [0, 0], [row, rows - 1 - row], [0, 0]]), (filters, -1))
        for row in range(rows)
    ]
    dw = tf.matmul(tf.concat(moved, axis=0), _met_across(x, window))
    return tf.transpose(tf.reshape(dw, (rows, filters, across, inputs)), (0, 2, 3, 1))


def _by_rows(window: Window, inputs: int, filters: int) -> bool:
    """Return whether a product for every row of the kernel, added afterwards, lays out less than patches."""
    rows, across = window.size
    return window.stride[0] == 1 and across * inputs + rows * filters < rows * across * inputs


def _met_across(x: Tensor, window: Window) -> Tensor:
    """Return what a row of the kernel meets at each place, (places, entries of the kernel's row)."""
    wide, step, across = window.counts[1], window.stride[1], window.size[1]
    whole = padded(x, window)
    parts = [whole[:, :, j : j + (wide - 1) * step + 1 : step] for j in range(across)]
    met = tf.concat(parts, axis=-1) if across > 1 else parts[0]
    return tf.reshape(met, (-1, across * x.shape[3]))
