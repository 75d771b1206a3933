"""Optimisers, FedProx and SCAFFOLD's correction inside the graph, against Keras and against steps by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tensorflow as tf

from shoal_codecs.wire.task import initial_weights, split_weights
from shoal_coordinator.authoring import Adam, Dense, Input, Momentum, Optimiser, Sgd, Task
from shoal_coordinator.authoring.check import Converted
from shoal_coordinator.authoring.convert import convert
from shoal_coordinator.authoring.graphs import TrainableGraph
from shoal_coordinator.authoring.plain_ops import PlainOps
from shoal_coordinator.authoring.training import stepped

Vector = npt.NDArray[np.float64]
ROWS, INPUTS, CLASSES = 6, 5, 3
RNG = np.random.default_rng(5)
X = RNG.normal(size=(ROWS, INPUTS)).astype(np.float32)
Y = RNG.integers(CLASSES, size=ROWS).astype(np.int32)
OPTIMISERS: dict[str, tuple[Optimiser, Any]] = {
    "sgd": (Sgd(), lambda: tf.keras.optimizers.SGD(0.1)),
    "momentum": (Momentum(0.8), lambda: tf.keras.optimizers.SGD(0.1, momentum=0.8)),
    "adam": (Adam(0.8, 0.99, 1e-8), lambda: tf.keras.optimizers.Adam(0.1, 0.8, 0.99, 1e-8)),
}


def task_with(optimiser: Optimiser) -> Task:
    return Task(
        name="softmax",
        input=Input((INPUTS,), dtype="float32", minimum=-9, maximum=9),
        layers=[Dense(CLASSES)],
        labels=("a", "b", "c"),
        optimiser=optimiser,
        prox=True,
        correction=True,
    )


def gradient_by_hand(vector: Vector) -> Vector:
    """Return the mean cross-entropy's gradient of a softmax regression, by the chain rule."""
    w, b = vector[: INPUTS * CLASSES].reshape(INPUTS, CLASSES), vector[INPUTS * CLASSES :]
    logits = X.astype(np.float64) @ w + b
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    error = (shares / shares.sum(axis=1, keepdims=True) - np.eye(CLASSES)[Y]) / ROWS
    return np.concatenate([(X.astype(np.float64).T @ error).ravel(), error.sum(axis=0)])


def steps_by_hand(
    start: Vector, optimiser: Optimiser, steps: int, lr: float, mu: float, correction: Vector
) -> Vector:
    """Follow each optimiser's paper in numpy; FedProx (Li et al. 2020) and SCAFFOLD add to the gradient."""
    vector = start.copy()
    first, second = np.zeros_like(start), np.zeros_like(start)
    for step in range(1, steps + 1):
        gradient = gradient_by_hand(vector) + mu * (vector - start) + correction
        if isinstance(optimiser, Adam):
            first = optimiser.beta1 * first + (1 - optimiser.beta1) * gradient
            second = optimiser.beta2 * second + (1 - optimiser.beta2) * gradient**2
            corrected = second / (1 - optimiser.beta2**step)
            gradient = first / (1 - optimiser.beta1**step) / (np.sqrt(corrected) + optimiser.epsilon)
        elif isinstance(optimiser, Momentum):
            gradient = first = optimiser.decay * first + gradient
        vector -= lr * gradient
    return vector


@pytest.fixture(scope="module", params=OPTIMISERS)
def trained(request: pytest.FixtureRequest) -> tuple[Optimiser, Task, Converted]:
    optimiser, _ = OPTIMISERS[request.param]
    task = task_with(optimiser)
    graph = TrainableGraph(task)
    return optimiser, task, Converted(task, convert(graph, graph.signatures))


@pytest.mark.parametrize(("mu", "corrected"), [(0.0, False), (0.7, False), (0.0, True), (0.7, True)])
def test_steps_in_litert_are_those_by_hand_and_set_weights_forgets(
    trained: tuple[Optimiser, Task, Converted], *, mu: float, corrected: bool
) -> None:
    optimiser, task, ran = trained
    start = initial_weights(task.model.parameters, 3)
    correction = np.random.default_rng(2).normal(0, 0.2, start.shape) if corrected else np.zeros(start.shape)
    inputs = {"x": X, "y": Y, "lr": np.array([0.1], np.float32), "mu": np.array([mu], np.float32)}
    # The second time finds no state that the first left behind.
    for steps in (4, 7):
        ran.set(start)
        if corrected:
            ran.set(correction.astype(np.float32), "set_correction")
        for _ in range(steps):
            ran.call("train_pulled", **inputs)
        wanted = steps_by_hand(start.astype(np.float64), optimiser, steps, 0.1, mu, correction)
        np.testing.assert_allclose(ran.weights(), wanted, atol=3e-6)


def test_plain_steps_are_those_by_hand(trained: tuple[Optimiser, Task, Converted]) -> None:
    optimiser, task, ran = trained
    start = initial_weights(task.model.parameters, 4)
    ran.set(start)
    for _ in range(5):
        ran.call("train", x=X, y=Y, lr=np.array([0.1], np.float32))
    wanted = steps_by_hand(start.astype(np.float64), optimiser, 5, 0.1, 0.0, np.zeros(start.shape))
    np.testing.assert_allclose(ran.weights(), wanted, atol=3e-6)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_optimisers_are_those_of_keras(name: str) -> None:
    optimiser, make = OPTIMISERS[name]
    parameters = task_with(optimiser).model.parameters
    start = split_weights(initial_weights(parameters, 3), parameters)
    theirs = {key: tf.Variable(value, dtype=tf.float64) for key, value in start.items()}
    keras = make()
    ops = PlainOps()
    mine = {key: tf.constant(value, tf.float64) for key, value in start.items()}
    slots = {slot: {key: one * 0.0 for key, one in mine.items()} for slot in optimiser.SLOTS}
    counters = {key: tf.zeros((1,), tf.float64) for key in optimiser.COUNTERS}
    for step in range(6):
        rng = np.random.default_rng(step)
        gradients = {key: tf.constant(rng.normal(size=one.shape)) for key, one in mine.items()}
        after = stepped(optimiser, ops, mine, gradients, tf.constant([0.1], tf.float64), slots, counters)
        mine, slots, counters = after.weights, after.slots, after.counters
        keras.apply_gradients([(gradients[key], theirs[key]) for key in mine])
    for key, one in mine.items():
        np.testing.assert_allclose(one, theirs[key], rtol=1e-5, atol=1e-6)
