"""The graph work behind artefacts: simplified graphs answer as before, int8 ones nearly so."""

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st

from graph_parts import Net, dense, gated_net, image_net, options
from shoal_coordinator.artefact_errors import InvalidTemplateError, UnsupportedGraphError
from shoal_coordinator.deployable.extract import fold_constants, run
from shoal_coordinator.deployable.flatbuffer import Source, read_subgraph, write
from shoal_coordinator.deployable.graph import Graph, constant
from shoal_coordinator.deployable.precision import Precision, choose
from shoal_coordinator.deployable.quantise import quantise
from shoal_coordinator.deployable.simplify import fold_weights, simplify


@given(seed=st.integers(0, 1 << 32))
@settings(max_examples=15, deadline=None)
def test_scaling_batch_norm_and_bias_move_into_the_layers(seed: int) -> None:
    net = image_net(seed)
    x = net.rng.uniform(0, 4, net.example.shape).astype(np.float32)
    before = net.answer(x)
    simplify(net.inference)
    fold_weights(net.inference)
    assert net.kinds() == ["CONV_2D", "CONV_2D", "MEAN", "FULLY_CONNECTED", "SOFTMAX"]
    assert np.abs(net.answer(x) - before).max() < 1e-4


def test_a_layer_whose_answer_is_read_twice_keeps_what_follows_it() -> None:
    net = Net(1, 4)
    first = dense(net, net.example, 4, bias=False)
    added = net.add("ADD", [first, net.parameter(4)], 1, 4, said=options("Add"))
    net.add("ADD", [first, added], 1, 4, said=options("Add"))
    x = net.rng.normal(size=(1, 4)).astype(np.float32)
    before = net.answer(x)
    simplify(net.inference)
    assert net.kinds() == ["FULLY_CONNECTED", "ADD", "ADD"]
    assert np.abs(net.answer(x) - before).max() < 1e-5


def test_an_activation_between_keeps_a_factor_out_of_the_layer() -> None:
    net = Net(1, 4)
    made = dense(net, net.example, 4)
    clipped = net.add("RELU", [made], 1, 4)
    net.add("MUL", [clipped, net.parameter(4)], 1, 4, said=options("Mul"))
    x = net.rng.normal(size=(1, 4)).astype(np.float32)
    before = net.answer(x)
    simplify(net.inference)
    assert net.kinds() == ["FULLY_CONNECTED", "MUL"]
    assert np.abs(net.answer(x) - before).max() < 1e-5


def test_a_devices_own_tensors_stay_outside_of_shared_ones() -> None:
    net = image_net(0)
    own = [name for name, one in net.inference.parameters.items() if one.shape == (4,)]
    x = net.rng.uniform(0, 4, net.example.shape).astype(np.float32)
    before = net.answer(x)
    simplify(net.inference, own)
    assert net.kinds().count("MUL") == 2
    assert np.abs(net.answer(x) - before).max() < 1e-4


def test_equal_work_on_weights_is_done_once_and_constants_are_folded() -> None:
    net = Net(1, 4)
    weights = net.parameter(4, 4)
    order = np.array([1, 0], np.int32)
    made = net.example
    for _ in range(2):
        turned = net.add("TRANSPOSE", [weights, constant(order)], 4, 4)
        made = net.add("FULLY_CONNECTED", [made, turned, None], 1, 4, said=options("FullyConnected"))
    offset = net.add("NEG", [constant(np.ones(4, np.float32))], 4)
    net.add("ADD", [made, offset], 1, 4, said=options("Add"))
    x = net.rng.normal(size=(1, 4)).astype(np.float32)
    before = net.answer(x)
    fold_weights(net.inference)
    assert [one.kind for one in net.inference.graph.operators] == [
        "TRANSPOSE", "FULLY_CONNECTED", "FULLY_CONNECTED", "ADD",
    ]  # fmt: skip
    assert np.array_equal(net.answer(x), before)


def test_products_of_activations_stay_float_between_layers_with_int8_weights() -> None:
    net = gated_net()
    simplify(net.inference)
    graph, mine = net.inference.graph, net.inference.of_example()
    run_time = Graph([net.example], graph.outputs, [one for one in graph.operators if one.output in mine])
    found = choose(run_time, net.example, mine, set(), set(), wide_answer=True)
    by_kind = {(one.kind, precision) for one, precision in found.items()}
    assert ("MUL", Precision.FLOAT) in by_kind
    assert ("LOGISTIC", Precision.FLOAT) in by_kind
    assert ("FULLY_CONNECTED", Precision.HYBRID) in by_kind
    narrow, places, _ = quantise(run_time, net.example, mine, set(), wide_answer=True)
    # Two layers read the example as int8; every weight has its place.
    assert len(places.symmetric) == 3
    assert {one.kind for one in narrow.operators} >= {"FULLY_CONNECTED", "DEQUANTIZE", "LOGISTIC", "MUL"}


def test_scales_that_kernels_demand_are_never_one_scale_for_two() -> None:
    """Joining a tanh and a sigmoid cannot be int8: their scales are given."""
    net = Net(1, 4)
    one = net.add("TANH", [dense(net, net.example, 4)], 1, 4)
    two = net.add("LOGISTIC", [dense(net, net.example, 4)], 1, 4)
    joined = net.add("CONCATENATION", [one, two], 1, 8, said=options("Concatenation", axis=1))
    dense(net, joined, 3)
    simplify(net.inference)
    graph, mine = net.inference.graph, net.inference.of_example()
    run_time = Graph([net.example], graph.outputs, [each for each in graph.operators if each.output in mine])
    _, _, found = quantise(run_time, net.example, mine, set(), wide_answer=False)
    precisions = {each.kind: precision for each, precision in found.items()}
    assert precisions["CONCATENATION"] is Precision.FLOAT
    assert precisions["TANH"] is precisions["LOGISTIC"] is Precision.FLOAT


def test_a_graph_survives_the_way_through_bytes_aligned() -> None:
    net = image_net(1)
    graph = net.inference.graph
    entries = [net.example, *net.inference.parameters.values()]
    graph.outputs[0].name = "probabilities"
    data, order = write(Graph(entries, graph.outputs, graph.operators), "infer")
    again = read_subgraph(Source(data), 0)
    assert [one.kind for one in again.operators] == [one.kind for one in graph.operators]
    assert write(again, "infer")[0] == data
    model = schema.Model.GetRootAs(data, 0)
    start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
    filled = [model.Buffers(place).DataAsNumpy() for place in range(model.BuffersLength())]
    places = [one.__array_interface__["data"][0] - start for one in filled if not isinstance(one, int)]
    assert places
    assert all(place % 16 == 0 for place in places)
    assert len(order) == len(set(order.values()))


def test_damaged_models_and_loops_are_refused() -> None:
    with pytest.raises(InvalidTemplateError):
        Source(b"\xff\xff\x00\x00TFL3" + bytes(40))
    net = Net(1, 4)
    net.add("WHILE", [net.example], 1, 4, said=options("While"))
    graph = net.inference.graph
    graph.outputs[0].name = "values"
    data, _ = write(graph, "infer")
    with pytest.raises(UnsupportedGraphError, match="WHILE"):
        read_subgraph(Source(data), 0)
    with pytest.raises(UnsupportedGraphError):
        run(graph, [])


def test_what_no_answer_needs_is_dropped() -> None:
    net = Net(1, 4)
    net.add("NEG", [net.parameter(4)], 4)
    net.add("TANH", [net.example], 1, 4)
    fold_constants(net.inference)
    assert net.kinds() == ["TANH"]
    assert len(net.inference.graph.operators) == 1
