"""Every layer, loss and optimiser of the kit in LiteRT's aarch64 wheel, under emulation.

The gradients are held against those that automatic differentiation found in double precision when the task
was authored, and a few steps of each optimiser against the same steps here. Run
``scripts/aarch64-environment`` first; without it the test is skipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from emulated import require_emulation, run_emulated
from shoal_codecs.wire.task import encode_task
from shoal_coordinator import authoring as kit
from shoal_coordinator.authoring.author import author
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

LABELS = ("a", "b", "c")
WAVE = kit.Input((12, 2), dtype="float32", minimum=-3, maximum=3)
TASKS = {
    "image": kit.Task(
        "image",
        kit.Input((8, 8, 1), mean=20, deviation=60),
        [
            kit.Conv2D(3, activation="relu"),
            kit.MaxPool(),
            kit.DepthwiseConv2D(),
            kit.AveragePool(),
            kit.Flatten(),
            kit.Dense(3),
        ],
        LABELS,
        optimiser=kit.Momentum(),
        prox=True,
        correction=True,
    ),
    "norms": kit.Task(
        "norms",
        kit.Input((6, 6, 2), mean=100, deviation=80),
        [
            kit.Conv2D(4),
            kit.BatchNorm(),
            kit.Activation("relu"),
            kit.GlobalAveragePool(),
            kit.LayerNorm(),
            kit.Dense(3),
        ],
        LABELS,
    ),
    "wave": kit.Task(
        "wave",
        WAVE,
        [
            kit.Conv1D(4, activation="relu"),
            kit.GlobalMaxPool(),
            kit.Reshape((2, 2)),
            kit.Flatten(),
            kit.Dense(3),
        ],
        LABELS,
        optimiser=kit.Adam(),
    ),
    "tokens": kit.Task(
        "tokens",
        kit.Input((5,), dtype="int32", minimum=0, maximum=9),
        [kit.Embedding(10, 4), kit.GRU(4), kit.Dropout(0.25), kit.Dense(3)],
        LABELS,
    ),
    "values": kit.Task("values", WAVE, [kit.LSTM(4), kit.Dense(2)], loss=kit.MeanSquaredError()),
    "private": kit.Task(
        "private",
        WAVE,
        [kit.Conv1D(3, activation="relu"), kit.GlobalAveragePool(), kit.Dense(3)],
        LABELS,
        private=True,
    ),
}
COVERED = {
    *("Activation", "AveragePool", "BatchNorm", "Conv1D", "Conv2D", "Dense", "DepthwiseConv2D", "Dropout"),
    *(
        "Embedding",
        "Flatten",
        "GRU",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "LSTM",
        "LayerNorm",
        "MaxPool",
        "Reshape",
    ),
}
SCRIPT = """
import json, platform, sys
from pathlib import Path
import numpy as np
from shoal_codecs.wire.task import decode_task
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

told = {"machine": platform.machine(), "weights": {}}
for path in map(Path, sys.argv[1:]):
    bundle = decode_task(path.read_bytes())
    trainer = LiteRtTrainer(bundle)
    trainer.self_test()
    x, y = bundle.reference.x.numpy(), bundle.reference.y.numpy()
    trainer.fit(x, y, FitOptions(epochs=3, learning_rate=0.05, batch_size=len(y)), np.random.default_rng(1))
    told["weights"][path.stem] = trainer.get_weights().tolist()
print(json.dumps(told))
"""


def test_every_layer_is_among_them() -> None:
    used = {type(layer).__name__ for task in TASKS.values() for layer in task.layers}
    assert used == COVERED


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_aarch64_finds_the_reference_gradients_of_every_layer_and_steps_as_here(tmp_path: Path) -> None:
    require_emulation()
    here = {}
    for name, task in TASKS.items():
        bundle = author(task)
        (tmp_path / f"{name}.task").write_bytes(encode_task(bundle))
        trainer = LiteRtTrainer(bundle)
        x, y = bundle.reference.x.numpy(), bundle.reference.y.numpy()
        options = FitOptions(epochs=3, learning_rate=0.05, batch_size=len(y))
        trainer.fit(x, y, options, np.random.default_rng(1))
        here[name] = trainer.get_weights()
    told = run_emulated(SCRIPT, *map(str, tmp_path.glob("*.task")))
    assert told["weights"].keys() == here.keys()
    for name, weights in here.items():
        assert np.abs(np.array(told["weights"][name]) - weights).max() < 1e-4, name
