"""Embedding, layer norm and dropout: gradients in LiteRT against float64, masks against integers."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from layer_bench import LayerBench
from shoal_coordinator.authoring import Dropout, Embedding, LayerNorm, Run
from shoal_coordinator.authoring.errors import LayerSettingError, LayerShapeError
from shoal_coordinator.authoring.plain_ops import PlainOps

WIDTH = 64


def drawn(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_an_embedding_adds_up_the_gradients_of_repeated_tokens() -> None:
    bench = LayerBench(Embedding(tokens=11, width=4), (6,))
    tokens = np.array([[0, 1, 1, 1, 10, 0], [5, 5, 5, 5, 5, 5]], np.int32)
    assert bench.largest_fault(tokens, drawn(2, 6, 4)) < 1e-6
    found = bench.found(tokens, np.ones((2, 6, 4)))["d_table"]
    counts = np.bincount(tokens.ravel(), minlength=11)
    np.testing.assert_array_equal(found, np.repeat(counts[:, None], 4, axis=1))


@pytest.mark.parametrize("shape", [(WIDTH,), (5, 8)])
def test_layer_norm_and_its_gradients_equal_float64(shape: tuple[int, ...]) -> None:
    bench = LayerBench(LayerNorm(), shape)
    x = drawn(3, *shape) * 4 + 2
    assert bench.largest_fault(x, drawn(3, *shape, seed=2)) < 5e-6
    theirs = tf.keras.layers.LayerNormalization(epsilon=1e-5)
    theirs.build((None, *shape))
    theirs.set_weights([bench.weights["g"], bench.weights["b"]])
    np.testing.assert_allclose(bench.found(x, x)["y"], theirs(x).numpy(), atol=1e-5)


@pytest.mark.parametrize("shape", [(WIDTH,), (5, 8)])
def test_layer_norm_tells_the_length_of_each_examples_gradient(shape: tuple[int, ...]) -> None:
    bench = LayerBench(LayerNorm(), shape)
    x, dy = drawn(3, *shape), drawn(3, *shape, seed=2)
    weights = {name: tf.constant(value, tf.float64) for name, value in bench.weights.items()}
    given_x, given_dy = tf.constant(x, tf.float64), tf.constant(dy, tf.float64)
    found = bench.layer.squares(Run(PlainOps()), weights, given_x, given_dy).numpy().ravel()
    for row in range(3):
        alone = bench.wanted(x[row : row + 1], dy[row : row + 1])
        assert found[row] == pytest.approx(np.sum(alone["d_g"] ** 2) + np.sum(alone["d_b"] ** 2))


def integer_mask(count: int, seed: int, rate: float, stream: int) -> Any:
    """Re-derive the mask with integers: a Feistel network over two words of 12 bits."""
    place = np.arange(count, dtype=np.int64)
    left, right = place % 4096, place // 4096
    words = [(seed >> shift) % 4096 for shift in (0, 12, 24)]
    for turn in range(6):
        key = (words[turn % 3] + stream * 1009 + turn * 2741 + 977) % 4096
        mixed = (right + key) % 4096
        left, right = right, (left + mixed**2 // 64 + key) % 4096
    return right >= round(rate * 4096)


@pytest.fixture(scope="module")
def dropout() -> LayerBench:
    return LayerBench(Dropout(0.25, name="thin"), (WIDTH,))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(-(1 << 31), (1 << 31) - 1), rows=st.sampled_from([1, 7, 130]))
def test_masks_are_those_of_the_same_hash_in_integers(dropout: LayerBench, seed: int, rows: int) -> None:
    x = np.ones((rows, WIDTH), np.float32)
    found = dropout.found(x, x * 3, seed)
    kept = integer_mask(rows * WIDTH, seed, 0.25, zlib.crc32(b"thin") % 4096).reshape(x.shape)
    np.testing.assert_allclose(found["y"], kept / 0.75, rtol=1e-6)
    np.testing.assert_allclose(found["d_x"], kept * 3 / 0.75, rtol=1e-6)
    np.testing.assert_allclose(dropout.wanted(x, x, seed)["y"], kept / 0.75, rtol=1e-12)


def test_masks_of_successive_seeds_and_entries_look_independent() -> None:
    masks = np.stack([integer_mask(4096, seed, 0.25, 9) for seed in range(200)]).astype(float)
    # Standard errors of a fair draw: 0.0068 of a row, 0.031 of a column; five of them are allowed.
    assert np.abs(masks.mean(axis=1) - 0.75).max() < 5 * 0.0068
    assert np.abs(masks.mean(axis=0) - 0.75).max() < 5 * 0.031
    for among, draws in ((masks, 4096), (masks.T[:200], 200)):
        matrix = np.corrcoef(among)
        np.fill_diagonal(matrix, 0)
        assert matrix.std() == pytest.approx(draws**-0.5, rel=0.1)
        assert np.abs(matrix).max() < 6 * draws**-0.5


def test_nothing_is_dropped_outside_training() -> None:
    bench = LayerBench(Dropout(0.5), (WIDTH,), training=False)
    x = drawn(2, WIDTH)
    np.testing.assert_array_equal(bench.wanted(x, x)["y"], x.astype(np.float64))


def test_settings_that_make_no_layer_are_refused() -> None:
    with pytest.raises(LayerSettingError, match="between 0 and 1"):
        Dropout(1.0).build((4,))
    with pytest.raises(LayerSettingError, match="at least 2"):
        Embedding(tokens=1, width=4).build((4,))
    with pytest.raises(LayerShapeError, match="tokens"):
        Embedding(tokens=9, width=4).build((4, 4))
    with pytest.raises(LayerShapeError, match="two features"):
        LayerNorm().build((1,))
