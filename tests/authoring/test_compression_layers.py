"""Rounded, pruned and clustered weights: gradients in LiteRT against float64, and what stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from layer_bench import LayerBench
from shoal_coordinator.authoring import Conv2D, Dense, Input, Task, freeze
from shoal_coordinator.authoring.builtin_ops import BuiltinOps
from shoal_coordinator.authoring.compression import Clustered, Pruned, Quantised, Teacher, largest, nearest
from shoal_coordinator.authoring.errors import DescriptionError, LayerSettingError
from shoal_coordinator.authoring.int8_weights import Int8Weights, packed, unpacked
from shoal_coordinator.authoring.plain_ops import PlainOps


def drawn(*shape: int, seed: int = 1) -> Any:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize(("layer", "shape"), [(Dense(6), (5,)), (Conv2D(3, 3), (6, 6, 2))])
def test_rounded_weights_have_few_values_and_the_full_ones_the_gradient(
    layer: Dense | Conv2D, shape: tuple[int, ...]
) -> None:
    bench = LayerBench(Quantised(layer, bits=4), shape)
    x, dy = drawn(3, *shape), drawn(3, *bench.built.shape)
    assert bench.largest_fault(x, dy) < 2e-6
    rounded = PlainOps(tf.float32).round_to(tf.constant(bench.weights["w"]), 7).numpy()
    channels = rounded.reshape(-1, rounded.shape[-1]) if len(shape) > 1 else rounded.reshape(-1, 1)
    for column in channels.T:
        levels = column / np.abs(column).max() * 7
        np.testing.assert_allclose(levels, np.rint(levels), atol=1e-4)
    # Straight through: the same gradient as of a layer that has the rounded weights.
    plain = LayerBench(layer, shape)
    plain.weights = {"w": rounded, "b": bench.weights["b"]}
    np.testing.assert_allclose(bench.wanted(x, dy)["d_w"], plain.wanted(x, dy)["d_w"], rtol=1e-6)


def test_pruned_weights_do_nothing_and_get_no_gradient() -> None:
    mask = largest(drawn(5, 6), 0.3)
    assert mask.sum() == 9
    bench = LayerBench(Pruned(Dense(6), {"w": mask}), (5,))
    x, dy = drawn(3, 5), drawn(3, 6)
    assert bench.largest_fault(x, dy) < 2e-6
    assert not bench.found(x, dy)["d_w"][mask == 0].any()
    before = bench.found(x, dy)["y"]
    bench.weights["w"][mask == 0] += 5
    np.testing.assert_array_equal(bench.found(x, dy)["y"], before)


def test_a_clusters_gradient_is_the_sum_of_its_weights_gradients() -> None:
    weights = drawn(5, 6)
    clusters = nearest(weights, 4)
    assert set(np.unique(clusters)) == {0, 1, 2, 3}
    bench = LayerBench(Clustered(Dense(6), {"w": clusters}), (5,))
    assert [one.shape for one in bench.built.parameters] == [(4, 1), (6,)]
    x, dy = drawn(3, 5), drawn(3, 6)
    assert bench.largest_fault(x, dy) < 2e-6
    plain = LayerBench(Dense(6), (5,))
    plain.weights = {"w": bench.weights["w"][clusters, 0], "b": bench.weights["b"]}
    full = plain.wanted(x, dy)["d_w"]
    sums = [full[clusters == one].sum() for one in range(4)]
    np.testing.assert_allclose(bench.found(x, dy)["d_w"].ravel(), sums, rtol=1e-4, atol=1e-5)


def test_nearest_finds_values_that_are_there() -> None:
    values = np.array([-2.0, -0.5, 1.0, 3.0], np.float32)
    indices = np.random.default_rng(1).integers(0, 4, (9, 9))
    np.testing.assert_array_equal(nearest(values[indices], 4), indices)


def test_a_teachers_loss_is_hintons() -> None:
    """(1 - a) L + a T^2 cross-entropy of both softened, with its gradient by the student's logits."""
    teacher, own, output, told = Teacher([], 0.3, 4.0), drawn(5, 1), drawn(5, 7), drawn(5, 7, seed=2)
    soft = np.exp(told / 4) / np.exp(told / 4).sum(axis=1, keepdims=True)
    logs = output / 4 - np.log(np.exp(output / 4).sum(axis=1, keepdims=True))
    wanted = 0.7 * own - 0.3 * 16 * (soft * logs).sum(axis=1, keepdims=True)
    gradient = 0.3 * 16 / 4 * (np.exp(logs) - soft)
    for ops in (PlainOps(tf.float32), BuiltinOps()):
        logits = tf.constant(output)
        with tf.GradientTape() as tape:
            tape.watch(logits)
            losses = teacher.losses(ops, tf.constant(own), logits, tf.constant(told))
        np.testing.assert_allclose(losses.numpy(), wanted, rtol=1e-5)
        np.testing.assert_allclose(tape.gradient(losses, logits).numpy(), gradient, atol=1e-6)


def test_int8_weights_are_off_by_half_a_level_at_most() -> None:
    weights = {"w": drawn(3, 3, 4), "b": drawn(4)}
    kept = unpacked(packed(weights))
    rounded = kept["w"]
    assert isinstance(rounded, Int8Weights)
    off = np.abs(rounded.levels * rounded.scales - weights["w"])
    assert (off <= rounded.scales * 0.5001).all()
    np.testing.assert_array_equal(kept["b"], weights["b"])


def digits(**more: Any) -> Task:
    return Task("digits", Input((4,)), [Dense(3)], labels=tuple("abc"), **more)


def test_what_makes_no_layer_is_refused() -> None:
    with pytest.raises(LayerSettingError, match="2 to 8"):
        Quantised(Dense(3), bits=9).build((4,))
    with pytest.raises(LayerSettingError, match="zeros and ones"):
        Pruned(Dense(3), {"w": np.full((4, 3), 2.0)}).build((4,))
    with pytest.raises(LayerSettingError, match="an index for"):
        Clustered(Dense(3), {"w": np.zeros((3, 3), np.int32)}).build((4,))
    with pytest.raises(LayerSettingError, match="levels are int8"):
        Int8Weights(np.zeros((4, 3), np.int8), np.ones(4, np.float32))
    weights = {"dense1_w": drawn(4, 2), "dense1_b": drawn(2)}
    with pytest.raises(DescriptionError, match="the teacher gives"):
        digits(teacher=Teacher(freeze([Dense(2)], (4,), weights)))
    with pytest.raises(DescriptionError, match="freeze"):
        digits(teacher=Teacher([Dense(3)]))
    right = freeze([Dense(3)], (4,), {"dense1_w": drawn(4, 3), "dense1_b": drawn(3)})
    with pytest.raises(DescriptionError, match="at most 1"):
        digits(teacher=Teacher(right, weight=2.0))
    with pytest.raises(DescriptionError, match="do not go together"):
        digits(teacher=Teacher(right), private=True)
