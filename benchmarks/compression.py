"""What compression before the first round costs and gives: packed bytes and accuracy on the digits.

PYTHONPATH=codecs:coordinator:edge python benchmarks/compression.py --json
benchmarks/results/compression.json

Needs TensorFlow (`shoal[authoring]`). Every model is authored by the kit and trained inside LiteRT as a
device trains, on 80 % of the digits that come with Shoal, in one place (what federation costs is another
benchmark's); the rest is the test. Runs differ in the order of examples. Bytes are those of the weights as
the deployed model holds them, packed with zlib: what a release sends. The peer of each row is the same
model without compression.
"""

from __future__ import annotations

import argparse
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import numpy.typing as npt
from output import Figure, write

from shoal_codecs.wire.task import TaskBundle, split_weights
from shoal_coordinator.authoring import (
    Clustered,
    Dense,
    Input,
    Layer,
    Pruned,
    Quantised,
    Task,
    Teacher,
    freeze,
)
from shoal_coordinator.authoring.author import author
from shoal_coordinator.authoring.compression import largest, nearest
from shoal_coordinator.config import shipped
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

OPTIONS = FitOptions(epochs=30, learning_rate=0.05, batch_size=16)
RUNS = 3
KEPT, VALUES, NARROW = 0.1, 16, 8
TEMPERATURE = 3.0
Weights = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Trained:
    """What the runs of one model gave: accuracies, and the first run's weights."""

    accuracies: list[float]
    weights: Weights


class Bench:
    """Digits split once; trains and evaluates tasks on them."""

    def __init__(self) -> None:
        with np.load(shipped("digits.npz")) as arrays:
            x, y = arrays["x"], arrays["y"].astype(np.int32)
        # Rounded weights on whole numbers make sums of exactly zero, where float32 and float64 may choose
        # another side of relu, and the check of the gradients fails. A grey level is a rounded one anyhow.
        x = (x + np.random.default_rng(9).uniform(-0.5, 0.5, x.shape)).astype(np.float32)
        order = np.random.default_rng(0).permutation(len(y))
        cut = len(y) * 4 // 5
        self.train = x[order[:cut]], y[order[:cut]]
        self.test = x[order[cut:]], y[order[cut:]]

    def task(self, name: str, layers: Sequence[Layer], **more: Any) -> Task:
        """Return a task of the digits."""
        about = Input((64,), dtype="float32", minimum=-1, maximum=17, mean=4.9, deviation=6.0)
        return Task(name, about, list(layers), labels=tuple("0123456789"), **more)

    def trained(self, task: Task) -> tuple[TaskBundle, Trained]:
        """Author ``task`` and train it ``RUNS`` times from the same weights."""
        bundle, accuracies = author(task), []
        kept: Weights = {}
        for run in range(RUNS):
            trainer = LiteRtTrainer(bundle)
            trainer.fit(*self.train, OPTIONS, np.random.default_rng(run))
            accuracies.append(trainer.evaluate(*self.test).accuracy)
            kept = kept or split_weights(trainer.get_weights(), bundle.parameters)
        print(f"{task.name}: {accuracies}", flush=True)
        return bundle, Trained(accuracies, kept)

    def accuracy(self, bundle: TaskBundle, weights: Weights) -> float:
        """Return the test accuracy of ``bundle`` with these weights."""
        trainer = LiteRtTrainer(bundle)
        trainer.set_weights(np.concatenate([weights[one.name].ravel() for one in bundle.parameters]))
        return trainer.evaluate(*self.test).accuracy


def levels_of(weights: Weights, bits: int) -> tuple[Weights, bytes]:
    """Return weights rounded to ``bits`` after training, and what is stored of them, packed."""
    most, rounded, stored = 2 ** (bits - 1) - 1, dict(weights), b""
    for name, one in weights.items():
        if one.ndim == 1:
            stored += one.tobytes()
            continue
        scale = np.float32(np.abs(one).max() / most)
        levels = np.rint(one / scale).astype(np.int8)
        rounded[name] = levels * scale
        stored += scale.tobytes() + levels.tobytes()
    return rounded, zlib.compress(stored, 9)


def plain_bytes(weights: Weights) -> int:
    """Return the packed length of float32 weights."""
    return len(zlib.compress(b"".join(one.tobytes() for one in weights.values()), 9))


def figures() -> list[Figure]:
    """Train, compress, measure."""
    bench, rows = Bench(), []
    layers = [Dense(128, activation="relu", name="one"), Dense(10, name="two")]
    bundle, full = bench.trained(bench.task("float", layers))
    size = plain_bytes(full.weights)

    def row(
        name: str, accuracies: list[float], packed: int, peer: Trained = full, peer_bytes: int = 0
    ) -> None:
        beside = "the same model, float32"
        middle = float(np.median(peer.accuracies))
        rows.append(Figure(f"{name}_accuracy", accuracies, "share", beside, middle))
        rows.append(
            Figure(f"{name}_packed_bytes", [float(packed)], "bytes", beside, float(peer_bytes or size))
        )

    row("float32", full.accuracies, size)
    for bits in (8, 4, 2):
        rounded, stored = levels_of(full.weights, bits)
        row(f"int{bits}_after_training", [bench.accuracy(bundle, rounded)], len(stored))
        aware = [Quantised(one, bits=bits, name=one.name) for one in layers]
        _, trained = bench.trained(bench.task(f"aware-{bits}", aware))
        row(f"int{bits}_aware", trained.accuracies, len(levels_of(trained.weights, bits)[1]))

    masks = {name: largest(full.weights[f"{name}_w"], KEPT) for name in ("one", "two")}
    cut = {name: one * masks[name[:3]] if name.endswith("_w") else one for name, one in full.weights.items()}
    row("pruned_after_training", [bench.accuracy(bundle, cut)], plain_bytes(cut))
    pruned = [Pruned(one, {"w": masks[one.name]}, name=one.name) for one in layers]
    _, trained = bench.trained(bench.task("pruned", pruned))
    cut = {n: one * masks[n[:3]] if n.endswith("_w") else one for n, one in trained.weights.items()}
    row("pruned_mask", trained.accuracies, plain_bytes(cut))
    row("pruned_mask_int8", [bench.accuracy(bundle, levels_of(cut, 8)[0])], len(levels_of(cut, 8)[1]))

    shared = {name: nearest(full.weights[f"{name}_w"], VALUES) for name in ("one", "two")}
    clustered = [Clustered(one, {"w": shared[one.name]}, name=one.name) for one in layers]
    few, trained = bench.trained(bench.task("clustered", clustered))
    stored = b"".join(one.tobytes() for one in trained.weights.values())
    stored += b"".join(one.astype(np.uint8).tobytes() for one in shared.values())
    row("clustered", trained.accuracies, len(zlib.compress(stored, 9)))
    rows.append(
        Figure("clustered_parameters_that_travel", [few.dimension], "count", "float32", bundle.dimension)
    )

    small = [Dense(NARROW, activation="relu", name="one"), Dense(10, name="two")]
    _, alone = bench.trained(bench.task("narrow", small))
    row("narrow_alone", alone.accuracies, plain_bytes(alone.weights))
    teacher = Teacher(freeze(layers, (64,), full.weights), weight=0.7, temperature=TEMPERATURE)
    _, taught = bench.trained(replace(bench.task("taught", small), teacher=teacher))
    row("narrow_taught", taught.accuracies, plain_bytes(taught.weights), alone, plain_bytes(alone.weights))
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the result goes")
    path: Path | None = parser.parse_args().json
    settings = {
        "model": "64-128-10, narrow: 64-8-10",
        "epochs": OPTIONS.epochs,
        "learning_rate": OPTIONS.learning_rate,
        "batch_size": OPTIONS.batch_size,
        "kept": KEPT,
        "values": VALUES,
        "teacher_weight": 0.7,
        "temperature": TEMPERATURE,
        "int_bits": "8, 4, 2 (levels -1, 0, 1); one scale a matrix, biases float32",
    }
    write("compression", settings, figures(), path)


if __name__ == "__main__":
    main()
