"""What a swarm costs beside training alone: memory of all its processes, CPU and wall seconds of a round.

scripts/fetch-mnist && python benchmarks/swarm.py --json benchmarks/results/swarm.json

100 devices with the MNIST 2NN (199,210 parameters), ten of them in each round. Training alone is the same
fits on the same shares in as many processes, in turn with the rounds, for the machine may be busy.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import mean
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
    """The fits of one round's devices without anything around them, in as many processes as the swarm has."""

    def __init__(self, task: Path, train: Path, devices: int, epochs: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        arguments = (task, train, devices, epochs)
        self._workers = workers
        self._pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_prepare, initargs=arguments
        )

    def round(self) -> tuple[float, float]:
        """Return (wall, CPU) seconds of a round's fits."""
        began = time.perf_counter()
        spent = sum(self._pool.map(_fit, range(COHORT)))
        return time.perf_counter() - began, spent

    def close(self) -> None:
        """End the processes."""
        self._pool.shutdown()


_prepared: dict[str, Any] = {}
"""In a process of ``Alone``: the trainer, its options and the shares."""


def _prepare(task: Path, train: Path, devices: int, epochs: int) -> None:
    with np.load(train) as data:
        x, y = data["x"], data["y"].astype(np.int32)
    shares = Partition.parse("iid").split(y, devices, 1)[:COHORT]
    trainer = LiteRtTrainer(decode_task(task.read_bytes()))
    options = FitOptions(epochs=epochs, learning_rate=0.1, batch_size=10)
    _prepared.update(trainer=trainer, options=options, data=[(x[own], y[own]) for own in shares])


def _fit(place: int) -> float:
    """Return the CPU seconds of one fit, as the worker does it: set the weights, train, read them."""
    trainer: LiteRtTrainer = _prepared["trainer"]
    x, y = _prepared["data"][place]
    began = time.process_time()
    trainer.set_weights(trainer.initial_weights())
    trainer.fit(x, y, _prepared["options"], np.random.default_rng(1))
    trainer.get_weights()
    return time.process_time() - began


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


async def measure(fleet: Fleet, alone: Alone, options: argparse.Namespace) -> dict[str, list[float]]:
    """Run rounds, and fits alone in turn; return seconds of one round and memory, for each repetition."""
    pid = fleet.pid("swarm")
    names = ("wall", "cpu", "alone_wall", "alone_cpu", "pss")
    found: dict[str, list[float]] = {name: [] for name in names}
    await fleet.run_rounds(WARM_UP)
    await asyncio.to_thread(alone.round)
    for _ in range(options.repeats):
        before = cpu_seconds(pid)
        found["wall"].append(await fleet.run_rounds(options.rounds) / options.rounds)
        found["cpu"].append((cpu_seconds(pid) - before) / options.rounds)
        found["pss"].append(pss_mb(pid))
        rounds = [await asyncio.to_thread(alone.round) for _ in range(options.rounds)]
        found["alone_wall"].append(mean(wall for wall, _ in rounds))
        found["alone_cpu"].append(mean(cpu for _, cpu in rounds))
    return found


async def run(epochs: int, options: argparse.Namespace) -> list[Figure]:
    """Measure rounds of ``epochs`` local epochs."""
    train, _ = files_of("mnist", options.folder)
    task = options.tasks / "mnist_2nn.task"
    alone = Alone(task, train, options.devices, epochs, os.cpu_count() or 1)
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
            found = await measure(fleet, alone, options)
    alone.close()
    return _figures(epochs, start, found)


def _figures(epochs: int, start: float, found: dict[str, list[float]]) -> list[Figure]:
    stem = f"swarm_epochs_{epochs}"
    pairs = list(zip(found["cpu"], found["alone_cpu"], strict=True))
    rows: list[tuple[str, list[float], str]] = [
        ("start", [start], "s"),
        ("memory", found["pss"], "MB PSS"),
        ("round_wall", found["wall"], "s"),
        ("training_alone_wall", found["alone_wall"], "s"),
        ("round_cpu", found["cpu"], "CPU-s"),
        ("training_alone_cpu", found["alone_cpu"], "CPU-s"),
        ("overhead_cpu", [cpu / alone - 1 for cpu, alone in pairs], "share"),
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
