"""Every layer of the kit becomes part of a deployable model: float and int8 answer as ``infer`` does."""

from __future__ import annotations

import numpy as np
import pytest

from shoal_codecs.wire.task import ReferenceGradients, TaskBundle, TypedArray
from shoal_coordinator.artefacts import make_artefacts
from shoal_coordinator.authoring import (
    GRU,
    LSTM,
    Activation,
    AveragePool,
    BatchNorm,
    Conv1D,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePool,
    GlobalMaxPool,
    Input,
    Layer,
    LayerNorm,
    MaxPool,
    MeanSquaredError,
    Reshape,
    Task,
)
from shoal_coordinator.authoring.convert import convert
from shoal_coordinator.authoring.graphs import TrainableGraph
from shoal_coordinator.deployable.check import check_deployable, infer
from shoal_coordinator.deployable.templates import make_templates
from shoal_edge.trainers.inference import InferenceModel

IMAGE = Input((12, 12, 3), mean=127.5, deviation=127.5)
WAVE = Input((48, 2), "float32", -4.0, 4.0)
WORDS = Input((6,), "int32", 0, 19)
LABELS = ("a", "b", "c")
MANY = tuple(map(str, range(40)))


def task(name: str, about: Input, layers: list[Layer], **more: object) -> Task:
    return Task(name=name, input=about, layers=layers, **{"labels": LABELS, **more})  # type: ignore[arg-type]


TASKS = [
    task(
        "image",
        IMAGE,
        [
            Conv2D(4, 3, padding="valid"),
            BatchNorm(),
            Activation("relu"),
            MaxPool(2),
            DepthwiseConv2D(3, stride=2),
            BatchNorm(),
            Conv2D(6, 1, activation="relu"),
            AveragePool(2),
            Flatten(),
            Dropout(0.3),
            Dense(3),
        ],
    ),
    task("pooled", IMAGE, [Conv2D(4, 5, stride=2, activation="relu"), GlobalAveragePool(), Dense(3)]),
    task("wave", WAVE, [Conv1D(4, 5, stride=2), MaxPool(2), Conv1D(6, 3), GlobalMaxPool(), Dense(3)]),
    task(
        "forecast",
        WAVE,
        [Flatten(), LayerNorm(), Dense(8, activation="tanh"), Dense(4)],
        labels=(),
        loss=MeanSquaredError(),
    ),
    task("reshaped", WAVE, [Reshape((4, 24)), LayerNorm(), GRU(5), Dense(3)]),
    task("words", WORDS, [Embedding(20, 4), LSTM(5), Dense(3)]),
    task(
        "many",
        WORDS,
        [Embedding(20, 4), GlobalAveragePool(), Dense(40)],
        labels=tuple(map(chr, range(200, 240))),
    ),
]


def deployable_bundle(described: Task) -> TaskBundle:
    """Return a bundle with what deployment needs; training has tests of its own."""
    graph = TrainableGraph(described)
    wanted = {name: one for name, one in graph.signatures.items() if name in {"infer", "set_weights"}}
    about = described.input.description
    rng = np.random.default_rng(3)
    x = rng.uniform(about.minimum, about.maximum, (16, *about.shape)).astype(about.dtype)
    empty = TypedArray.of(np.zeros(0, np.int16))
    return TaskBundle(
        name=described.name,
        trainable=convert(graph, wanted),
        parameters=described.model.parameters,
        input=about,
        labels=described.labels,
        reference=ReferenceGradients(3, TypedArray.of(x), empty, empty, (), 0.0, 0),
        target=described.target,
    )


@pytest.mark.parametrize("described", TASKS, ids=lambda one: one.name)
def test_it_is_deployable(described: Task) -> None:
    bundle = deployable_bundle(described)
    templates = check_deployable(bundle)
    x = bundle.reference.x.numpy()
    weights = np.concatenate(
        [np.random.default_rng(7).normal(one.initial_mean, 0.3, one.size) for one in bundle.parameters]
    )
    # Variances are no less than zero.
    weights = np.abs(weights).astype(np.float32)
    made = make_artefacts(templates, weights, x)
    wanted = infer(bundle, weights, x)
    assert np.abs(InferenceModel(made.float32).predict(x).answers - wanted).max() < 1e-5 * max(
        1.0, float(np.abs(wanted).max())
    )
    distance = np.abs(InferenceModel(made.int8).predict(x).answers - wanted).max()
    assert distance < 0.15 * max(float(np.ptp(wanted)), 0.2)


def test_batch_norms_cost_an_inference_nothing_unless_devices_keep_them() -> None:
    bundle = deployable_bundle(TASKS[0])
    shared = make_templates(bundle)
    # Two scale the image; then five layers with weights or pools, a reshape, the last layer and softmax.
    assert shared.int8.operators == {"int8": 10, "int8 weights, float activations": 0, "float": 0}
    norms = [one.name for one in bundle.parameters if one.name.startswith("batch_norm")]
    kept = make_templates(bundle, norms)
    assert kept.int8.operators["int8 weights, float activations"] > 0
    own = {name: np.float32(2) * one for name, one in kept.own.items()}
    shared_part = np.random.default_rng(1).normal(0, 0.4, kept.part.dimension).astype(np.float32)
    weights = kept.part.joined(shared_part, own)
    x = bundle.reference.x.numpy()
    made = make_artefacts(kept, kept.part.of(weights), x)
    wanted = infer(bundle, weights, x)
    assert np.abs(InferenceModel(made.float32, own).predict(x).answers - wanted).max() < 1e-5
    assert np.abs(InferenceModel(made.int8, own).predict(x).answers - wanted).max() < 0.05
    assert np.abs(InferenceModel(made.float32).predict(x).answers - wanted).max() > 1e-4
