"""The health check: candidate and replaced model on the same held-out examples of this device.

``paired_counts`` runs in the worker, where numpy and the interpreter live; only counts leave it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from shoal_codecs.ota.errors import InvalidCountsError, OtaError
from shoal_codecs.ota.health import PairedCounts
from shoal_edge.release_errors import HealthCheckError

if TYPE_CHECKING:
    from shoal_edge.data import Examples
    from shoal_edge.trainers.own_places import Tensors


def paired_counts(
    candidate_path: Path,
    replaced_path: Path | None,
    examples: "Examples | None",
    own: "Tensors | None" = None,
) -> PairedCounts:
    """Return how candidate and replaced model (None for none) do on held-out ``examples``.

    Both take the device's ``own`` tensors where they have places for them. A device without examples still
    proves that the interpreter takes the candidate; it counts nothing.

    Raises:
        DataError: the examples cannot be used by the candidate.
        UnusableModelError, NonFiniteLossError, OwnPlacesError: the candidate does not run.
    """
    from shoal_edge.trainers.comparison import compare  # noqa: PLC0415 - heavy, wanted in the worker only
    from shoal_edge.trainers.errors import TrainingError  # noqa: PLC0415
    from shoal_edge.trainers.inference import InferenceModel  # noqa: PLC0415

    candidate = InferenceModel(candidate_path, own)
    if examples is None or not len(examples):
        return PairedCounts(0, replaced=False)
    try:
        replaced = None if replaced_path is None else InferenceModel(replaced_path, own)
    except (TrainingError, OtaError):
        # A model that cannot be opened any more is nothing to compare with.
        replaced = None
    return compare(candidate, replaced, examples)


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
