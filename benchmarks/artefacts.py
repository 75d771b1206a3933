#!/usr/bin/env python3
"""What deployment costs: float and int8 artefacts of trained models of every shipped task, on test examples.

Each task is trained inside LiteRT for a bounded number of steps on a part of its public data, deployed with
100 of the training examples for calibration, and both files are asked about test examples nobody trained on.

    python benchmarks/artefacts.py --json benchmarks/results/artefacts.json
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets.base import Dataset
from output import Figure, write

from shoal_codecs.wire.task import decode_task, initial_weights
from shoal_coordinator.artefacts import float_artefact, int8_artefact, make_artefacts, measure_ranges
from shoal_coordinator.config import shipped
from shoal_coordinator.deployable.templates import make_templates
from shoal_coordinator.tasks import shipped_task, shipped_tasks
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.inference import InferenceModel
from shoal_edge.trainers.litert import LiteRtTrainer

CALIBRATION = 100
REPEATS = 9
Parts = tuple[Dataset, Dataset]


def digits() -> Parts:
    """Train and test digits."""
    with np.load(shipped("digits.npz")) as file:
        x, y = file["x"], file["y"].astype(np.int32)
    return Dataset(x, y, np.zeros(len(y), np.int32)).split(0.2)


def mnist() -> Parts:
    """MNIST as published."""
    from datasets.images import mnist as read  # noqa: PLC0415 - each set has readers of its own

    return read("train"), read("test")


def flat_mnist() -> Parts:
    """The same in one row each."""
    train, test = mnist()
    return tuple(Dataset(one.x.reshape(len(one), -1), one.y, one.groups) for one in (train, test))  # type: ignore[return-value]


def coloured() -> Parts:
    """Coloured digits."""
    from datasets.images import coloured as make  # noqa: PLC0415

    return make("train", count=6000), make("test", count=2000)


def beats() -> Parts:
    """Heart beats, the last ones of each stretch of time for the test."""
    from datasets.ecg import beats as read  # noqa: PLC0415

    return read().split(0.25)


def vibration() -> Parts:
    """Windows of vibration."""
    from datasets.vibration import windows  # noqa: PLC0415

    return windows().split(0.2)


def characters() -> Parts:
    """Next characters of plays."""
    from datasets.shakespeare import next_characters  # noqa: PLC0415

    return next_characters(roles=30).split(0.1)


def words() -> Parts:
    """Next words of plays."""
    from datasets.shakespeare import next_words  # noqa: PLC0415

    return next_words(roles=30).split(0.1)


def plays() -> Parts:
    """Speeches and their kind of play."""
    from datasets.shakespeare import kinds_of_play  # noqa: PLC0415

    return kinds_of_play().split(0.2)


# Steps of training; enough that most answers are decided, not a benchmark of learning.
TASKS: dict[str, tuple[Callable[[], Parts], int]] = {
    "digits": (digits, 3000),
    "dscnn-32": (coloured, 2000),
    "gru-next-character": (characters, 3000),
    "gru-next-word": (words, 3000),
    "lstm-ecg": (beats, 3000),
    "mnist-2nn": (flat_mnist, 2000),
    "mnist-cnn": (mnist, 600),
    "mnist-head": (mnist, 1000),
    "text-kind": (plays, 15_000),
    "vibration-cnn": (vibration, 5000),
}


def some(examples: Dataset, count: int, seed: int) -> Dataset:
    """Return at most ``count`` examples, drawn without replacement."""
    order = np.random.default_rng(seed).permutation(len(examples))
    return examples.take(order[:count])


def measured(name: str, tests: int) -> list[Figure]:
    """Train, deploy, and compare on at most ``tests`` examples."""
    bundle = decode_task(shipped_task(name).read_bytes())
    maker, steps = TASKS[name]
    train, test = maker()
    batch = bundle.defaults.batch_size
    train, test = some(train, steps * batch, 0), some(test, tests, 1)
    trainer = LiteRtTrainer(bundle)
    trainer.set_weights(initial_weights(bundle.parameters, 1))
    options = FitOptions(
        epochs=max(1, round(steps * batch / len(train))),
        learning_rate=bundle.defaults.learning_rate,
        batch_size=batch,
    )
    trainer.fit(train.x, train.y, options, rng=np.random.default_rng(2))
    weights = trainer.get_weights()
    began = time.perf_counter()
    templates = make_templates(bundle)
    making = time.perf_counter() - began
    calibration = train.x[:CALIBRATION]
    made = make_artefacts(templates, weights, calibration)
    ranges = measure_ranges(templates, weights, calibration)
    wide = InferenceModel(made.float32).evaluate(test.x, test.y)
    narrow = InferenceModel(made.int8).evaluate(test.x, test.y)

    def figure(what: str, value: float, unit: str, **more: Any) -> Figure:
        return Figure(f"{name.replace('-', '_')}_{what}", [value], unit, **more)

    return [
        figure("float_accuracy", wide.accuracy, "share"),
        figure("int8_accuracy", narrow.accuracy, "share", peer="float artefact", peer_value=wide.accuracy),
        figure("int8_bytes", len(made.int8), "B", peer="float artefact", peer_value=len(made.float32)),
        figure("templates", making, "s"),
        Figure(
            f"{name.replace('-', '_')}_fill_float", timed(lambda: float_artefact(templates, weights)), "ms"
        ),
        Figure(
            f"{name.replace('-', '_')}_fill_int8",
            timed(lambda: int8_artefact(templates, weights, ranges)),
            "ms",
        ),
    ]


def timed(work: Callable[[], bytes]) -> list[float]:
    """Return the milliseconds of ``REPEATS`` runs."""
    times: npt.NDArray[np.float64] = np.empty(REPEATS)
    for place in range(REPEATS):
        began = time.perf_counter()
        work()
        times[place] = 1000 * (time.perf_counter() - began)
    return [round(float(one), 3) for one in times]


def main() -> None:
    """Measure the tasks named, all by default."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--tests", type=int, default=1000, help="test examples at most")
    parser.add_argument("--task", action="append", choices=shipped_tasks(), help="only this one")
    given = parser.parse_args()
    figures = []
    for name in given.task or shipped_tasks():
        figures += measured(name, given.tests)
        print(name, *(f"{one.figure} {one.value:.6g}" for one in figures[-6:]), flush=True)
    settings = {"calibration": CALIBRATION, "tests": given.tests, "steps": {n: TASKS[n][1] for n in TASKS}}
    write("artefacts", settings, figures, given.json)


if __name__ == "__main__":
    main()
