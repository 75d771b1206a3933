"""A quarter of a model's width takes a small part of its memory and report; each in a fresh process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from shoal_coordinator.config import shipped

TASK = Path(__file__).parents[1] / "tasks" / "wide.task"
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.task import decode_task, initial_weights
from shoal_edge.trainers.base import FitOptions
from shoal_edge.worker_settings import DEFAULT_SETTINGS
from shoal_edge.worker_task import ReadyTask, read_task

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def trained(path, level, features):
    digest = digest_of(path.read_bytes())
    ready = ReadyTask(read_task(path, digest), digest, level, DEFAULT_SETTINGS)
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 17, (64, features)).astype(np.uint8), rng.integers(0, 10, 64).astype(np.int32)
    fit = ready.trainer.fit(x, y, FitOptions(epochs=1, learning_rate=0.01, batch_size=16), rng)
    return fit, ready.trainer.get_weights()

# A small model first: what the interpreter takes of itself is no matter of widths.
trained(Path(sys.argv[3]), 0, 64)
before = peak()
fit, update = trained(Path(sys.argv[1]), int(sys.argv[2]), 784)
print(json.dumps({"grown_kib": peak() - before, "steps": fit.steps, "report_bytes": 4 * update.size}))
"""


def trained(level: int) -> dict[str, int]:
    command = [sys.executable, "-c", PROGRAM, str(TASK), str(level), str(shipped("digits.task"))]
    answer = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    found: dict[str, int] = json.loads(answer.stdout.splitlines()[-1])
    return found


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="tells memory as Linux does")
def test_a_quarter_of_the_width_takes_a_small_part_of_memory_and_bytes() -> None:
    full, quarter = trained(0), trained(1)
    assert full["steps"] == quarter["steps"] == 4
    assert quarter["grown_kib"] < full["grown_kib"] / 2
    assert quarter["report_bytes"] < full["report_bytes"] / 6
