"""Versions of the fleet's vector: the next one made by a step, one on disk checked."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from shoal_codecs.updates.shared_part import SharedPart
from shoal_edge.jobs.state import Stop, WorkerState
from shoal_edge.own_tensors import read_own
from shoal_edge.steps import first_vector, read_step, step_vector
from shoal_edge.vectors import read_vector, write_vector
from shoal_edge.worker_task import read_task


def check_vector(_state: WorkerState, *, path: str, digest: bytes, should_stop: Stop) -> dict[str, Any]:
    """Read a vector and make sure of its digest."""
    del should_stop
    return {"dimension": len(read_vector(Path(path), digest))}


def apply_step(
    _state: WorkerState,
    *,
    task: bytes,
    task_path: str,
    base_path: str,
    step: bytes,
    step_path: str = "",
    child_path: str,
    local: Sequence[str] = (),
    own_path: str = "",
    should_stop: Stop,
) -> dict[str, Any]:
    """Write the vector that a step makes of the one at ``base_path``; its digest must be the step's.

    The encoded step is ``step``, or else in the file at ``step_path``. Without a ``base_path`` it draws
    the task's initial weights, without those that stay here: ``local``, or what is kept at ``own_path``.
    """
    del should_stop
    step = step or read_step(Path(step_path))
    if base_path:
        child = step_vector(Path(base_path), step)
    else:
        bundle = read_task(Path(task_path), task)
        kept = local or (read_own(Path(own_path)).tensors if own_path else ())
        child = first_vector(
            step, [SharedPart(bundle.parameters, tuple(kept)), SharedPart(bundle.parameters)]
        )
    write_vector(Path(child_path), child)
    return {"dimension": len(child)}
