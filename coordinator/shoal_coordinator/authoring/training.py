"""One step of training in tensors: what the trainable graph does, and what its float64 twin must do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from shoal_coordinator.authoring.errors import UnsupportedLayerError
from shoal_coordinator.authoring.layer import Run, Tensor, Tensors
from shoal_coordinator.authoring.ops import Ops
from shoal_coordinator.authoring.optimisers import Optimiser
from shoal_coordinator.authoring.task import Task

# A gradient of nothing has no direction: this keeps its length off zero.
LEAST_SQUARE = 1e-30


@dataclass(frozen=True)
class Stepped:
    """Weights, slots and counters after a step."""

    weights: dict[str, Tensor]
    slots: dict[str, dict[str, Tensor]]
    counters: dict[str, Tensor]


def gradients_of(
    task: Task, run: Run, weights: Tensors, x: Tensor, y: Tensor, factor: Tensor = None
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return each example's loss (n, 1) and the mean loss's gradient by parameter, times a ``factor`` (1,).

    Raises:
        UnsupportedLayerError: a parameter that the loss does not depend on.
    """
    trained = _trained(task, weights)
    with tf.GradientTape() as tape:
        tape.watch(list(trained.values()))
        losses = task.training_losses(run, weights, x, y)
    share = run.ops.mean_error(losses, y)
    share = share if factor is None else share * factor
    return losses, _all(tape.gradient(losses, trained, output_gradients=share))


def private_gradients(
    task: Task, run: Run, weights: Tensors, x: Tensor, y: Tensor, clip: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return losses (n, 1) and the sum of the examples' gradients, each shortened to ``clip`` (1,).

    Abadi et al. 2016, algorithm 1. No example's gradient is laid out over all layers at once: each layer
    tells its squared length from its input and its error, and a second pass backward weighs the examples.
    """
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(list(weights.values()))
        entry, visited = task.scaled(run.ops, x), []
        for placed, output in task.model.walk(run, weights, entry):
            if placed.parameters:
                visited.append((placed, entry, output))
            entry = output
        losses = task.loss.per_example(run.ops, entry, y)
    errors = tape.gradient(
        losses, [output for _, _, output in visited], output_gradients=tf.ones_like(losses)
    )
    square = sum(
        placed.layer.squares(run, placed.own(weights), entry, error)
        for (placed, entry, _), error in zip(visited, errors, strict=True)
    )
    kept = tf.minimum(tf.ones_like(square), clip / tf.sqrt(tf.maximum(square, LEAST_SQUARE)))
    return losses, _all(tape.gradient(losses, dict(weights), output_gradients=kept))


def stepped(
    optimiser: Optimiser,
    ops: Ops,
    weights: Tensors,
    gradients: Tensors,
    lr: Tensor,
    slots: dict[str, dict[str, Tensor]],
    counters: dict[str, Tensor],
) -> Stepped:
    """Return weights and state after the optimiser's step; weights without a gradient stay away."""
    count = dict(optimiser.count(counters))
    after = Stepped({}, {slot: {} for slot in slots}, count)
    for name, gradient in gradients.items():
        state = {**count, **{slot: held[name] for slot, held in slots.items()}}
        after.weights[name], new = optimiser.step(ops, weights[name], gradient, lr, state)
        for slot, value in new.items():
            after.slots[slot][name] = value
    return after


def _trained(task: Task, weights: Tensors) -> dict[str, Tensor]:
    return {name: one for name, one in weights.items() if name not in task.model.moved}


def _all(gradients: dict[str, Any]) -> dict[str, Tensor]:
    for name, one in gradients.items():
        if one is None:
            raise UnsupportedLayerError(
                f"no gradient reaches {name}: let its layer's forward use it, through run.ops only"
            )
    return gradients
