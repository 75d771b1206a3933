"""Large dense layers as blocks of rows: they train, are set, told and deployed as whole ones."""

from __future__ import annotations

from dataclasses import dataclass

import flatbuffers
import msgspec
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.wire.task import Parameter, TaskBundle, split_weights
from shoal_coordinator.artefact_errors import UnsupportedGraphError
from shoal_coordinator.artefacts import make_artefacts
from shoal_coordinator.authoring import Adam, Dense, Input, Momentum, Task
from shoal_coordinator.authoring.author import author
from shoal_coordinator.authoring.joining import joined
from shoal_coordinator.authoring.layer import Run, Tensor, Tensors
from shoal_coordinator.authoring.rows import Rows, cells_of, parameter_of
from shoal_coordinator.deployable.extract import inference_of
from shoal_coordinator.deployable.templates import make_templates
from shoal_edge.trainers.inference import InferenceModel
from shoal_edge.trainers.litert import LiteRtTrainer
from trainable_parts import graph_of, tree_of

pytestmark = pytest.mark.timeout(400)
KINDS = schema.BuiltinOperator
FEATURES, UNITS, BLOCKS = 700, 450, 3
INPUT = Input((FEATURES,), dtype="float32", minimum=-1, maximum=1)
LAYERS = [Dense(UNITS, activation="relu"), Dense(3)]
LABELS = ("a", "b", "c")


@pytest.fixture(scope="module")
def bundle() -> TaskBundle:
    # Authoring compares every signature with float64: steps, pulls, corrections, each example's gradient.
    pulls = {"prox": True, "correction": True, "private": True}
    return author(Task("wide", INPUT, LAYERS, LABELS, optimiser=Momentum(), **pulls))  # type: ignore[arg-type]


def test_a_layers_weights_are_read_for_each_way_and_written_block_by_block(bundle: TaskBundle) -> None:
    graph, kinds = graph_of(tree_of(bundle.trainable), "train")
    names = {
        one.outputs[0]: one.builtinOptions.sharedName.decode()
        for one, kind in zip(graph.operators, kinds, strict=True)
        if kind == KINDS.VAR_HANDLE
    }
    read: dict[str, int] = {}
    written: list[str] = []
    for one, kind in zip(graph.operators, kinds, strict=True):
        if kind not in {KINDS.READ_VARIABLE, KINDS.ASSIGN_VARIABLE}:
            continue
        name = names[one.inputs[0]]
        if kind == KINDS.READ_VARIABLE:
            assert name not in written
            read[name] = read.get(name, 0) + 1
        else:
            written.append(name)
    blocks = [name for name in read if name.startswith("dense1_w")]
    assert len(blocks) == BLOCKS
    assert len(written) == len(set(written)) == 2 * (BLOCKS + 3)
    whole = UNITS * FEATURES
    assert all(int(np.prod(one.shape)) < whole / 2 for one in graph.tensors if one.shape is not None)


def test_weights_are_set_and_told_whole(bundle: TaskBundle) -> None:
    trainer = LiteRtTrainer(bundle)
    trainer.self_test()
    vector = np.random.default_rng(2).normal(size=trainer.dimension).astype(np.float32)
    trainer.set_weights(vector)
    np.testing.assert_array_equal(trainer.get_weights(), vector)


def test_artefacts_take_the_parameter_whole(bundle: TaskBundle) -> None:
    inference = inference_of(bundle)
    assert not any(one.kind == "CONCATENATION" for one in inference.graph.operators)
    vector = np.random.default_rng(2).normal(0, 0.1, bundle.dimension).astype(np.float32)
    x = bundle.reference.x.numpy()
    made = make_artefacts(make_templates(bundle), vector, x)
    p = {name: one.astype(np.float64) for name, one in split_weights(vector, bundle.parameters).items()}
    hidden = np.maximum(x.astype(np.float64) @ p["dense1_w"] + p["dense1_b"], 0)
    logits = hidden @ p["dense2_w"] + p["dense2_b"]
    wanted = np.exp(logits - logits.max(1, keepdims=True))
    wanted /= wanted.sum(1, keepdims=True)
    np.testing.assert_allclose(InferenceModel(made.float32).predict(x).answers, wanted, atol=1e-5)
    np.testing.assert_allclose(InferenceModel(made.int8).predict(x).answers, wanted, atol=0.1)


def test_blocks_in_another_order_or_by_themselves_are_refused(bundle: TaskBundle) -> None:
    for change in (_swap, _leave_one_out):
        tree = tree_of(bundle.trainable)
        graph, kinds = graph_of(tree, "infer")
        (joining,) = (
            one for one, kind in zip(graph.operators, kinds, strict=True) if kind == KINDS.CONCATENATION
        )
        joining.inputs = change(list(joining.inputs))
        builder = flatbuffers.Builder(1024)
        builder.Finish(tree.Pack(builder), b"TFL3")
        changed = msgspec.structs.replace(bundle, trainable=bytes(builder.Output()))
        with pytest.raises(UnsupportedGraphError, match="blocks of dense1_w"):
            inference_of(changed)


def _swap(places: list[int]) -> list[int]:
    return [places[1], places[0], *places[2:]]


def _leave_one_out(places: list[int]) -> list[int]:
    return places[:-1]


def test_gradients_are_told_whole_where_the_optimiser_takes_another_way() -> None:
    told = author(Task("adam", INPUT, LAYERS, LABELS, optimiser=Adam()))
    LiteRtTrainer(told).self_test()
    graph, _ = graph_of(tree_of(told.trainable), "gradients")
    shapes = {tuple(graph.tensors[place].shape) for place in graph.outputs}
    assert (FEATURES, UNITS) in shapes


@given(
    sides=st.tuples(st.integers(1, 5000), st.integers(1, 600))
    | st.tuples(st.integers(1, 40), st.integers(1, 1 << 20))
)
def test_cells_cover_every_row_once_and_are_about_as_large(sides: tuple[int, int]) -> None:
    rows, units = sides
    parameter = Parameter("w", (rows, units), 1.0)
    cells = cells_of(parameter, by_rows=True)
    edges = [0, *(one.end for one in cells)]
    assert [one.start for one in cells] == edges[:-1]
    assert edges[-1] == rows
    lengths = [one.shape[0] for one in cells]
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1
    assert len(cells) == 1 or max(one.shape[0] * units for one in cells) <= (1 << 17) + units
    assert len(cells_of(parameter, by_rows=False)) == 1


def test_rows_cut_an_input_as_they_are_cut() -> None:
    x = np.arange(12.0).reshape(2, 6)
    rows = Rows((np.zeros((1, 3)), np.zeros((3, 3)), np.zeros((2, 3))))
    found = rows.along(x)
    assert [one.shape[1] for one in found] == [1, 3, 2]
    np.testing.assert_array_equal(np.concatenate(found, axis=1), x)


def test_a_parameter_that_is_not_there_is_no_empty_matrix() -> None:
    with pytest.raises(KeyError, match="w"):
        parameter_of({"v": np.zeros((1, 3))}, "w")


@dataclass(frozen=True)
class Doubled(Dense):
    """A layer of one's own, which knows nothing of blocks."""

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """``x 2 w + b``."""
        return run.ops.add_channels(run.ops.matmul(x, run.ops.affine(p["w"], 2.0, 0.0)), p["b"])


def test_a_large_layer_that_inherits_dense_and_computes_otherwise_gets_whole_weights() -> None:
    made = author(Task("own", INPUT, [Doubled(UNITS), Dense(3)], LABELS))
    LiteRtTrainer(made).self_test()


@pytest.mark.parametrize("count", [1, 2, 4, 5, 13, 36])
def test_parts_are_joined_in_their_order_a_few_at_a_time(count: int) -> None:
    parts = [tf.constant([[float(number)]]) for number in range(count)]

    whole = tf.function(lambda: joined(parts, axis=1))
    np.testing.assert_array_equal(whole().numpy()[0], np.arange(count))
    operators = whole.get_concrete_function().graph.get_operations()
    inputs = [len(one.inputs) - 1 for one in operators if one.type == "ConcatV2"]
    assert max(inputs, default=0) <= 4
