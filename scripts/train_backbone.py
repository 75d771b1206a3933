#!/usr/bin/env python3
"""Train the backbone of the task mnist-head on half of MNIST's digits; needs TensorFlow and the MNIST files.

    scripts/fetch-mnist && pip install -e '.[authoring,edge]' && scripts/train_backbone.py

It sees the digits 0 to 4 only, so that the head, which learns all ten on devices, has five to learn that the
backbone never saw. It is trained inside LiteRT, as devices train; its weights are rounded to int8 and written
beside its description.
"""

import sys
from pathlib import Path

import numpy as np

from shoal_codecs.wire.task import split_weights
from shoal_coordinator.authoring import Dense, Input, Task
from shoal_coordinator.authoring.author import author
from shoal_coordinator.authoring.int8_weights import packed
from shoal_coordinator.tasks.parts.mnist_backbone import DEVIATION, LAYERS, SHAPE, WEIGHTS
from shoal_edge.sources.idx import read_mnist
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

MNIST = Path(__file__).resolve().parents[1] / ".data" / "mnist"
SEEN = 5
OPTIONS = FitOptions(epochs=2, learning_rate=0.05, batch_size=32)


def main(folder: Path) -> None:
    """Train on the files in ``folder``, say how well it tells its digits apart, write the weights."""
    task = Task(
        name="mnist-backbone",
        input=Input(SHAPE, deviation=DEVIATION),
        labels=tuple("01234"),
        layers=[*LAYERS, Dense(SEEN, name="top")],
    )
    bundle = author(task)
    trainer = LiteRtTrainer(bundle)
    parts = {}
    for part in ("train", "test"):
        found = read_mnist(folder, part)
        rows = found.y < SEEN
        parts[part] = found.x[rows][..., None], found.y[rows]
    trainer.fit(*parts["train"], OPTIONS, np.random.default_rng(1))
    counts = trainer.evaluate(*parts["test"])
    weights = split_weights(trainer.get_weights(), bundle.parameters)
    kept = {name: value for name, value in weights.items() if not name.startswith("top_")}
    np.savez_compressed(WEIGHTS, **packed(kept))
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size:,} bytes, {counts.accuracy:.4f} of its own digits right")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else MNIST)
