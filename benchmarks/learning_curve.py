"""One curve: run a fleet's rounds, score every version on the test examples, keep what is known on disk."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from learning_parts import Part
from local_fleet import Fleet, FleetPlan, local_fleet

from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.wire.task import decode_task
from shoal_coordinator.aggregation import vector_of
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

STEP = 5
"""Rounds between two looks at whether the goal is reached."""
KEPT = 200
STORE = "fleet/coordinator/data"
DATABASE = "coordinator.sqlite3"


@dataclass
class Curve:
    """Test accuracy by version, the seconds the rounds took, and the learning rate of the devices."""

    rate: float
    points: list[tuple[int, float]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def last(self) -> int:
        """The newest version that was scored."""
        return self.points[-1][0] if self.points else -1

    def reached(self, goal: float) -> int | None:
        """Return the first version at ``goal`` or over it, None where there is none yet."""
        return next((version for version, accuracy in self.points if accuracy >= goal), None)

    def recent(self) -> float:
        """Return the mean of the last five accuracies."""
        return mean(accuracy for _, accuracy in self.points[-5:]) if self.points else 0.0

    @classmethod
    def load(cls, path: Path, rate: float) -> Curve:
        """Return what an earlier run left at ``path``, or an empty curve."""
        if not path.is_file():
            return cls(rate)
        kept = json.loads(path.read_text(encoding="utf-8"))
        return cls(kept["rate"], [(number, accuracy) for number, accuracy in kept["points"]], kept["seconds"])

    def save(self, path: Path) -> None:
        """Write the curve, whole or not at all."""
        beside = path.with_suffix(".new")
        beside.write_text(json.dumps(asdict(self)), encoding="utf-8")
        beside.replace(path)


class Judge:
    """Scores a coordinator's versions on test examples, in a thread of its own."""

    def __init__(self, task: Path, test: Path) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._task, self._test = task, test
        self._trainer: LiteRtTrainer | None = None
        self._data: dict[str, Any] = {}

    async def score(self, store: Path, curve: Curve) -> None:
        """Add the versions in ``store`` that ``curve`` does not have."""
        loop = asyncio.get_running_loop()
        for number, digest in _versions(store, curve.last):
            blob = BlobStore(store / "blobs")
            if blob.has(digest.hex()):
                accuracy = await loop.run_in_executor(self._thread, self._accuracy, blob.read(digest.hex()))
                curve.points.append((number, accuracy))

    def _accuracy(self, vector: bytes) -> float:
        if self._trainer is None:
            self._trainer = LiteRtTrainer(decode_task(self._task.read_bytes()))
            with np.load(self._test) as data:
                self._data = {"x": data["x"], "y": data["y"].astype(np.int32)}
        self._trainer.set_weights(vector_of(vector))
        return self._trainer.evaluate(self._data["x"], self._data["y"]).accuracy


def _versions(store: Path, after: int) -> list[tuple[int, bytes]]:
    with sqlite3.connect(f"file:{store / DATABASE}?mode=ro", uri=True) as database:
        query = "select number, digest from versions where number > ? order by number"
        return [(int(number), bytes(digest)) for number, digest in database.execute(query, (after,))]


def run_centralised(
    part: Part, task: Path, train: Path, test: Path, heard: Callable[[Part, Curve], None]
) -> Curve:
    """Train on all data in one place, an epoch at a time, and score each."""
    trainer = LiteRtTrainer(decode_task(task.read_bytes()))
    rng = np.random.default_rng(1)
    curve = Curve(part.rates[0])
    options = FitOptions(epochs=1, learning_rate=part.rates[0], batch_size=int(part.settings["batch_size"]))
    with np.load(train) as data, np.load(test) as unseen:
        x, y, test_x, test_y = data["x"], data["y"], unseen["x"], unseen["y"]
    for epoch in range(1, part.rounds + 1):
        began = time.perf_counter()
        trainer.fit(x, y, options, rng)
        curve.seconds += time.perf_counter() - began
        curve.points.append((epoch, trainer.evaluate(test_x, test_y).accuracy))
        heard(part, curve)
    return curve


async def run_part(
    part: Part,
    task: Path,
    train: Path,
    test: Path,
    folder: Path,
    heard: Callable[[Part, Curve], None],
    seed: int = 1,
) -> Curve:
    """Run the grid of rates, then the best one on; ``heard`` is told of the best so far after each step.

    What an earlier run left in ``folder`` is gone on with. ``seed`` draws the split and the first weights.
    """
    judge = Judge(task, test)
    if seed != 1:
        folder /= f"seed-{seed}"
    curves: dict[float, Curve] = {}
    for rate in part.rates:
        place = folder / part.name / f"lr-{rate:g}"
        place.mkdir(parents=True, exist_ok=True)
        curves[rate] = Curve.load(place / "curve.json", rate)
        if len(part.rates) > 1 and curves[rate].last < part.trial:
            await _run(part, rate, task, train, place, judge, curves[rate], part.trial, lambda _: None, seed)
        print(f"{part.name} lr {rate:g}: {curves[rate].recent():.4f} at {curves[rate].last}", flush=True)
    best = max(part.rates, key=lambda rate: curves[rate].recent() if curves[rate].last <= part.trial else 1.0)
    place = folder / part.name / f"lr-{best:g}"

    def heard_of(curve: Curve) -> None:
        heard(part, curve)

    await _run(part, best, task, train, place, judge, curves[best], part.rounds, heard_of, seed)
    return curves[best]


async def _run(
    part: Part,
    rate: float,
    task: Path,
    train: Path,
    place: Path,
    judge: Judge,
    curve: Curve,
    until: int,
    heard: Callable[[Curve], None],
    seed: int,
) -> None:
    if curve.last >= until or curve.reached(part.goal) is not None:
        heard(curve)
        return
    plan = FleetPlan(
        folder=place,
        devices=part.devices,
        data=train,
        partition=part.partition,
        seed=seed,
        task=task,
        rounds=part.settings | {"learning_rate": rate, "kept_versions": KEPT},
        device=part.device,
    )
    async with local_fleet(plan) as fleet:
        while True:
            await judge.score(place / STORE, curve)
            curve.save(place / "curve.json")
            heard(curve)
            if curve.last >= until or curve.reached(part.goal) is not None:
                return
            await _step(fleet, curve, min(STEP, until - curve.last))


async def _step(fleet: Fleet, curve: Curve, count: int) -> None:
    began = time.perf_counter()
    await fleet.run_rounds(count)
    curve.seconds += time.perf_counter() - began
