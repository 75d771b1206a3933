"""What is changed in a converted model, and that what is cut, laid out and moved is what a kernel meets."""

from __future__ import annotations

import tracemalloc

import flatbuffers
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from shoal_coordinator.authoring import Conv2D, Dense, Flatten, Input, MaxPool, Task, conv_products, rereading
from shoal_coordinator.authoring.convert import convert
from shoal_coordinator.authoring.graphs import TrainableGraph
from shoal_coordinator.authoring.rewriting import rewritten
from shoal_coordinator.authoring.scheduling import Order, held, orders
from shoal_coordinator.authoring.sizes import numbers_of
from shoal_coordinator.authoring.windows import Window, patches, shifted
from trainable_parts import graph_of, met_by_entries, tree_of

TASK = Task(
    name="small",
    input=Input((12, 12, 1), deviation=255),
    labels=("a", "b", "c"),
    layers=[Conv2D(4, 5, activation="relu"), MaxPool(2), Flatten(), Dense(8, activation="relu"), Dense(3)],
)


@pytest.fixture(scope="module")
def converted() -> bytes:
    graph = TrainableGraph(TASK)
    return convert(graph, graph.signatures)


def _kinds(model: bytes, signature: str) -> list[int]:
    return graph_of(tree_of(model), signature)[1]


def test_a_rewritten_model_trains_as_the_converted_one(converted: bytes) -> None:
    rng = np.random.default_rng(3)
    weights = {one.name: rng.normal(0, 0.3, one.shape).astype(np.float32) for one in TASK.model.parameters}
    x = rng.integers(0, 256, (6, 12, 12, 1)).astype(np.float32)
    y = rng.integers(0, 3, 6).astype(np.int32)
    after = []
    for model in (converted, rewritten(converted)):
        interpreter = Interpreter(model_content=model, num_threads=1)
        interpreter.get_signature_runner("set_weights")(**weights)
        train = interpreter.get_signature_runner("train")
        losses = [train(x=x, y=y, lr=np.array([0.1], np.float32))["loss_sum"] for _ in range(3)]
        after.append((losses, interpreter.get_signature_runner("get_weights")()))
    np.testing.assert_allclose(after[0][0], after[1][0], rtol=1e-5)
    for name, wanted in after[0][1].items():
        assert not np.allclose(wanted, weights[name])
        np.testing.assert_allclose(after[1][1][name], wanted, rtol=1e-4, atol=1e-6)


def test_products_with_weights_are_batched_ones_and_variables_have_no_first_values(converted: bytes) -> None:
    kinds = schema.BuiltinOperator
    model = rewritten(converted)
    assert kinds.FULLY_CONNECTED in _kinds(converted, "train")
    for signature in ("train", "evaluate", "infer"):
        left = set(_kinds(model, signature))
        assert not left & {kinds.FULLY_CONNECTED, kinds.CALL_ONCE}
    assert len(converted) - len(model) > 4 * TASK.model.parameters[2].size
    assert rewritten(model) == model


def test_what_only_the_input_decides_comes_first(converted: bytes) -> None:
    kinds = schema.BuiltinOperator
    first = _kinds(rewritten(converted), "train")
    assert first[0] in {kinds.SHAPE, kinds.ONE_HOT}
    assert first.index(kinds.ONE_HOT) < first.index(kinds.READ_VARIABLE)


def test_constant_weights_stay_with_the_kernels_for_them() -> None:
    module = tf.Module()
    kernel = tf.constant(np.ones((4, 3), np.float32))
    called = tf.function(
        lambda x: {"y": tf.matmul(x, kernel)}, input_signature=[tf.TensorSpec((None, 4), name="x")]
    )
    model = convert(module, {"called": called.get_concrete_function()})
    assert schema.BuiltinOperator.FULLY_CONNECTED in _kinds(rewritten(model), "called")


def test_a_graph_that_others_follow_keeps_its_place(converted: bytes) -> None:
    tree = tree_of(converted)
    firsts = tree.subgraphs.pop()
    tree.subgraphs.insert(0, firsts)
    for one in tree.signatureDefs:
        one.subgraphIndex += 1
    for graph in tree.subgraphs:
        for operator in graph.operators:
            if isinstance(operator.builtinOptions, schema.CallOnceOptionsT):
                operator.builtinOptions.initSubgraphIndex = 0
    builder = flatbuffers.Builder(1024)
    builder.Finish(tree.Pack(builder), b"TFL3")
    model = rewritten(bytes(builder.Output()))
    assert _kinds(model, "train") == _kinds(rewritten(converted), "train")


@pytest.mark.parametrize("size", [(1, 1), (3, 3), (5, 5), (1, 9), (4, 2), (7, 7)])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (1, 2), (3, 2)])
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_products_and_their_gradients_are_those_of_the_patches(
    size: tuple[int, int], stride: tuple[int, int], padding: str
) -> None:
    rng = np.random.default_rng(1)
    for sides in ((8, 9), (7, 12), (4, 5), (3, 3)):
        if padding == "valid" and (size[0] > sides[0] or size[1] > sides[1]):
            continue
        window = Window(size, stride, padding, sides)
        x = tf.constant(rng.normal(size=(2, *sides, 3)))
        w = tf.constant(rng.normal(size=(*size, 3, 4)))
        with tf.GradientTape() as tape:
            tape.watch([x, w])
            met = met_by_entries(x, window)
            y = tf.tensordot(tf.concat(met, -1), tf.reshape(w, (-1, 4)), 1)
        dy = tf.constant(rng.normal(size=y.shape))
        dx, dw = tape.gradient(y, [x, w], output_gradients=dy)
        np.testing.assert_allclose(conv_products.convolve(x, w, window), y, atol=1e-10)
        np.testing.assert_allclose(conv_products.of_input(dy, w, window), dx, atol=1e-10)
        np.testing.assert_allclose(conv_products.of_weights(x, dy, window), dw, atol=1e-10)
        for found, wanted in zip(shifted(x, window), met, strict=True):
            np.testing.assert_array_equal(found, wanted)


def test_a_kernel_of_one_entry_meets_the_image_itself() -> None:
    x = tf.constant(np.ones((2, 4, 5, 3)))
    assert patches(x, Window((1, 1), (1, 1), "same", (4, 5))) is x
    assert patches(x, Window((1, 1), (2, 1), "same", (4, 5))).shape == (2, 2, 5, 3)


@pytest.mark.parametrize("eager", [False, True])
def test_values_are_made_late_and_weights_are_read_before_they_change(
    converted: bytes, *, eager: bool
) -> None:
    kinds = schema.BuiltinOperator
    graph, kinds_of = graph_of(tree_of(converted), "train")
    kind_of = {one.opcodeIndex: kind for one, kind in zip(graph.operators, kinds_of, strict=True)}
    sizes = numbers_of(graph, kinds_of)
    late = Order(graph, kinds_of, sizes).operators(eager=eager)
    assert len({id(one) for one in late}) == len(late)
    made = {place for one in graph.operators for place in one.outputs}
    ready: set[int] = set()
    names: dict[int, bytes] = {}
    read: dict[int, bytes] = {}
    changed: set[bytes] = set()
    for operator in late:
        assert ready.issuperset(place for place in operator.inputs if place in made)
        assert not changed & {read[place] for place in operator.inputs if place in read}
        ready.update(operator.outputs)
        kind = kind_of[operator.opcodeIndex]
        if kind == kinds.VAR_HANDLE:
            names[operator.outputs[0]] = operator.builtinOptions.sharedName
        if kind == kinds.READ_VARIABLE:
            read[operator.outputs[0]] = names[operator.inputs[0]]
        if kind == kinds.ASSIGN_VARIABLE:
            changed.add(names[operator.inputs[0]])
    assert changed == set(names.values())
    assert any([id(one) for one in found] == [id(one) for one in late] for found in orders(graph, kinds_of))


def test_the_order_of_a_long_sequences_step_is_found_in_little_memory() -> None:
    long = 4000
    graph = schema.SubGraphT()
    graph.outputs = [long]
    graph.tensors = [schema.TensorT() for _ in range(long + 1)]
    for one in graph.tensors:
        one.shape = [8]
    graph.operators = [schema.OperatorT() for _ in range(long)]
    for number, one in enumerate(graph.operators):
        one.inputs, one.outputs = [number], [number + 1]
    kinds = [schema.BuiltinOperator.RELU] * long
    tracemalloc.start()
    try:
        found = Order(graph, kinds, numbers_of(graph, kinds)).operators()
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [one.inputs[0] for one in found] == list(range(long))
    assert most < 32 << 20


def test_the_order_that_holds_least_is_taken(converted: bytes) -> None:
    graph, kinds = graph_of(tree_of(converted), "train")
    most = [held(one, numbers_of(graph, kinds)) for one in orders(graph, kinds)]
    after, kinds = graph_of(tree_of(rewritten(converted)), "train")
    assert held(after.operators, numbers_of(after, kinds)) <= min(most) < most[0]


def test_large_weights_are_read_for_each_way(converted: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = schema.BuiltinOperator.READ_VARIABLE
    once = _kinds(rewritten(converted), "train").count(reads)
    monkeypatch.setattr(rereading, "_LARGE", 1)
    monkeypatch.setattr(rereading, "_FAR", 2)
    assert _kinds(rewritten(converted), "train").count(reads) > once
