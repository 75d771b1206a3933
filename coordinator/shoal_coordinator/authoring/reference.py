"""What a task's training must compute: TensorFlow's float64 automatic differentiation, none of the kit's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from shoal_codecs.wire.task import (
    REFERENCE_MASK_SEED,
    REFERENCE_RATE,
    PrivateReference,
    ReferenceGradients,
    TypedArray,
    gradient_levels,
    initial_weights,
    split_weights,
)
from shoal_coordinator.authoring.errors import DescriptionError
from shoal_coordinator.authoring.layer import Run, Tensor
from shoal_coordinator.authoring.plain_ops import PlainOps
from shoal_coordinator.authoring.task import Task
from shoal_coordinator.authoring.training import gradients_of, stepped

EXAMPLES = 8
Vector = npt.NDArray[np.float64]
Batch = tuple[npt.NDArray[Any], npt.NDArray[Any]]


@dataclass(frozen=True)
class Expected:
    """Summed loss and correct count of an evaluation, and what a step of training follows (D,)."""

    loss_sum: float
    correct: int
    gradient: Vector


def example_batch(task: Task) -> Batch:
    """Return the task's own examples, or random ones from its range.

    Raises:
        DescriptionError: examples that do not fit the task.
    """
    about, target = task.input, task.target
    if task.examples is not None:
        x, y = (np.asarray(one) for one in task.examples)
        wanted = np.int32 if target.kind == "label" else np.float32
        if x.shape[1:] != tuple(about.shape) or y.shape != (len(x), *target.shape) or not len(x):
            raise DescriptionError(
                f"examples of shapes {x.shape} and {y.shape}, the task takes (n, *{tuple(about.shape)}) and "
                f"(n, *{target.shape})"
            )
        return x.astype(about.dtype), y.astype(wanted)
    rng = np.random.default_rng(task.seed)
    shape = (EXAMPLES, *about.shape)
    if about.dtype == "float32":
        x = rng.uniform(about.minimum, about.maximum, shape)
    else:
        x = rng.integers(int(about.minimum), int(about.maximum) + 1, shape)
    if target.kind == "label":
        return x.astype(about.dtype), rng.integers(len(task.labels), size=EXAMPLES).astype(np.int32)
    return x.astype(about.dtype), rng.normal(size=(EXAMPLES, *target.shape)).astype(np.float32)


class Float64Twin:
    """The task's model in float64; weights are dictionaries of tensors."""

    def __init__(self, task: Task) -> None:
        self._task, self.ops = task, PlainOps(tf.float64)

    def fed(self, x: npt.NDArray[Any]) -> Tensor:
        """Return raw examples as this twin takes them."""
        return tf.constant(x, tf.int32 if self._task.input.tokens else tf.float64)

    def aimed(self, y: npt.NDArray[Any]) -> Tensor:
        """Return targets as this twin takes them."""
        return tf.constant(y, tf.int32 if self._task.target.kind == "label" else tf.float64)

    def weights(self, vector: npt.NDArray[Any]) -> dict[str, Tensor]:
        """Return a flat vector (D,) by parameter."""
        parts = split_weights(vector, self._task.model.parameters)
        return {name: tf.constant(value, tf.float64) for name, value in parts.items()}

    def flat(self, parts: dict[str, Tensor]) -> Vector:
        """Return tensors by parameter as one vector (D,), zeros where one is missing."""
        vectors = [
            parts[one.name].numpy().ravel() if one.name in parts else np.zeros(one.size)
            for one in self._task.model.parameters
        ]
        return np.concatenate(vectors)

    def expected(self, vector: npt.NDArray[Any], batch: Batch) -> Expected:
        """Return what a correct runtime finds for ``batch`` with the weights ``vector`` (D,)."""
        x, y = self.fed(batch[0]), self.aimed(batch[1])
        weights = self.weights(vector)
        output = self._task.outputs(Run(self.ops), weights, x)
        loss_sum = float(tf.reduce_sum(self._task.loss.per_example(self.ops, output, y)))
        correct = 0
        if self._task.target.kind == "label":
            correct = int(np.sum(np.argmax(output.numpy(), axis=1) == batch[1]))
        return Expected(loss_sum, correct, self.followed(vector, batch))

    def followed(self, vector: npt.NDArray[Any], batch: Batch) -> Vector:
        """Return the mean loss's gradient (D,) in training, and what moves without one as if it had one."""
        gradient, moved = self.gradient_and_moves(vector, batch, REFERENCE_MASK_SEED)
        before = self.weights(vector)
        return gradient + self.flat(
            {name: (before[name] - one) / REFERENCE_RATE for name, one in moved.items()}
        )

    def gradient(self, vector: npt.NDArray[Any], batch: Batch, seed: int = REFERENCE_MASK_SEED) -> Vector:
        """Return the mean loss's gradient (D,) in training."""
        return self.gradient_and_moves(vector, batch, seed)[0]

    def gradient_and_moves(
        self, vector: npt.NDArray[Any], batch: Batch, seed: int
    ) -> tuple[Vector, dict[str, Tensor]]:
        """Return the mean loss's gradient (D,), and the parameters that training moves without one."""
        run = self._training(seed)
        x, y = self.fed(batch[0]), self.aimed(batch[1])
        _, gradients = gradients_of(self._task, run, self.weights(vector), x, y)
        return self.flat(gradients), run.moved

    def _training(self, seed: int) -> Run:
        masks = tf.constant([seed], tf.int32) if self._task.model.seeded else None
        return Run(self.ops, training=True, seed=masks)


class Float64Steps:
    """The task's optimiser in float64, with FedProx's pull towards ``anchor`` and a ``correction`` (D,)."""

    def __init__(
        self, task: Task, anchor: npt.NDArray[Any], *, lr: float, mu: float, correction: Vector
    ) -> None:
        self._task, self._twin = task, Float64Twin(task)
        self._anchor, self._correction, self._lr, self._mu = anchor, correction, lr, mu
        zeros = self._twin.weights(np.zeros(len(anchor)))
        self._slots = {slot: dict(zeros) for slot in task.optimiser.SLOTS}
        self._counters = {name: tf.zeros((1,), tf.float64) for name in task.optimiser.COUNTERS}

    def step(self, vector: npt.NDArray[Any], gradient: Vector, moved: dict[str, Tensor]) -> Vector:
        """Return the weights (D,) after a step from ``vector`` along ``gradient``, both (D,)."""
        task, twin = self._task, self._twin
        full = gradient + self._mu * (vector - self._anchor) + self._correction
        weights = twin.weights(vector)
        trained = {name: one for name, one in twin.weights(full).items() if name not in task.model.moved}
        after = stepped(task.optimiser, twin.ops, weights, trained, self._lr, self._slots, self._counters)
        self._slots, self._counters = after.slots, after.counters
        return twin.flat({**weights, **after.weights, **moved})


def reference_of(task: Task, batch: Batch) -> ReferenceGradients:
    """Return what devices compare their own gradients with."""
    parameters = task.model.parameters
    found = Float64Twin(task).expected(initial_weights(parameters, task.seed), batch)
    levels, scales = gradient_levels(found.gradient, parameters)
    return ReferenceGradients(
        seed=task.seed,
        x=TypedArray.of(batch[0]),
        y=TypedArray.of(batch[1]),
        gradient=TypedArray.of(levels),
        scales=scales,
        loss_sum=found.loss_sum,
        correct=found.correct,
    )


def private_reference_of(task: Task, batch: Batch) -> PrivateReference:
    """Return the lengths of each example's gradient, found one by one; the clip shortens half of them."""
    twin = Float64Twin(task)
    start = initial_weights(task.model.parameters, task.seed)
    rows = zip(*batch, strict=True)
    norms = [float(np.linalg.norm(twin.gradient(start, (x[None], y[None])))) for x, y in rows]
    return PrivateReference(clip=float(np.float32(np.median(norms))), norms=tuple(norms))
