"""From a description to a task: everything checked in LiteRT, and what cannot be is refused by its layer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from typer.testing import CliRunner

from shoal_codecs.wire.task import TaskBundle, decode_task, encode_task
from shoal_coordinator.authoring import (
    GRU,
    Activation,
    Adam,
    BatchNorm,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Flatten,
    GlobalAveragePool,
    Input,
    Layer,
    MaxPool,
    MeanSquaredError,
    Momentum,
    Run,
    Task,
    freeze,
)
from shoal_coordinator.authoring import graphs as trainable_graphs
from shoal_coordinator.authoring.author import author
from shoal_coordinator.authoring.errors import ConversionError, DescriptionError, GradientMismatchError
from shoal_coordinator.authoring.training import gradients_of
from shoal_coordinator.cli.commands import app
from shoal_coordinator.config import shipped
from shoal_edge.trainers.litert import LiteRtTrainer

# A converter takes its time on a busy machine.
pytestmark = pytest.mark.timeout(400)
LABELS = ("a", "b", "c")
IMAGE = Input((8, 8, 1), mean=20, deviation=60)
WAVE = Input((12, 2), dtype="float32", minimum=-3, maximum=3)
RNG = np.random.default_rng(1)
BACKBONE = [Conv2D(3, activation="relu"), MaxPool()]
WEIGHTS = {"conv1_w": RNG.normal(size=(3, 3, 1, 3)), "conv1_b": RNG.normal(size=3)}
TASKS = {
    "cnn": Task(
        "cnn",
        IMAGE,
        [Conv2D(3, activation="relu"), MaxPool(), DepthwiseConv2D(stride=2), Flatten(), Dense(3)],
        LABELS,
        optimiser=Momentum(),
        prox=True,
        correction=True,
        private=True,
    ),
    "statistics": Task(
        "statistics",
        IMAGE,
        [Conv2D(4), BatchNorm(), Activation("relu6"), GlobalAveragePool(), Dense(3)],
        LABELS,
        optimiser=Adam(),
        local=("batch_norm1",),
        widths=(0.5,),
    ),
    "head": Task(
        "head", IMAGE, [*freeze(BACKBONE, (8, 8, 1), WEIGHTS), Flatten(), Dense(3)], LABELS, private=True
    ),
    "values": Task(
        "values",
        WAVE,
        [Conv1D(4, 5, stride=2, activation="tanh"), GlobalAveragePool(), Dense(2)],
        loss=MeanSquaredError(),
        private=True,
    ),
    "dropped": Task("dropped", WAVE, [GRU(4), Dropout(0.3), Dense(3)], LABELS, optimiser=Momentum()),
}


@pytest.fixture(scope="module", params=TASKS)
def bundle(request: pytest.FixtureRequest) -> TaskBundle:
    return author(TASKS[request.param])


def test_what_is_authored_passes_a_devices_own_test_and_survives_as_bytes(bundle: TaskBundle) -> None:
    LiteRtTrainer(bundle).self_test()
    again = decode_task(encode_task(bundle))
    assert again == bundle
    task = TASKS[bundle.name]
    assert bundle.abilities == task.abilities
    assert bundle.local == task.local_parameters
    for variant in bundle.variants:
        LiteRtTrainer(bundle.variant(variant.share)).self_test()


def test_signatures_are_those_of_the_task_and_every_input_has_an_axis(bundle: TaskBundle) -> None:
    found = Interpreter(model_content=bundle.trainable).get_signature_list()
    names = [one.name for one in bundle.parameters]
    assert sorted(found["set_weights"]["inputs"]) == sorted(found["get_weights"]["outputs"]) == sorted(names)
    wanted = {"train", "evaluate", "infer", "get_weights", "set_weights"}
    wanted |= {"set_correction", "train_pulled"} if "correction" in bundle.abilities else set()
    wanted |= {"train_private"} if bundle.private else set()
    wanted |= {"gradients"} if bundle.name == "statistics" else set()
    assert set(found) == wanted
    seed = {"seed"} & set(bundle.abilities)
    assert set(found["train"]["inputs"]) == {"x", "y", "lr"} | seed
    if "train_pulled" in wanted:
        pulls = {"mu", "seed"} & set(bundle.abilities)
        assert set(found["train_pulled"]["inputs"]) == {"x", "y", "lr"} | pulls
    details = Interpreter(model_content=bundle.trainable)
    for signature in found:
        for one in details.get_signature_runner(signature).get_input_details().values():
            assert len(one["shape"]) >= 1


def test_architectures_are_told_but_for_frozen_layers(bundle: TaskBundle) -> None:
    if bundle.name == "head":
        assert bundle.architecture is None
        return
    assert bundle.architecture is not None
    task = TASKS[bundle.name]
    assert [one.name for one in bundle.architecture.layers] == [one.name for one in task.model.placed]
    assert bundle.architecture.optimiser.kind == task.optimiser.KIND
    assert bundle.architecture.mean == task.input.mean


@dataclass(frozen=True)
class RawRelu(Layer):
    """TensorFlow's own operation, whose gradient does not convert."""

    KIND = "raw"

    def build(self, shape: tuple[int, ...]) -> Any:
        return Activation("relu").build(shape)

    def forward(self, run: Run, p: Any, x: Any) -> Any:
        del run, p
        return tf.nn.relu(x)


@dataclass(frozen=True)
class WrongRelu(RawRelu):
    """A gradient of its own that converts and is wrong."""

    KIND = "wrong"

    def forward(self, run: Run, p: Any, x: Any) -> Any:
        relu: Any = tf.custom_gradient(lambda x: (tf.nn.relu(x), lambda dy: dy))
        return super().forward(run, p, x) if x.dtype == tf.float64 else relu(x)


def test_a_layer_that_does_not_convert_is_named_with_its_operator() -> None:
    task = Task("raw", Input((4,)), [Dense(3), RawRelu(), Dense(3)], LABELS)
    with pytest.raises(ConversionError, match=r"layer raw1 \(RawRelu\).*ReluGrad.*run.ops"):
        author(task)


def test_a_layer_with_a_wrong_gradient_is_named() -> None:
    task = Task("wrong", Input((4,)), [Dense(3), WrongRelu(), Dense(3)], LABELS)
    with pytest.raises(GradientMismatchError, match=r"layer wrong1 \(WrongRelu\).*dense1"):
        author(task)


def test_private_gradients_that_are_not_clipped_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(*inputs: Any) -> Any:
        losses, gradients = gradients_of(*inputs[:-1])
        return losses, {name: one * 8.0 for name, one in gradients.items()}

    monkeypatch.setattr(trainable_graphs, "private_gradients", unclipped)
    task = Task("open", Input((4,)), [Dense(3)], LABELS, private=True)
    with pytest.raises(GradientMismatchError, match="private gradient"):
        author(task)


def test_examples_of_another_shape_are_refused() -> None:
    examples = (np.zeros((2, 5), np.uint8), np.zeros(2, np.int32))
    with pytest.raises(DescriptionError, match="the task takes"):
        author(Task("x", Input((4,)), [Dense(3)], LABELS, examples=examples))


def test_the_command_authors_a_shipped_task_to_the_same_model(tmp_path: Path) -> None:
    path = shipped("digits.task")
    output = tmp_path / "again.task"
    done = CliRunner().invoke(app, ["author", str(path.with_suffix(".py")), "--output", str(output)])
    assert done.exit_code == 0, done.output
    assert "9,610 parameters" in done.output
    mine, theirs = decode_task(output.read_bytes()), decode_task(path.read_bytes())
    assert mine.trainable == theirs.trainable
    assert mine.reference.loss_sum == pytest.approx(theirs.reference.loss_sum)
    assert mine.parameters == theirs.parameters
    assert [one.name for one in tmp_path.iterdir()] == ["again.task"]
