"""Convolutions as matrix products.

An interpreter's fast kernels take convolutions of constant weights only: those of weights that train are left
to a slow one, which lays every patch out. Fast products take any weights.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from shoal_coordinator.authoring import winograd
from shoal_coordinator.authoring.joining import joined
from shoal_coordinator.authoring.windows import Window, met_across, opened, patches, turned_on

Tensor = Any


def convolve(x: Tensor, w: Tensor, window: Window) -> Tensor:
    """Return the convolution (n, *counts, filters) of ``x`` (n, height, width, inputs) with ``w``."""
    rows, across, inputs, filters = w.shape
    if winograd.suits(window, inputs, filters):
        return winograd.convolve(x, w, window)
    # The images' axes stay: to the interpreter another shape is a copy.
    if not _by_rows(window, inputs, filters):
        return tf.matmul(patches(x, window), tf.reshape(w, (-1, filters)))
    kernel = tf.reshape(tf.transpose(w, (1, 2, 0, 3)), (across * inputs, rows * filters))
    parts = tf.matmul(met_across(x, window), kernel)
    by_row = [parts[..., row * filters : (row + 1) * filters] for row in range(rows)]
    if window.turned:
        by_row.reverse()
    before, high = window.pads[0][0], window.counts[0]
    placed = [_moved(one, before - row, high, 1) for row, one in enumerate(by_row)]
    y = placed[0]
    for one in placed[1:]:
        y += one
    return y


def of_input(dy: Tensor, w: Tensor, window: Window) -> Tensor:
    """Return the gradient by the input: the error convolved with the turned kernel."""
    error = opened(dy, window)
    return convolve(error, tf.transpose(w, (0, 1, 3, 2)), turned_on(error, window))


def of_weights(x: Tensor, dy: Tensor, window: Window) -> Tensor:
    """Return the gradient by the weights: the error's product with what the kernel meets."""
    rows, across = window.size
    inputs, filters = x.shape[3], dy.shape[3]
    if winograd.suits(window, inputs, filters):
        return winograd.of_weights(x, dy, window)
    error = tf.transpose(dy, (3, 0, 1, 2))
    if not _by_rows(window, inputs, filters):
        met = tf.reshape(patches(x, window), (-1, rows * across * inputs))
        dw = tf.transpose(tf.matmul(tf.reshape(error, (filters, -1)), met))
        return tf.reshape(dw, (rows, across, inputs, filters))
    # The error is moved and not the input: what is made of it lives in the backward pass only.
    before, high = window.pads[0][0], x.shape[1]
    moved = joined([_moved(error, row - before, high, 2) for row in range(rows)], axis=0)
    met = tf.reshape(met_across(x, window), (-1, across * inputs))
    dw = tf.matmul(tf.reshape(moved, (rows * filters, -1)), met)
    return tf.transpose(tf.reshape(dw, (rows, filters, across, inputs)), (0, 2, 3, 1))


def _by_rows(window: Window, inputs: int, filters: int) -> bool:
    """Return whether a product for every row of the kernel, added afterwards, lays out less than patches."""
    rows, across = window.size
    before, after = window.pads[0]
    every_row_meets = max(before, after) < min(window.sides[0], window.counts[0])
    smaller = across * inputs + rows * filters < rows * across * inputs
    return window.stride[0] == 1 and every_row_meets and smaller


def _moved(x: Tensor, by: int, count: int, axis: int) -> Tensor:
    """Return ``count`` rows along ``axis``, those of ``x`` moved ``by``, with zeros where there was none."""
    side = x.shape[axis]
    first, last = max(0, -by), min(side, count - by)
    if (first, last) != (0, side):
        x = x[(*(slice(None),) * axis, slice(first, last))]
    pads = [[0, 0]] * len(x.shape)
    pads[axis] = [first + by, count - last - by]
    return tf.pad(x, pads) if any(pads[axis]) else x
