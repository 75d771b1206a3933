"""What a swarm costs beside training alone: memory of all its processes, CPU and wall seconds of a round.

scripts/fetch-mnist && python benchmarks/swarm.py --json benchmarks/results/swarm.json

100 devices with the MNIST 2NN (199,210 parameters), ten of them in each round. Training alone is the same
fits on the same shares in this process, before and after the rounds, for the machine may be busy.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import psutil
from learning_data import TASKS, files_of
from local_fleet import Fleet, FleetPlan, local_fleet
from output import Figure, write

from shoal_codecs.partition import Partition
from shoal_codecs.wire.task import decode_task
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

ROOT = Path(__file__).resolve().parents[1]
COHORT = 10
WARM_UP = 10
NO_PEER = "none: training alone is what it is measured by"


class Alone:
    """The fits of some devices without anything around them."""

    def __init__(self, task: Path, train: Path, devices: int, epochs: int) -> None:
        self._trainer = LiteRtTrainer(decode_task(task.read_bytes()))
        self._options = FitOptions(epochs=epochs, learning_rate=0.1, batch_size=10)
        with np.load(train) as data:
            x, y = data["x"], data["y"].astype(np.int32)
        shares = Partition.parse("iid").split(y, devices, 1)[:COHORT]
        self._data = [(x[own], y[own]) for own in shares]

    def seconds(self) -> list[float]:
        """Return the CPU seconds of each fit, as the worker does it: set the weights, train, read them."""
        rng = np.random.default_rng(1)
        start = self._trainer.initial_weights()
        spent = []
        for x, y in self._data:
            began = time.process_time()
            self._trainer.set_weights(start)
            self._trainer.fit(x, y, self._options, rng)
            self._trainer.get_weights()
            spent.append(time.process_time() - began)
        return spent


def family(pid: int) -> list[psutil.Process]:
    """Return a process and its children."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its living children."""
    return float(sum(times.user + times.system for times in (one.cpu_times() for one in family(pid))))


def pss_mb(pid: int) -> float:
    """Return the memory of a process and its children, what they share counted once."""
    return float(sum(one.memory_full_info().pss for one in family(pid)) / 1e6)


async def measure(fleet: Fleet, rounds: int, repeats: int) -> dict[str, list[float]]:
    """Run rounds and return seconds of one round and memory, for each repetition."""
    pid = fleet.pid("swarm")
    found: dict[str, list[float]] = {"wall": [], "cpu": [], "pss": []}
    await fleet.run_rounds(WARM_UP)
    for _ in range(repeats):
        before = cpu_seconds(pid)
        found["wall"].append(await fleet.run_rounds(rounds) / rounds)
        found["cpu"].append((cpu_seconds(pid) - before) / rounds)
        found["pss"].append(pss_mb(pid))
    return found


async def run(epochs: int, options: argparse.Namespace) -> list[Figure]:
    """Measure rounds of ``epochs`` local epochs."""
    train, _ = files_of("mnist", options.folder)
    task = options.tasks / "mnist_2nn.task"
    alone = Alone(task, train, options.devices, epochs)
    spent = alone.seconds()
    with tempfile.TemporaryDirectory() as folder:
        plan = FleetPlan(
            folder=Path(folder),
            devices=options.devices,
            data=train,
            partition="iid",
            task=task,
            rounds={
                "mode": "plain",
                "codec": "dense",
                "cohort_max": COHORT,
                "epochs": epochs,
                "batch_size": 10,
                "learning_rate": 0.1,
                "clip_norm": 100.0,
                "weight_cap": 10_000,
            },
        )
        began = time.perf_counter()
        async with local_fleet(plan) as fleet:
            start = time.perf_counter() - began
            found = await measure(fleet, options.rounds, options.repeats)
    spent += alone.seconds()
    return _figures(epochs, COHORT * median(spent), start, found)


def _figures(epochs: int, alone: float, start: float, found: dict[str, list[float]]) -> list[Figure]:
    stem = f"swarm_epochs_{epochs}"
    rows: list[tuple[str, list[float], str]] = [
        ("start", [start], "s"),
        ("memory", found["pss"], "MB PSS"),
        ("round_wall", found["wall"], "s"),
        ("round_cpu", found["cpu"], "CPU-s"),
        ("training_alone_cpu", [alone], "CPU-s"),
        ("overhead", [cpu / alone - 1 for cpu in found["cpu"]], "share"),
    ]
    return [
        Figure(f"{stem}_{name}", [round(one, 4) for one in runs], unit, peer=NO_PEER)
        for name, runs, unit in rows
    ]


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 5])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=ROOT / ".data/learning", help="where data is made")
    parser.add_argument("--tasks", type=Path, default=TASKS, help="the task files")
    options = parser.parse_args()
    figures = [figure for epochs in options.epochs for figure in asyncio.run(run(epochs, options))]
    settings: dict[str, Any] = {
        "devices": options.devices,
        "cohort": COHORT,
        "workers": os.cpu_count(),
        "batch_size": 10,
        "mode": "plain",
        "codec": "dense",
        "rounds": options.rounds,
    }
    write("swarm", settings, figures, options.json)


if __name__ == "__main__":
    main()
