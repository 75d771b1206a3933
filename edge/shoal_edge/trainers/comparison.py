"""Two deployed models on the same examples: counts of where one does better than the other."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.ota.health import PairedCounts
from shoal_edge.data import Examples
from shoal_edge.trainers.errors import TrainingError
from shoal_edge.trainers.inference import InferenceModel, squared_errors

NO_DIFFERENCE = 0.1
"""Share of the greater squared error: values whose errors differ by less are equally good."""
_AT_ONCE = 256

Marks = npt.NDArray[np.bool_]


def compare(candidate: InferenceModel, replaced: InferenceModel | None, examples: Examples) -> PairedCounts:
    """Return how ``candidate`` and ``replaced`` do on ``examples`` whose target is known.

    Of labels a model is right or wrong. Of values, the one that is nearer is right and the other wrong, and
    both are right where they are about as near; a candidate alone is right where it is nearer than the mean.

    Raises:
        DataError: examples or targets of another task than the candidate's.
        UnusableModelError, NonFiniteLossError: the candidate does not run.
    """
    if not candidate.gives_values and (examples.y < 0).any():
        known = examples.y >= 0
        examples = Examples(examples.x[known], examples.y[known])
    if not len(examples):
        return PairedCounts(0, replaced=False)
    errors, seconds = _errors(candidate, examples)
    before = None
    if replaced is not None and replaced.gives_values == candidate.gives_values:
        try:
            before, _ = _errors(replaced, examples)
        except TrainingError:
            # A model that cannot be run any more, perhaps of another task, is nothing to compare with.
            before = None
    latency_ms = 1000 * seconds / len(examples)
    if before is None:
        right = errors < _alone(candidate, examples.y)
        return PairedCounts(
            len(examples), only_candidate=_count(right), replaced=False, latency_ms=latency_ms
        )
    right, right_before = _marks(errors, before) if candidate.gives_values else (errors < 1, before < 1)
    return PairedCounts(
        len(examples),
        both=_count(right & right_before),
        only_replaced=_count(right_before & ~right),
        only_candidate=_count(right & ~right_before),
        latency_ms=latency_ms,
    )


def _errors(model: InferenceModel, examples: Examples) -> tuple[npt.NDArray[np.float64], float]:
    """Return the error of each example and the seconds it took: squared, or of labels 1 for a wrong one."""
    model.check_targets(examples.x, examples.y)
    errors, seconds = np.empty(len(examples)), 0.0
    for start in range(0, len(examples), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found = model.predict(examples.x[part])
        y = examples.y[part]
        errors[part] = squared_errors(found.answers, y) if model.gives_values else found.labels != y
        seconds += found.seconds
    return errors, seconds


def _alone(model: InferenceModel, y: npt.NDArray[Any]) -> npt.NDArray[np.float64] | float:
    """Return the error under which a model that replaces none is right."""
    if not model.gives_values:
        return 1.0
    return squared_errors(np.broadcast_to(y.mean(axis=0), y.shape).astype(np.float32), y)


def _marks(errors: npt.NDArray[np.float64], before: npt.NDArray[np.float64]) -> tuple[Marks, Marks]:
    kept = 1 - NO_DIFFERENCE
    return errors * kept <= before, before * kept <= errors


def _count(marks: Marks) -> int:
    return int(np.count_nonzero(marks))
