"""Trying a task's models out, the narrowest first, for as long as they fit. Worker only."""

import math
import time

from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.wire.task import TaskBundle
from shoal_edge.data import Examples
from shoal_edge.probe import Probe
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.errors import FitMemoryError
from shoal_edge.trainers.system_random import SystemRandom
from shoal_edge.worker_settings import WorkerSettings, allocated_bytes
from shoal_edge.worker_task import ReadyTask

STEPS = 3


def probe_models(
    task: TaskBundle, digest: bytes, train: Examples, settings: WorkerSettings, fit_s: float
) -> list[Probe]:
    """Train each model for a few steps on ``train``; stop where memory ends or a fit would pass ``fit_s``.

    Raises:
        TrainingError: the narrowest model cannot be trained, or the examples are no task's.
    """
    found: list[Probe] = []
    percents = ModelLevels(task).percents
    defaults, rng = task.defaults, SystemRandom()
    steps = defaults.epochs * math.ceil(len(train) / defaults.batch_size)
    batch = slice(0, min(defaults.batch_size, len(train)))
    options = FitOptions(epochs=1, learning_rate=defaults.learning_rate, batch_size=defaults.batch_size)
    for level in sorted(range(len(percents)), key=lambda one: percents[one]):
        held = allocated_bytes()
        try:
            ready = ReadyTask(task, digest, level, settings)
            # The first step plans the memory.
            ready.trainer.fit(train.x[batch], train.y[batch], options, rng)
            began = time.perf_counter()
            for _ in range(STEPS):
                ready.trainer.fit(train.x[batch], train.y[batch], options, rng)
        except (MemoryError, FitMemoryError):
            # The interpreter has its own way of saying so.
            break
        seconds = (time.perf_counter() - began) / STEPS * steps
        found.append(Probe(percents[level], seconds, max(0, allocated_bytes() - held)))
        del ready
        if seconds > fit_s:
            break
    return found
