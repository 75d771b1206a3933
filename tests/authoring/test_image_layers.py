"""Convolutions, pools and batch norm: outputs and gradients in LiteRT against float64, shapes, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from layer_bench import LayerBench
from shoal_coordinator.authoring import (
    AveragePool,
    BatchNorm,
    Conv1D,
    Conv2D,
    DepthwiseConv2D,
    Flatten,
    GlobalAveragePool,
    GlobalMaxPool,
    Layer,
    MaxPool,
    Reshape,
    Run,
    winograd,
)
from shoal_coordinator.authoring.convolution import pair
from shoal_coordinator.authoring.errors import LayerSettingError, LayerShapeError
from shoal_coordinator.authoring.plain_ops import PlainOps
from shoal_coordinator.authoring.windows import Window

LAYERS = {
    "conv same": (Conv2D(4, 3), (6, 5, 3)),
    "conv valid": (Conv2D(3, (2, 3), padding="valid"), (5, 7, 2)),
    "conv even kernel same": (Conv2D(2, 4), (6, 6, 2)),
    "conv stride 2 same": (Conv2D(3, 3, stride=2), (6, 7, 2)),
    "conv stride 2 valid, a row left over": (Conv2D(3, 3, stride=2, padding="valid"), (6, 8, 2)),
    "conv stride 3 over kernel 2": (Conv2D(2, 2, stride=3), (7, 8, 2)),
    "conv of two strides": (Conv2D(2, 3, stride=(1, 2)), (5, 6, 2)),
    "conv of one by one": (Conv2D(5, 1), (4, 4, 3)),
    "conv wide kernel": (Conv2D(2, 5), (4, 4, 1)),
    "depthwise same": (DepthwiseConv2D(3), (6, 5, 3)),
    "depthwise stride 2": (DepthwiseConv2D(3, stride=2), (7, 6, 4)),
    "depthwise valid of two strides": (DepthwiseConv2D((2, 3), stride=(1, 2), padding="valid"), (5, 8, 2)),
    "depthwise valid, rows left over": (DepthwiseConv2D(3, stride=2, padding="valid"), (8, 6, 3)),
    "depthwise of an even kernel": (DepthwiseConv2D((4, 2)), (6, 5, 3)),
    "depthwise kernel higher than the image": (DepthwiseConv2D((5, 3)), (2, 9, 2)),
    "depthwise of a wide image": (DepthwiseConv2D(3), (4, 35, 2)),
    "depthwise of a wide image, stride 2": (DepthwiseConv2D(3, stride=2), (5, 36, 2)),
    "depthwise of a wide image, two strides": (DepthwiseConv2D((2, 3), stride=(1, 2)), (3, 34, 2)),
    "conv1d same": (Conv1D(4, 5), (9, 3)),
    "conv1d stride 2": (Conv1D(4, 3, stride=2), (9, 3)),
    "conv1d valid": (Conv1D(2, 4, padding="valid"), (9, 2)),
    "max pool": (MaxPool(2), (6, 4, 3)),
    "max pool, a row and a column left over": (MaxPool((3, 2)), (7, 5, 2)),
    "max pool of a sequence": (MaxPool(3), (10, 2)),
    "average pool": (AveragePool(2), (6, 4, 3)),
    "average pool, left over": (AveragePool((2, 3)), (5, 7, 2)),
    "average pool of a sequence": (AveragePool(4), (9, 2)),
    "global average": (GlobalAveragePool(), (4, 3, 5)),
    "global average of a sequence": (GlobalAveragePool(), (6, 5)),
    "global max": (GlobalMaxPool(), (4, 3, 5)),
    "flatten": (Flatten(), (3, 2, 4)),
    "reshape": (Reshape((4, 6)), (3, 2, 4)),
    "batch norm": (BatchNorm(), (4, 3, 5)),
    "batch norm of features": (BatchNorm(epsilon=1e-5), (7,)),
}
# Minimal filtering, of odd and even counts and of two sizes: its constants cost about a digit.
FREQUENCIES = {
    "conv 5 same": (Conv2D(17, 5), (6, 7, 16)),
    "conv 5 valid": (Conv2D(16, 5, padding="valid"), (8, 9, 18)),
    "conv 3 same": (Conv2D(20, 3), (7, 6, 16)),
    "conv 3 valid": (Conv2D(16, 3, padding="valid"), (6, 5, 17)),
    "conv of two sides": (Conv2D(16, (3, 5)), (9, 8, 16)),
    "conv wider than the image": (Conv2D(16, 5), (3, 2, 16)),
}
WITH_WEIGHTS = [name for name, (layer, shape) in LAYERS.items() if layer.build(shape).parameters]


def drawn(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", LAYERS)
def test_outputs_and_gradients_equal_float64(name: str) -> None:
    layer, shape = LAYERS[name]
    bench = LayerBench(layer, shape)
    for rows in (1, 4):
        x, dy = drawn(rows, *shape), drawn(rows, *bench.built.shape, seed=2)
        if rows == 1 and isinstance(layer, BatchNorm) and len(shape) == 1:
            continue
        assert bench.largest_fault(x, dy) < 3e-6


@pytest.mark.parametrize("name", FREQUENCIES)
def test_convolutions_in_frequencies_equal_float64(name: str) -> None:
    layer, shape = FREQUENCIES[name]
    bench = LayerBench(layer, shape)
    window = Window(pair(layer.kernel), (1, 1), layer.padding, shape[:2])
    assert winograd.suits(window, shape[2], layer.filters)
    for rows in (1, 4):
        x, dy = drawn(rows, *shape), drawn(rows, *bench.built.shape, seed=2)
        assert bench.largest_fault(x, dy) < 1e-5


@pytest.mark.parametrize("name", [one for one in WITH_WEIGHTS if "norm" not in one])
def test_a_layer_tells_the_length_of_each_examples_gradient(name: str) -> None:
    layer, shape = LAYERS[name]
    bench = LayerBench(layer, shape)
    x, dy = drawn(3, *shape), drawn(3, *bench.built.shape, seed=2)
    weights = {key: tf.constant(value, tf.float64) for key, value in bench.weights.items()}
    given_x, given_dy = tf.constant(x, tf.float64), tf.constant(dy, tf.float64)
    found = bench.layer.squares(Run(PlainOps()), weights, given_x, given_dy).numpy().ravel()
    for row in range(3):
        alone = bench.wanted(x[row : row + 1], dy[row : row + 1])
        assert found[row] == pytest.approx(sum(np.sum(alone[f"d_{key}"] ** 2) for key in weights))


KERAS = {
    "conv stride 2 same": lambda: tf.keras.layers.Conv2D(3, 3, strides=2, padding="same"),
    "conv even kernel same": lambda: tf.keras.layers.Conv2D(2, 4, padding="same"),
    "conv1d stride 2": lambda: tf.keras.layers.Conv1D(4, 3, strides=2, padding="same"),
    "max pool of a sequence": lambda: tf.keras.layers.MaxPool1D(3),
    "average pool, left over": lambda: tf.keras.layers.AveragePooling2D((2, 3)),
}


@pytest.mark.parametrize("name", KERAS)
def test_layers_are_those_of_keras(name: str) -> None:
    layer, shape = LAYERS[name]
    bench, theirs = LayerBench(layer, shape), KERAS[name]()
    theirs.build((None, *shape))
    theirs.set_weights(list(bench.weights.values()))
    x = drawn(2, *shape)
    wanted = theirs(x).numpy()
    assert wanted.shape[1:] == bench.built.shape
    np.testing.assert_allclose(bench.found(x, wanted)["y"], wanted, atol=1e-5)


def test_batch_norm_moves_what_it_remembers_as_keras_does_and_uses_it_later() -> None:
    layer = BatchNorm(momentum=0.8, epsilon=1e-3, name="n")
    bench, x = LayerBench(layer, (3, 4)), drawn(6, 3, 4) * 3 + 1
    theirs = tf.keras.layers.BatchNormalization(momentum=0.8, epsilon=1e-3)
    theirs.build((None, 3, 4))
    variance = np.abs(bench.weights["variance"])
    bench.weights["variance"] = variance
    theirs.set_weights([bench.weights[key] for key in ("g", "b", "mean", "variance")])
    run = Run(PlainOps(), training=True, layer="n")
    weights = {key: tf.constant(value, tf.float64) for key, value in bench.weights.items()}
    y = layer.forward(run, weights, tf.constant(x, tf.float64))
    np.testing.assert_allclose(y, theirs(x, training=True), atol=1e-5)
    after = theirs.get_weights()
    np.testing.assert_allclose(run.moved["n_mean"], after[2], atol=1e-5)
    np.testing.assert_allclose(run.moved["n_variance"], after[3], atol=1e-5)
    still = LayerBench(layer, (3, 4), training=False)
    still.weights = dict(zip(("g", "b", "mean", "variance"), after, strict=True))
    np.testing.assert_allclose(still.found(x, x)["y"], theirs(x, training=False), atol=1e-5)
    assert still.largest_fault(x, x) < 3e-6


def test_equal_entries_share_a_pools_gradient() -> None:
    bench = LayerBench(MaxPool(2), (2, 2, 1))
    x = np.array([[3.0, 1.0], [3.0, 3.0]], np.float32).reshape(1, 2, 2, 1)
    found = bench.found(x, np.full((1, 1, 1, 1), 6.0))["d_x"]
    assert found.ravel().tolist() == [2, 0, 2, 2]


@pytest.mark.parametrize(
    ("layer", "shape", "text"),
    [
        (
            Conv2D(4, name="eye"),
            (28, 28),
            r"eye \(Conv2D\) takes \(height, width, channels\), not \(28, 28\)",
        ),
        (Conv2D(4, 5, padding="valid"), (4, 9, 1), "at least"),
        (DepthwiseConv2D(), (9,), "channels"),
        (Conv1D(4), (9,), "steps, channels"),
        (MaxPool(), (9,), "steps, channels"),
        (AveragePool(5), (4, 4, 1), "at least"),
        (GlobalMaxPool(), (9,), "channels"),
        (Reshape((2, 2)), (5,), "4 entries"),
    ],
)
def test_what_a_layer_cannot_take_is_refused_with_its_name(
    layer: Layer, shape: tuple[int, ...], text: str
) -> None:
    with pytest.raises(LayerShapeError, match=text):
        layer.build(shape)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv2D(0), (8, 8, 1)),
        (Conv2D(1, stride=0), (8, 8, 1)),
        (Conv2D(1, padding="full"), (8, 8, 1)),  # type: ignore[arg-type]
        (Conv1D(0), (8, 1)),
        (MaxPool((2, 2)), (8, 1)),
        (MaxPool(0), (8, 1)),
        (Reshape((0, 4)), (8,)),
        (BatchNorm(momentum=1.0), (8,)),
        (BatchNorm(epsilon=0.0), (8,)),
    ],
)
def test_settings_that_make_no_layer_are_refused(layer: Layer, shape: tuple[int, ...]) -> None:
    with pytest.raises(LayerSettingError):
        layer.build(shape)
