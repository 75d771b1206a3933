"""The loop of every fit, whatever computes a step: order, batches, cancellation, progress, divergence."""

from __future__ import annotations

import math
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from shoal_edge.trainers.base import FitOptions, OnProgress, RandomSource, ShouldStop
from shoal_edge.trainers.errors import FitCancelledError, InvalidFitSettingsError, NonFiniteLossError

# What an evaluation lays out at once: enough that calls cost little, little enough for small boards.
_EVALUATED_VALUES = 1 << 15
_FEWEST_EVALUATED, _MOST_EVALUATED = 16, 32

SEEDS = 1 << 31
"""How many seeds a step's masks may be drawn from."""


class Step(Protocol):
    """One step of training."""

    def __call__(self, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
        """Train on one batch and return its summed loss before the step."""
        ...


class Batches:
    """Cuts batches out of raw examples, converted one at a time into the same memory.

    ``x`` (n, ...) and ``y`` (n, ...) stay as they are; a batch has the dtypes ``x_dtype`` and ``y_dtype`` and
    is valid until the next one is cut.
    """

    def __init__(
        self,
        x: npt.NDArray[Any],
        y: npt.NDArray[Any],
        size: int,
        *,
        x_dtype: npt.DTypeLike,
        y_dtype: npt.DTypeLike,
    ) -> None:
        self._x, self._y = x, y
        size = min(size, len(x))
        self._x_batch = np.empty((size, *x.shape[1:]), x_dtype)
        self._y_batch = np.empty((size, *y.shape[1:]), y_dtype)

    def __len__(self) -> int:
        return len(self._x)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of x and y in a full batch."""
        return {"x": self._x_batch.shape, "y": self._y_batch.shape}

    def cut(self, chosen: npt.NDArray[np.intp] | slice) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return the batch of the rows ``chosen``, at most ``size`` of them."""
        rows = self._x[chosen]
        x, y = self._x_batch[: len(rows)], self._y_batch[: len(rows)]
        x[...] = rows
        y[...] = self._y[chosen]
        return x, y


def check_options(options: FitOptions) -> None:
    """Raise InvalidFitSettingsError unless a fit can be made with ``options``."""
    fits = 0 < options.learning_rate < math.inf and 0 <= options.mu < math.inf
    if options.epochs < 1 or options.batch_size < 1 or not fits:
        raise InvalidFitSettingsError(
            f"epochs {options.epochs}, batch_size {options.batch_size}, learning_rate "
            f"{options.learning_rate}: each must be above zero, and mu {options.mu} at least zero; correct "
            "the round's plan"
        )


def run_steps(
    batches: Batches,
    step: Step,
    options: FitOptions,
    rng: RandomSource,
    should_stop: ShouldStop,
    on_progress: OnProgress,
) -> int:
    """Train ``options.epochs`` times over ``batches``, each time in a new order; return the steps done.

    Raises:
        FitCancelledError: ``should_stop`` said so.
        NonFiniteLossError: training diverged.
    """
    count, size = len(batches), options.batch_size
    total = options.epochs * math.ceil(count / size)
    done = 0
    for _ in range(options.epochs):
        order = rng.permutation(count)
        for start in range(0, count, size):
            if should_stop():
                raise FitCancelledError(f"stopped after {done} of {total} steps: nothing to send")
            refuse_non_finite_loss(step(*batches.cut(order[start : start + size])), done)
            done += 1
            on_progress(done, total)
    return done


def evaluation_size(x: npt.NDArray[Any]) -> int:
    """Return how many examples of ``x`` (n, ...) are evaluated at once."""
    values = max(math.prod(x.shape[1:]), 1)
    return min(max(_EVALUATED_VALUES // values, _FEWEST_EVALUATED), _MOST_EVALUATED)


def refuse_non_finite_loss(loss_sum: float, steps: int) -> None:
    """Raise NonFiniteLossError where ``loss_sum`` after ``steps`` steps is NaN or infinity."""
    if not math.isfinite(loss_sum):
        raise NonFiniteLossError(f"the loss is {loss_sum} after {steps} steps: lower the learning rate")
