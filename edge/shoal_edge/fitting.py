"""From a base and the device's examples to an update; worker only, for it needs numpy and LiteRT."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from shoal_codecs.privacy.examples import EXAMPLE_DELTA, example_charge
from shoal_codecs.updates.base import length
from shoal_codecs.updates.local_steps import effective_steps
from shoal_codecs.updates.ring_extras import DeviceMetrics
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.told import NOTHING_TOLD, Told
from shoal_edge.data import Examples
from shoal_edge.trainers.base import (
    ExamplePrivacy,
    FitOptions,
    FitReport,
    OnProgress,
    RandomSource,
    ShouldStop,
    Trainer,
)
from shoal_edge.trainers.errors import (
    DataError,
    FitMemoryError,
    NonFiniteLossError,
    NonFiniteWeightsError,
    UnusableModelError,
)
from shoal_edge.vectors import Vector

DATA_FAULTS = (DataError, FitMemoryError, NonFiniteLossError, NonFiniteWeightsError, UnusableModelError)
"""What may hang on the examples: the interpreter refuses some inputs only."""
Shard = Callable[[], tuple[Examples, Examples]]


@dataclass(frozen=True, slots=True, eq=False)
class Fitted:
    """What a fit made: ``update`` of the fleet's vector from ``examples``, ``metrics`` of the base.

    ``weights`` are all weights (D,) after its ``steps``, None where nothing was trained or nobody wants them.
    ``told`` goes beside the update where the plan asks for it, ``said`` into the device's log.
    """

    update: Vector
    examples: int
    metrics: DeviceMetrics | None = None
    weights: Vector | None = None
    steps: int = 0
    said: dict[str, Any] = field(default_factory=dict)
    told: Told = NOTHING_TOLD


def fit_update(
    trainer: Trainer,
    base: Callable[[], Vector],
    part: SharedPart,
    shard: Shard,
    plan: Plan,
    rng: RandomSource,
    should_stop: ShouldStop,
    on_progress: OnProgress,
    *,
    hide_faults: bool,
    correction: Vector | None = None,
    keep_weights: bool = True,
) -> Fitted:
    """Train on ``base`` (D,), which the trainer holds, with what ``shard`` gives, as ``plan`` says.

    ``base`` is asked for once the fit is over, so that nobody holds it meanwhile. ``keep_weights`` says
    whether anybody wants the weights afterwards.

    The update is that of the fleet's ``part``; ``correction`` (D,) is added to every gradient.

    With ``hide_faults`` a device that cannot train on its data for a round with noise moves nothing: it sends
    noise like all others. Whoever writes a task can make training fail on examples of his choice, so that to
    stay away would tell of them, in clear and uncharged.

    Raises:
        TrainingError: unusable data or training that diverged, where that is not hidden.
        FitCancelledError: ``should_stop`` said so.
    """
    try:
        return _fitted(
            trainer, base, part, shard, plan, rng, should_stop, on_progress, correction, keep_weights
        )
    except (*DATA_FAULTS, MemoryError, ImportError) as error:
        # An ImportError: beside many examples a library may find no room under a limit.
        if not hide_faults or plan.privacy is None:
            raise
        # For this device's own log.
        return nothing_fitted(part, fault=type(error).__name__, remedy=str(error))


def nothing_fitted(part: SharedPart, **said: Any) -> Fitted:
    """Return the fit of a device that moves nothing of the fleet's ``part``."""
    return Fitted(np.zeros(part.dimension, np.float32), 1, said=said)


def _fitted(
    trainer: Trainer,
    base: Callable[[], Vector],
    part: SharedPart,
    shard: Shard,
    plan: Plan,
    rng: RandomSource,
    should_stop: ShouldStop,
    on_progress: OnProgress,
    correction: Vector | None,
    keep_weights: bool,  # noqa: FBT001 - as fit_update says
) -> Fitted:
    train, held_out = shard()
    metrics = _metrics(plan, trainer, held_out)
    training = plan.training
    fit = trainer.fit(
        train.x,
        train.y,
        FitOptions(
            epochs=training.epochs,
            learning_rate=training.learning_rate,
            batch_size=training.batch_size,
            mu=training.mu,
            correction=correction,
            privacy=_example_privacy(plan),
        ),
        rng,
        should_stop,
        on_progress,
    )
    told = _told(plan, trainer, held_out, fit)
    weights = trainer.get_weights()
    # What is made of the weights takes as much again.
    trainer.rest()
    kept = weights if keep_weights else None
    # The vector of a fleet that shares all of it is the weights themselves.
    moved = part.of(weights)
    update = np.subtract(moved, part.of(base()), out=None if moved is kept else moved)
    norm = length(update)
    if not math.isfinite(norm):
        raise NonFiniteWeightsError("the weights moved out of float32: lower the learning rate")
    said = {
        "examples": fit.examples,
        "steps": fit.steps,
        "loss_before": fit.loss_before,
        "loss_after": fit.loss_after,
        "norm": norm,
    }
    if training.even_steps:
        # FedNova where single updates are not seen: each device brings its own to the same number of steps.
        update *= np.float32(
            training.even_steps / effective_steps(fit.steps, training.learning_rate, training.mu)
        )
    if training.example_noise:
        said["example_epsilon"] = example_charge(training).epsilon(EXAMPLE_DELTA)
    return Fitted(update, len(train), metrics, kept, fit.steps, said, told)


def _told(plan: Plan, trainer: Trainer, held_out: Examples, fit: FitReport) -> Told:
    """Return what the plan asks for beside the update."""
    words: dict[str, Any] = {"steps": fit.steps, "loss": fit.loss_before}
    tells = plan.training.tells
    if "score" in tells and len(held_out):
        counts = trainer.evaluate(held_out.x, held_out.y)
        # Values have no hits: the smaller their error, the nearer to 1.
        words["score"] = counts.accuracy if counts.correct else 1 / (1 + counts.mean_loss)
    return Told(**{name: word for name, word in words.items() if name in tells})


def _example_privacy(plan: Plan) -> ExamplePrivacy | None:
    training = plan.training
    return ExamplePrivacy(training.example_clip, training.example_noise) if training.example_noise else None


def _metrics(plan: Plan, trainer: Trainer, held_out: Examples) -> DeviceMetrics | None:
    """Return how the base does on held-out examples, where the plan asks for it."""
    if plan.privacy is None or not plan.privacy.metric_levels or not len(held_out):
        return None
    counts = trainer.evaluate(held_out.x, held_out.y)
    return DeviceMetrics(loss=counts.mean_loss, accuracy=counts.accuracy)
