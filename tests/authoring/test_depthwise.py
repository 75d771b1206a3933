"""Depthwise convolutions as products, and steps that compute again what they need not hold."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from shoal_coordinator.authoring import (
    Activation,
    BatchNorm,
    Dense,
    DepthwiseConv2D,
    Flatten,
    Input,
    Momentum,
    Task,
    depthwise_ops,
)
from shoal_coordinator.authoring.convert import convert
from shoal_coordinator.authoring.graphs import TrainableGraph
from shoal_coordinator.authoring.rewriting import rewritten
from shoal_coordinator.authoring.scheduling import held
from shoal_coordinator.authoring.sizes import numbers_of
from shoal_coordinator.authoring.windows import Window
from trainable_parts import graph_of, met_by_entries, tree_of

KINDS = schema.BuiltinOperator
TASK = Task(
    name="separable",
    input=Input((12, 12, 4), deviation=255),
    labels=("a", "b", "c"),
    layers=[
        DepthwiseConv2D(3),
        BatchNorm(),
        Activation("relu"),
        DepthwiseConv2D(3, stride=2),
        BatchNorm(),
        Activation("relu"),
        DepthwiseConv2D(3),
        BatchNorm(),
        Activation("relu"),
        Flatten(),
        Dense(3),
    ],
    optimiser=Momentum(),
)


@pytest.fixture(scope="module")
def converted() -> bytes:
    graph = TrainableGraph(TASK)
    return convert(graph, graph.signatures)


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 5), (1, 9), (4, 2), (7, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2), (3, 2)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_bands_and_their_gradients_are_those_of_each_channels_kernel(
    size: tuple[int, int], stride: tuple[int, int], padding: str
) -> None:
    rng = np.random.default_rng(1)
    for sides in ((8, 9), (7, 12), (4, 5), (16, 2), (3, 3)):
        if padding == "valid" and (size[0] > sides[0] or size[1] > sides[1]):
            continue
        window = Window(size, stride, padding, sides)
        x = tf.constant(rng.normal(size=(2, *sides, 3)))
        w = tf.constant(rng.normal(size=(*size, 3)))
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            met = met_by_entries(x, window)
            entries = tf.unstack(tf.reshape(w, (-1, 3)))
            y = sum(one * entry for one, entry in zip(met, entries, strict=True))
        dy = tf.constant(rng.normal(size=y.shape))
        dx, dw = tape.gradient(y, [x, w], output_gradients=dy)
        found, gradient = depthwise_ops.convolve(x, w, window)
        np.testing.assert_allclose(found, y, atol=1e-10)
        found_dx, found_dw = gradient(dy)
        np.testing.assert_allclose(found_dx, dx, atol=1e-10)
        np.testing.assert_allclose(found_dw, dw, atol=1e-10)


def test_steps_leave_nothing_to_slow_kernels_and_artefacts_keep_the_convolution(converted: bytes) -> None:
    model = rewritten(converted)
    assert KINDS.DEPTHWISE_CONV_2D not in graph_of(tree_of(model), "train")[1]
    assert graph_of(tree_of(model), "infer")[1].count(KINDS.DEPTHWISE_CONV_2D) == 3


def test_what_is_computed_again_is_not_held_and_is_the_same(converted: bytes) -> None:
    model = rewritten(converted)
    (before, kinds), (after, kinds_after) = (
        graph_of(tree_of(converted), "train"),
        graph_of(tree_of(model), "train"),
    )
    again = [one.name for one in after.tensors if one.name.endswith(b"_again")]
    assert again
    most = held(before.operators, numbers_of(before, kinds))
    assert held(after.operators, numbers_of(after, kinds_after)) < 0.8 * most
    # What nothing changes has no way back.
    assert not any(one.name.endswith(b"_again") for one in graph_of(tree_of(model), "infer")[0].tensors)
    rng = np.random.default_rng(3)
    weights = {
        one.name: (rng.normal(0, 0.3, one.shape) + one.initial_mean).astype(np.float32)
        for one in TASK.model.parameters
    }
    x = rng.integers(0, 256, (6, 12, 12, 4)).astype(np.float32)
    y = rng.integers(0, 3, 6).astype(np.int32)
    ends = []
    for content in (converted, model):
        interpreter = Interpreter(model_content=content, num_threads=1)
        interpreter.get_signature_runner("set_weights")(**weights)
        train = interpreter.get_signature_runner("train")
        losses = [train(x=x, y=y, lr=np.array([0.1], np.float32))["loss_sum"] for _ in range(3)]
        ends.append((losses, interpreter.get_signature_runner("get_weights")()))
    np.testing.assert_allclose(ends[0][0], ends[1][0], rtol=1e-5)
    for name, wanted in ends[0][1].items():
        np.testing.assert_allclose(ends[1][1][name], wanted, rtol=1e-4, atol=1e-6)


def test_what_is_computed_again_is_of_weights_before_they_change(converted: bytes) -> None:
    graph, kinds = graph_of(tree_of(rewritten(converted)), "train")
    names: dict[int, bytes] = {}
    read: dict[int, bytes] = {}
    changed: set[bytes] = set()
    made = {place for one in graph.operators for place in one.outputs}
    ready: set[int] = set()
    for operator, kind in zip(graph.operators, kinds, strict=True):
        assert ready.issuperset(place for place in operator.inputs if place in made)
        assert not changed & {read[place] for place in operator.inputs if place in read}
        ready.update(operator.outputs)
        if kind == KINDS.VAR_HANDLE:
            names[operator.outputs[0]] = operator.builtinOptions.sharedName
        elif kind == KINDS.READ_VARIABLE:
            read[operator.outputs[0]] = names[operator.inputs[0]]
        elif kind == KINDS.ASSIGN_VARIABLE:
            changed.add(names[operator.inputs[0]])
    assert changed == set(names.values())
