"""How a model does on this device's held-out examples: the fleet's vector, or one that is deployed."""

import contextlib
import math
from pathlib import Path
from typing import Any

import msgspec

from shoal_codecs.updates.slices import FULL
from shoal_edge.health_check import paired_counts
from shoal_edge.jobs.state import Stop, WorkerState
from shoal_edge.own_models import whole
from shoal_edge.own_tensors import read_own, read_tensors
from shoal_edge.sources.own import own_examples
from shoal_edge.trainers.base import EvaluationCounts
from shoal_edge.trainers.errors import NonFiniteLossError
from shoal_edge.vectors import read_vector


def evaluate(
    state: WorkerState,
    *,
    task: bytes,
    task_path: str,
    model_path: str,
    digest: bytes,
    data_path: str,
    data: bytes = b"",
    own_path: str,
    percent: int = FULL,
    should_stop: Stop,
) -> dict[str, Any]:
    """Count how the vector at ``model_path``, with the device's own tensors, does on held-out examples.

    A model of the device's own is counted beside it. A device that takes ``percent`` of the width counts
    with the widest variant that it takes.
    """
    del should_stop
    ready = state.ready_within(task, task_path, percent)
    own = read_own(Path(own_path))
    vector = read_vector(Path(model_path), digest)
    weights = ready.cut.cut(vector) if ready.cut else whole(ready.bundle, own, vector)
    ready.trainer.set_weights(weights)
    _, held_out = state.examples(ready.bundle, data_path, data)
    try:
        counts = ready.trainer.evaluate(held_out.x, held_out.y)
    except NonFiniteLossError:
        # Worth saying: the coordinator keeps no version that answers no numbers.
        counts = EvaluationCounts(len(held_out), 0, math.inf)
    found: dict[str, Any] = {
        "examples": counts.examples,
        "correct": counts.correct,
        "loss_sum": counts.loss_sum,
    }
    if own.personal is not None and own.personal.size == ready.bundle.dimension:
        ready.trainer.set_weights(own.personal)
        with contextlib.suppress(NonFiniteLossError):
            counts = ready.trainer.evaluate(held_out.x, held_out.y)
            found["personal"] = [counts.correct, counts.loss_sum]
    return found


def evaluate_artefact(
    _state: WorkerState,
    *,
    candidate_path: str,
    replaced_path: str,
    data_path: str,
    data: bytes = b"",
    task_path: str = "",
    own_path: str = "",
    should_stop: Stop,
) -> dict[str, Any]:
    """Count two deployable models on the same held-out examples; ``replaced_path`` may be empty.

    Both take the tensors that the device keeps at ``own_path``.
    """
    del should_stop
    replaced = Path(replaced_path) if replaced_path else None
    examples = own_examples(Path(data_path), data, task_path, held_out=True)
    counts = paired_counts(Path(candidate_path), replaced, examples, read_tensors(own_path))
    answer: dict[str, Any] = msgspec.to_builtins(counts)
    return answer
