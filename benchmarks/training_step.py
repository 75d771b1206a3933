"""Steps of a task in one of Shoal's trainers, in a process that has loaded what a device's worker loads.

python benchmarks/training_step.py MODEL.json litert|torch
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import numpy as np

import shoal_edge.jobs.reporting  # noqa: F401 - its memory counts
from shoal_codecs.memory import keep_freed_memory
from shoal_codecs.wire.blob import digest_of
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.system_random import SystemRandom
from shoal_edge.worker_settings import WorkerSettings
from shoal_edge.worker_task import ReadyTask, read_task


def peak_mib() -> float:
    """Return the most memory that this process had: not getrusage's, which begins with its parent's."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def main() -> None:
    """Measure and print one line of JSON."""
    about, kind = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), sys.argv[2]
    keep_freed_memory()
    path = Path(about["task"])
    digest = digest_of(path.read_bytes())
    settings = WorkerSettings(trainer=kind)  # type: ignore[arg-type]
    trainer = ReadyTask(read_task(path, digest), digest, 0, settings).trainer
    data = np.load(about["data"])
    x, y = data["x"], data["y"].astype(np.int32 if about["target"] == "label" else np.float32)
    marks = [(time.perf_counter(), time.process_time())]
    trainer.set_weights(trainer.initial_weights())
    options = FitOptions(
        epochs=max(1, about["steps"] * about["batch"] // len(x)),
        learning_rate=about["learning_rate"],
        batch_size=about["batch"],
    )
    trainer.fit(
        x,
        y,
        options,
        SystemRandom(),
        on_progress=lambda _done, _total: marks.append((time.perf_counter(), time.process_time())),
    )
    # Before the first mark of a step is an evaluation.
    walls = [after[0] - before[0] for before, after in pairwise(marks[1:])]
    cpu = (marks[-1][1] - marks[1][1]) / len(walls)
    peak = peak_mib()
    told = {"walls": walls, "cpu": cpu, "rss": peak, "runtime": trainer.runtime}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
