"""Membership inference: was this example trained on? By its loss, the attack of Yeom et al. 2018."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_edge.data import Examples
from shoal_edge.trainers.base import ExamplePrivacy, FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

NOISY_LABELS = 0.2
"""A model that learns this share of wrong labels by heart gives its members away."""
MEMBERS = 300
EPOCHS, RATE, BATCH, CLIP = 150, 0.5, 32, 1.0
SIGMAS = (0.0, 0.7, 1.3, 3.0)


@dataclass(frozen=True)
class Split:
    """As many members as others, each with some wrong labels."""

    members: Examples
    others: Examples


def noisy_split(field: Examples, classes: int, rng: np.random.Generator) -> Split:
    """Return ``MEMBERS`` members and as many others, the same number of wrong labels among both."""
    chosen = rng.permutation(len(field))[: 2 * MEMBERS]
    x, y = field.x[chosen], field.y[chosen].astype(np.int32)
    for half in (np.arange(MEMBERS), np.arange(MEMBERS, 2 * MEMBERS)):
        wrong = rng.choice(half, round(NOISY_LABELS * MEMBERS), replace=False)
        y[wrong] = (y[wrong] + rng.integers(1, classes, len(wrong))) % classes
    return Split(Examples(x[:MEMBERS], y[:MEMBERS]), Examples(x[MEMBERS:], y[MEMBERS:]))


def losses(trainer: LiteRtTrainer, examples: Examples) -> npt.NDArray[np.float64]:
    """Return the loss of each example in nats, (n,)."""
    ones = (slice(n, n + 1) for n in range(len(examples)))
    return np.array([trainer.evaluate(examples.x[one], examples.y[one]).loss_sum for one in ones])


def auc(members: npt.NDArray[Any], others: npt.NDArray[Any]) -> float:
    """Return the chance that a member scores above another example; 0.5 is guessing."""
    above = (members[:, None] > others[None, :]).mean()
    level = (members[:, None] == others[None, :]).mean()
    return float(above + level / 2)


def membership_auc(
    trainer: LiteRtTrainer, field: Examples, classes: int, sigma: float, seed: int, epochs: int = EPOCHS
) -> float:
    """Return the AUC of the attack on models trained with noise ``sigma`` (0: plain SGD).

    Mean of two, the second with members and others exchanged: which half is easier counts for nothing.
    """
    rng = np.random.default_rng(seed)
    split = noisy_split(field, classes, rng)
    privacy = ExamplePrivacy(CLIP, sigma) if sigma else None
    found = []
    for members, others in ((split.members, split.others), (split.others, split.members)):
        trainer.set_weights(trainer.initial_weights())
        trainer.fit(
            members.x,
            members.y,
            FitOptions(epochs=epochs, learning_rate=RATE, batch_size=BATCH, privacy=privacy),
            rng,
        )
        found.append(auc(-losses(trainer, members), -losses(trainer, others)))
    return float(np.mean(found))
