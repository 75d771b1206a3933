"""The health check: candidate and replaced model on the same held-out examples of this device.

``paired_counts`` runs in the worker, where numpy and the interpreter live; only counts leave it.
"""

from pathlib import Path
from typing import Any

import msgspec

from shoal_codecs.ota.errors import InvalidCountsError
from shoal_codecs.ota.health import PairedCounts
from shoal_edge.release_errors import HealthCheckError


def paired_counts(candidate_path: Path, replaced_path: Path | None, data_path: Path) -> PairedCounts:
    """Return how candidate and replaced model (None for none) do on the device's held-out examples.

    A device without examples still proves that the interpreter takes the candidate; it counts nothing.

    Raises:
        DataError: the device's examples cannot be used by the candidate.
        UnusableModelError, NonFiniteLossError: the candidate does not run.
    """
    from shoal_edge.trainers.errors import TrainingError  # noqa: PLC0415 - heavy, wanted in the worker only
    from shoal_edge.trainers.inference import InferenceModel  # noqa: PLC0415

    candidate = InferenceModel(candidate_path)
    examples = _held_out(data_path)
    if examples is None:
        return PairedCounts(0, replaced=False)
    x, y = examples
    found = candidate.predict(x)
    right = found.labels == y
    latency_ms = 1000 * found.seconds / max(len(y), 1)
    try:
        before = None if replaced_path is None else InferenceModel(replaced_path).predict(x).labels == y
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


def _held_out(path: Path) -> tuple[Any, Any] | None:
    """Return raw examples (n, ...) and labels (n,) of the held-out part, None where there are none."""
    import numpy as np  # noqa: PLC0415 - heavy, wanted in the worker only

    from shoal_edge.data import Examples, split_held_out  # noqa: PLC0415
    from shoal_edge.trainers.errors import UnreadableDataError  # noqa: PLC0415

    try:
        with np.load(path, allow_pickle=False) as archive:
            examples = Examples(archive["x"], archive["y"])
    except (FileNotFoundError, KeyError):
        return None
    except (OSError, ValueError, EOFError, AttributeError, TypeError) as error:
        raise UnreadableDataError(f"{path} holds no examples: save x and y with numpy.savez") from error
    _, held_out = split_held_out(examples)
    return (held_out.x, held_out.y) if len(held_out) else None
