"""Descriptions of models, which need no TensorFlow: names, shapes, narrower models, refusals by name."""

from __future__ import annotations

import contextlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from shoal_codecs.wire.task import Parameter, decode_task
from shoal_coordinator.authoring import (
    GRU,
    Activation,
    Adam,
    BatchNorm,
    Built,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Frozen,
    GlobalAveragePool,
    Input,
    Layer,
    MaxPool,
    MeanSquaredError,
    Task,
    freeze,
)
from shoal_coordinator.authoring.errors import (
    AuthoringError,
    DescriptionError,
    LayerSettingError,
    LayerShapeError,
    MissingAuthoringExtraError,
    ModelFileError,
    UnsupportedLayerError,
)
from shoal_coordinator.authoring.files import _quiet_libraries, load_description
from shoal_coordinator.authoring.layer import Run, Tensor, Tensors
from shoal_coordinator.authoring.model import build_model
from shoal_coordinator.cli.commands import app
from shoal_coordinator.config import shipped

LABELS = ("a", "b", "c")
IMAGE = Input((8, 8, 1), deviation=255)


def described(**changes: Any) -> Task:
    settings: dict[str, Any] = {
        "name": "small",
        "input": IMAGE,
        "layers": [Conv2D(4, activation="relu"), GlobalAveragePool(), Dense(3)],
        "labels": LABELS,
    }
    return Task(**{**settings, **changes})


def test_layers_are_numbered_by_kind_and_begin_their_parameters_names() -> None:
    layers = [Conv2D(4, activation="relu"), MaxPool(), Conv2D(5, name="deep"), Flatten(), Dense(3)]
    model = build_model(layers, (8, 8, 1))
    names = [one.name for one in model.placed]
    assert names == ["conv1", "activation1", "max_pool1", "deep", "flatten1", "dense1"]
    assert {one.name: one.shape for one in model.parameters} == {
        "conv1_w": (3, 3, 1, 4),
        "conv1_b": (4,),
        "deep_w": (3, 3, 4, 5),
        "deep_b": (5,),
        "dense1_w": (80, 3),
        "dense1_b": (3,),
    }
    assert model.output == (3,)


def test_abilities_are_what_was_asked_for_and_what_layers_need() -> None:
    assert described().abilities == ()
    layers = [Conv2D(4), GlobalAveragePool(), Dropout(0.5), Dense(3)]
    task = described(prox=True, correction=True, layers=layers)
    assert task.abilities == ("mu", "seed", "correction")


def test_local_names_layers_or_parameters() -> None:
    task = described(local=("dense1", "conv1_b"))
    assert task.local_parameters == ("dense1_w", "dense1_b", "conv1_b")


@given(share=st.floats(0.05, 0.95), width=st.integers(1, 40))
def test_a_narrower_model_is_a_prefix_of_the_full_one(share: float, width: int) -> None:
    layers = [Conv2D(width, activation="relu"), BatchNorm(), GlobalAveragePool(), Dense(width), Dense(3)]
    task = described(layers=layers, widths=(share,))
    narrow, full = task.narrow(share).model.parameters, task.model.parameters
    assert [one.name for one in narrow] == [one.name for one in full]
    for mine, whole in zip(narrow, full, strict=True):
        assert len(mine.shape) == len(whole.shape)
        assert all(side <= limit for side, limit in zip(mine.shape, whole.shape, strict=True))
    assert narrow[-1].shape == (3,)
    assert narrow[0].shape[-1] == max(1, int(np.ceil(width * share - 1e-9)))


def test_an_activation_at_the_end_does_not_narrow_the_output() -> None:
    layers = [Dense(8, activation="relu"), Dense(3), Activation("tanh")]
    values = described(input=Input((5,)), layers=layers, labels=(), loss=MeanSquaredError(), widths=(0.5,))
    assert values.narrow(0.5).model.output == (3,)


@dataclass(frozen=True)
class Odd(Layer):
    """A layer of somebody else, without a gradient for each example."""

    KIND = "odd"

    def build(self, shape: tuple[int, ...]) -> Built:
        return Built(shape, (Parameter("w", shape),))


UNFED: Any = "int8"
UNKNOWN: Any = "elu"
ODD: Any = 8
HALF: Any = 2.5
WORD: Any = "much"
REFUSED: dict[str, tuple[type[AuthoringError], str, dict[str, Any]]] = {
    "a name for no topic": (DescriptionError, "use a-z", {"name": "My task"}),
    "a side of zero": (DescriptionError, "sides", {"input": Input((0, 8, 1))}),
    "a type that is not fed": (DescriptionError, "uint8", {"input": Input((8, 8, 1), dtype=UNFED)}),
    "an empty range": (DescriptionError, "minimum under", {"input": Input((8, 8, 1), maximum=0)}),
    "no deviation": (DescriptionError, "positive deviation", {"input": Input((8, 8, 1), deviation=0)}),
    "a mean of NaN": (DescriptionError, "positive deviation", {"input": Input((8, 8, 1), mean=float("nan"))}),
    "scaled tokens": (
        DescriptionError,
        "not scaled",
        {"input": Input((8,), dtype="int32", deviation=2), "layers": [Embedding(256, 4)]},
    ),
    "a shape that is a number": (DescriptionError, r"Input\(\(8,\)\)", {"input": Input(ODD)}),
    "a shape of fractions": (DescriptionError, "whole number", {"input": Input((HALF, ODD))}),
    "a shape without Input": (DescriptionError, r"input is \(8,\).*Input", {"input": (8,)}),
    "a range in words": (DescriptionError, "maximum is 'much'", {"input": Input((8, 8, 1), maximum=WORD)}),
    "a number of labels": (DescriptionError, "labels is 3: write", {"labels": 3}),
    "labels without names": (DescriptionError, "in quotes", {"labels": (0, 1, 2)}),
    "one layer": (DescriptionError, r"layers is Dense.*Flatten\(\), Dense", {"layers": Dense(3)}),
    "the name of an optimiser": (DescriptionError, r"optimiser=Sgd\(\)", {"optimiser": "sgd"}),
    "the name of a loss": (DescriptionError, r"loss=CrossEntropy\(\)", {"loss": "mse"}),
    "a width alone": (DescriptionError, r"widths=\(0.5", {"widths": 0.5}),
    "units in words": (
        LayerSettingError,
        r"dense1: Dense\(units='much', activation=''\) .*TypeError.*of its kind",
        {"layers": [Flatten(), Dense(WORD)]},
    ),
    "a kernel in words": (
        LayerSettingError,
        r"conv1: Conv2D\(filters=2, kernel='much'",
        {"layers": [Conv2D(2, WORD)]},
    ),
    "half a unit": (
        LayerSettingError,
        r"dense1: .* gives \(2.5,\): sides are whole",
        {"layers": [Flatten(), Dense(HALF), Dense(3)]},
    ),
    "no layers": (DescriptionError, "no layer has a parameter", {"layers": []}),
    "no parameters": (DescriptionError, "no layer has a parameter", {"layers": [Flatten()]}),
    "something that is no layer": (UnsupportedLayerError, "layer 1 is a str", {"layers": ["dense"]}),
    "one name twice": (DescriptionError, "twice", {"layers": [Conv2D(2, name="a"), Conv2D(2, name="a")]}),
    "a name that is none": (DescriptionError, "letter", {"layers": [Conv2D(2, name="a b")]}),
    "a name of other letters": (DescriptionError, "letter", {"layers": [Conv2D(2, name="größe")]}),
    "a name that begins otherwise": (DescriptionError, "letter", {"layers": [Conv2D(2, name="_a")]}),
    "an image into a dense layer": (LayerShapeError, r"dense1 \(Dense\).*Flatten", {"layers": [Dense(3)]}),
    "no units": (LayerSettingError, "at least 1", {"layers": [Flatten(), Dense(0)]}),
    "an activation that is none": (
        LayerSettingError,
        "relu, relu6",
        {"layers": [Conv2D(2, activation=UNKNOWN)]},
    ),
    "another number of labels": (DescriptionError, r"end with Dense\(2\)", {"labels": ("a", "b")}),
    "labels for values": (DescriptionError, "leave labels away", {"loss": MeanSquaredError()}),
    "a local layer that is not there": (DescriptionError, "conv1, dense1", {"local": ("conv2",)}),
    "a width of the whole": (DescriptionError, "between 0 and 1", {"widths": (1.0,)}),
    "widths through Flatten": (
        DescriptionError,
        "flatten1 mixes channels.*global pooling",
        {"layers": [Conv2D(4), Flatten(), Dense(3)], "widths": (0.5,)},
    ),
    "DP-SGD with Adam": (DescriptionError, "not with Adam", {"private": True, "optimiser": Adam()}),
    "DP-SGD with running statistics": (
        UnsupportedLayerError,
        r"batch_norm1 \(BatchNorm\).*LayerNorm",
        {"private": True, "layers": [BatchNorm(), Flatten(), Dense(3)]},
    ),
    "DP-SGD with a layer that cannot": (
        UnsupportedLayerError,
        r"odd1 \(Odd\).*freeze it",
        {"private": True, "layers": [Odd(), Flatten(), Dense(3)]},
    ),
    "tokens into a layer of numbers": (
        UnsupportedLayerError,
        r"dense1 \(Dense\).*Embedding",
        {"input": Input((8,), dtype="int32"), "layers": [Dense(3)]},
    ),
    "an embedding of numbers": (
        UnsupportedLayerError,
        r"embedding1 \(Embedding\).*first",
        {"input": Input((8,)), "layers": [Embedding(256, 4), GRU(3)]},
    ),
}


def test_numbers_may_come_of_an_author_s_data() -> None:
    x = np.linspace(-3, 4, 80, dtype=np.float32).reshape(10, 8)
    about = Input((8,), "float32", minimum=x.min(), maximum=x.max(), mean=x.mean(), deviation=x.std())
    made = described(input=about, layers=[Dense(4), Dense(3)], widths=tuple(np.array([0.5], np.float32)))
    assert made.input.description.maximum == 4
    most = np.array([5, 9], np.uint8).max()
    assert described(input=Input((8,), maximum=most), layers=[Dense(3)]).input.description.maximum == 9


@pytest.mark.parametrize("case", REFUSED)
def test_a_description_that_cannot_be_is_refused_with_what_to_do(case: str) -> None:
    error, text, changes = REFUSED[case]
    with pytest.raises(error, match=text):
        described(**changes)


def test_frozen_layers_have_no_parameters_and_want_their_weights() -> None:
    backbone = [Conv2D(4, activation="relu"), MaxPool()]
    weights = {"conv1_w": np.zeros((3, 3, 1, 4)), "conv1_b": np.zeros(4)}
    task = described(layers=[*freeze(backbone, (8, 8, 1), weights), Flatten(), Dense(3)], private=True)
    assert [one.name for one in task.model.parameters] == ["dense1_w", "dense1_b"]
    assert [one.name for one in task.model.placed][:2] == ["conv1", "activation1"]
    with pytest.raises(LayerSettingError, match="weights lack conv1_b"):
        freeze(backbone, (8, 8, 1), {"conv1_w": weights["conv1_w"]})
    with pytest.raises(LayerSettingError, match="give those"):
        described(layers=[Frozen(Conv2D(5), {"w": weights["conv1_w"], "b": weights["conv1_b"]}), Dense(3)])


def written(folder: Path, text: str) -> Path:
    path = folder / "model.py"
    path.write_text(text)
    return path


KIT = "from shoal_coordinator.authoring import Dense, Input, Task\n"
GOOD = KIT + "task = Task('x', Input((4,)), [Dense(2)], labels=('a', 'b'))\n"
FAULTY: dict[str, tuple[str, type[AuthoringError], str]] = {
    "no task": (KIT, ModelFileError, "defines no task"),
    "another thing": (KIT + "task = 3\n", ModelFileError, "defines no task"),
    "no Python": ("this is no Python", ModelFileError, "SyntaxError"),
    "a program that fails": ("1 / 0", ModelFileError, "ZeroDivisionError"),
    "a program that ends": ("raise SystemExit(3)", ModelFileError, "SystemExit"),
    "a library that is not there": ("import no_such_library", ModelFileError, "no_such_library"),
    "a description that cannot be": (GOOD.replace("Dense(2)", "Dense(3)"), DescriptionError, "labels"),
}


@pytest.mark.parametrize("case", FAULTY)
def test_a_model_file_that_gives_no_task_is_refused(case: str, tmp_path: Path) -> None:
    text, error, said = FAULTY[case]
    with pytest.raises(error, match=said):
        load_description(written(tmp_path, text))


def test_a_model_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="name a file"):
        load_description(tmp_path / "nothing.py")


@pytest.mark.parametrize("text", [GOOD, "import tensorflow.keras"])
def test_without_tensorflow_the_extra_is_named_and_nothing_written(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    output = tmp_path / "x.task"
    done = CliRunner().invoke(app, ["author", str(written(tmp_path, text)), "-o", str(output)])
    assert isinstance(done.exception, MissingAuthoringExtraError)
    assert "shoal[coordinator,authoring]" in str(done.exception)
    assert not output.exists()


@pytest.mark.parametrize(("name", "dimension"), [("digits", 9_610), ("mnist_2nn", 199_210)])
def test_shipped_tasks_are_what_their_descriptions_say(name: str, dimension: int) -> None:
    path = shipped(f"{name}.task")
    bundle, task = decode_task(path.read_bytes()), load_description(path.with_suffix(".py"))
    assert path.stat().st_size < 2_000_000
    assert bundle.dimension == dimension
    assert bundle.parameters == task.model.parameters
    assert (bundle.name, bundle.labels, bundle.input) == (task.name, task.labels, task.input.description)
    assert (bundle.defaults, bundle.abilities) == (task.defaults, task.abilities)
    assert (bundle.private is not None) == task.private


def test_what_libraries_print_is_shown_where_they_fail(capfd: pytest.CaptureFixture[str]) -> None:
    with _quiet_libraries():
        os.write(2, b"oneDNN is on")
    assert "oneDNN" not in capfd.readouterr().err
    with contextlib.suppress(ValueError), _quiet_libraries():
        os.write(2, b"F0000 check failed")
        raise ValueError
    os.write(2, b"afterwards")
    err = capfd.readouterr().err
    assert "F0000 check failed" in err
    assert "afterwards" in err


@dataclass(frozen=True)
class _Wider(Dense):
    """Computes as what it inherits."""

    def narrow(self, share: float) -> _Wider:
        """Keep all units."""
        del share
        return self


@dataclass(frozen=True)
class _Otherwise(Dense):
    """Computes otherwise."""

    def forward(self, run: Run, p: Tensors, x: Tensor) -> Tensor:
        """Add nothing."""
        return run.ops.matmul(x, p["w"])


def test_only_a_layer_that_computes_as_a_dense_one_is_given_blocks_of_rows() -> None:
    layers = [_Otherwise(2, name="other"), _Wider(2, name="wider"), Dense(2, name="plain")]
    assert build_model(layers, (3,)).by_rows == {"wider_w", "plain_w"}


@dataclass(frozen=True)
class _Named(Dense):
    """Has one parameter, of any name."""

    short: str = "w"

    def build(self, shape: tuple[int, ...]) -> Built:
        """Name the parameter."""
        return Built((self.units,), (Parameter(self.short, (shape[0], self.units)),))


@pytest.mark.parametrize("short", ["größe", "w:0", "b_w"])
def test_a_parameters_name_that_no_variable_can_have_or_another_has_is_refused(short: str) -> None:
    layers = [_Named(2, name="a", short=short), Dense(2, name="a_b")]
    with pytest.raises(DescriptionError, match=r"parameter name 'a_.* given twice"):
        build_model(layers, (3,))
