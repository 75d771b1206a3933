"""A device's own model beside its part in the fleet's: Ditto. Worker only: needs numpy.

Ditto (Li et al. 2021, algorithm 1): v moves by -lr (grad F(v) + pull (v - w)), w being the round's base. The
graph's proximal term pulls towards the weights that were set last, which are those v began the round with;
the rest of the pull is the constant pull (v0 - w), which goes in as a correction of every gradient.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal_codecs.wire.plan import TrainingPlan
from shoal_edge.data import Examples
from shoal_edge.trainers.base import FitOptions, RandomSource, Trainer
from shoal_edge.trainers.errors import FitCancelledError, TrainingError
from shoal_edge.vectors import Vector


@dataclass(frozen=True, slots=True, eq=False)
class PersonalFit:
    """``model`` (D,) after a round, None where it could not be trained; ``said`` is for the device's log."""

    model: Vector | None
    said: dict[str, Any]


def fit_personal(
    trainer: Trainer,
    base: Vector,
    model: Vector | None,
    train: Examples,
    training: TrainingPlan,
    pull: float,
    rng: RandomSource,
    should_stop: Callable[[], bool],
) -> PersonalFit:
    """Train the device's ``model`` (D,), at first ``base`` (D,), pulled towards ``base`` by ``pull``.

    A fault of it is the device's own affair: what it gives to the fleet is made already. The trainer is left
    with other weights.

    Raises:
        FitCancelledError: ``should_stop`` said so.
    """
    begin = base if model is None or model.size != base.size or not np.isfinite(model).all() else model
    try:
        trainer.set_weights(begin)
        options = FitOptions(
            epochs=training.epochs,
            learning_rate=training.learning_rate,
            batch_size=training.batch_size,
            mu=pull,
            correction=np.float32(pull) * (begin - base),
        )
        fit = trainer.fit(train.x, train.y, options, rng, should_stop)
        return PersonalFit(trainer.get_weights(), {"personal_loss": fit.loss_after})
    except FitCancelledError:
        raise
    except TrainingError as error:
        return PersonalFit(None, {"personal_fault": type(error).__name__, "personal_remedy": str(error)})
