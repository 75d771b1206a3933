"""Narrower variants of a task: prefixes of the full model's weights, scaled so that their sums stay alike."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from layer_bench import LayerBench
from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.wire.task import decode_task, encode_task
from shoal_coordinator.authoring import Dense, Input, Run, Scale, Task
from shoal_coordinator.authoring.author import author
from shoal_coordinator.authoring.plain_ops import PlainOps

TASK = Task(
    name="two-widths",
    input=Input((12,), maximum=16, deviation=16),
    labels=("a", "b", "c"),
    layers=[Dense(8, activation="relu"), Dense(6, activation="tanh"), Dense(3)],
    widths=(0.5,),
)


def test_scaling_and_its_gradient_equal_float64() -> None:
    bench = LayerBench(Scale(4.0), (7,))
    rng = np.random.default_rng(1)
    x, dy = (rng.normal(size=(5, 7)).astype(np.float32) for _ in range(2))
    assert bench.largest_fault(x, dy) < 1e-6


def test_a_task_with_widths_is_checked_variant_by_variant_and_comes_back() -> None:
    bundle = decode_task(encode_task(author(TASK)))
    [half] = bundle.variants
    assert [one.shape for one in half.parameters] == [(12, 4), (4,), (4, 3), (3,), (3, 3), (3,)]
    cut = ModelLevels(bundle).slice_of(1)
    assert cut is not None
    assert cut.dimension == half.dimension == 12 * 4 + 4 + 4 * 3 + 3 + 3 * 3 + 3


def test_on_average_a_narrower_model_gives_the_next_layer_what_the_full_one_does() -> None:
    """With independent weights of mean zero: the mean over many draws of what half of the units add up to."""
    rng, x = np.random.default_rng(0), tf.ones((1, 12), tf.float64)
    wide, thin = TASK.model, TASK.narrow(0.5).model
    sums = []
    for _ in range(400):
        weights = {one.name: tf.constant(np.abs(rng.normal(size=one.shape))) for one in wide.parameters}
        cut = {
            one.name: weights[one.name][tuple(slice(side) for side in one.shape)] for one in thin.parameters
        }
        # Up to the first layer and its activation: the rest is not linear.
        outputs = []
        for model, p, last in ((wide, weights, "activation1"), (thin, cut, "scale1")):
            walked = {one.name: y for one, y in model.walk(Run(PlainOps(tf.float64)), p, x)}
            outputs.append(float(tf.reduce_sum(walked[last])))
        sums.append(outputs)
    full, half = np.mean(sums, axis=0)
    assert abs(half / full - 1) < 0.05
