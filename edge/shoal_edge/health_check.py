"""The health check: candidate and replaced model on the same held-out examples of this device.

``paired_counts`` runs in the worker, where numpy and the interpreter live; only counts leave it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shoal_codecs.ota.errors import InvalidCountsError
from shoal_codecs.ota.health import PairedCounts
from shoal_edge.release_errors import HealthCheckError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from shoal_edge.data import Examples
    from shoal_edge.trainers.inference import InferenceModel

_AT_ONCE = 256


def paired_counts(
    candidate_path: Path, replaced_path: Path | None, examples: "Examples | None"
) -> PairedCounts:
    """Return how candidate and replaced model (None for none) do on held-out ``examples``.

    A device without examples still proves that the interpreter takes the candidate; it counts nothing.

    Raises:
        DataError: the examples cannot be used by the candidate.
        UnusableModelError, NonFiniteLossError: the candidate does not run.
    """
    from shoal_edge.trainers.errors import TrainingError  # noqa: PLC0415 - heavy, wanted in the worker only
    from shoal_edge.trainers.inference import InferenceModel  # noqa: PLC0415

    candidate = InferenceModel(candidate_path)
    if examples is None or not len(examples):
        return PairedCounts(0, replaced=False)
    y = examples.y
    right, seconds = _right(candidate, examples)
    latency_ms = 1000 * seconds / len(y)
    try:
        before = None if replaced_path is None else _right(InferenceModel(replaced_path), examples)[0]
    except TrainingError:
        # A model that cannot be run any more, perhaps of another task, is nothing to compare with.
        before = None
    if before is None:
        return PairedCounts(len(y), only_candidate=int(right.sum()), replaced=False, latency_ms=latency_ms)
    return PairedCounts(
        len(y),
        both=int((right & before).sum()),
        only_replaced=int((before & ~right).sum()),
        only_candidate=int((right & ~before).sum()),
        latency_ms=latency_ms,
    )


def read_counts(answer: dict[str, Any]) -> PairedCounts:
    """Return the counts in a worker's answer.

    Raises:
        HealthCheckError: it holds none, or impossible ones.
    """
    try:
        return msgspec.convert(answer, PairedCounts)
    except (msgspec.ValidationError, InvalidCountsError) as error:
        raise HealthCheckError(
            f"the worker's counts make no sense ({error}): update agent and worker together"
        ) from error


def _right(model: "InferenceModel", examples: "Examples") -> "tuple[npt.NDArray[np.bool_], float]":
    """Return which examples ``model`` gets right, and the seconds it took; bounded memory."""
    import numpy as np  # noqa: PLC0415 - heavy, wanted in the worker only

    right, seconds = np.empty(len(examples), np.bool_), 0.0
    for start in range(0, len(examples), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        found = model.predict(examples.x[part])
        right[part] = found.labels == examples.y[part]
        seconds += found.seconds
    return right, seconds
