"""What a model says of one example: a deployed one, or the fleet's newest with the device's own tensors."""

from pathlib import Path
from typing import Any

from shoal_edge.data import Examples
from shoal_edge.jobs.state import Stop, WorkerState
from shoal_edge.own_models import own_weights
from shoal_edge.own_tensors import read_tensors
from shoal_edge.prediction_words import said
from shoal_edge.sources.own import own_examples
from shoal_edge.trainers.errors import UnreadableDataError
from shoal_edge.trainers.inference import InferenceModel
from shoal_edge.trainers.own_inference import infer


def predict(
    _state: WorkerState,
    *,
    artefact_path: str,
    input_path: str,
    data: bytes = b"",
    task_path: str = "",
    own_path: str = "",
    index: int,
    held_out: bool,
    should_stop: Stop,
) -> dict[str, Any]:
    """Return what a deployed model says of example ``index`` of a file, and the truth.

    It takes the tensors that the device keeps at ``own_path``.
    """
    del should_stop
    model = InferenceModel(Path(artefact_path), read_tensors(own_path))
    examples = _examples_of(Path(input_path), data, task_path, index, held_out=held_out)
    found = model.predict(examples.x[index : index + 1])
    return said(found, examples, index)


def predict_own(
    state: WorkerState,
    *,
    task: bytes,
    task_path: str,
    model_path: str,
    digest: bytes,
    own_path: str,
    personal: bool,
    input_path: str,
    data: bytes = b"",
    index: int,
    held_out: bool,
    should_stop: Stop,
) -> dict[str, Any]:
    """Answer as ``predict``, with the fleet's vector at ``model_path`` and the device's own tensors.

    With ``personal``, its own model answers. ``model_path`` is empty where there is no vector.
    """
    del should_stop
    bundle = state.ready(task, task_path).bundle
    path = Path(model_path) if model_path else None
    weights = own_weights(bundle, Path(own_path), path, digest, personal=personal)
    examples = _examples_of(Path(input_path), data, task_path, index, held_out=held_out)
    return said(infer(bundle, weights, examples.x[index : index + 1]), examples, index)


def _examples_of(path: Path, data: bytes, task_path: str, index: int, *, held_out: bool) -> Examples:
    """Return the examples at ``path``, or their held-out part, of which ``index`` is one."""
    examples = own_examples(path, data, task_path, held_out=held_out)
    count = len(examples) if examples else 0
    if examples is None or not 0 <= index < count:
        raise UnreadableDataError(f"no example {index}: the file has {count}, counted from 0")
    return examples
