"""Whether a device can take part: the task tested, its data checked, the models tried out."""

from pathlib import Path
from typing import Any

import msgspec

from shoal_edge.jobs.state import Stop, WorkerState
from shoal_edge.probing import probe_models
from shoal_edge.worker_task import read_task


def prepare(
    state: WorkerState, *, task: bytes, task_path: str, data_path: str, data: bytes = b"", should_stop: Stop
) -> dict[str, Any]:
    """Decode and self-test the task, check the device's data against it.

    ``data`` is the packed table ``[data]`` of the settings, here and in every other job.
    """
    del should_stop
    ready = state.ready(task, task_path)
    train, held_out = state.examples(ready.bundle, data_path, data)
    return {
        "dimension": ready.trainer.dimension,
        "examples": len(train),
        "held_out": len(held_out),
        "runtime": ready.trainer.runtime,
    }


def measure(
    state: WorkerState,
    *,
    task: bytes,
    task_path: str,
    data_path: str,
    data: bytes = b"",
    fit_s: float,
    should_stop: Stop,
) -> dict[str, Any]:
    """Try the task's models out on the device's examples, from the narrowest up, while they fit."""
    del should_stop
    # Nothing else shall be in the memory that is measured.
    state.let_go()
    bundle = read_task(Path(task_path), task)
    train, _ = state.examples(bundle, data_path, data)
    probes = probe_models(bundle, task, train, state.settings, fit_s)
    return {"probes": msgspec.to_builtins(probes)}
