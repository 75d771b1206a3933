"""Windows of a bearing's vibration on three axes, healthy or with one of three faults: a 1-D CNN."""

import numpy as np

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import Conv1D, Dense, GlobalAveragePool, Input, MaxPool, Task

# Signals of the size that is expected; the range that is accepted is far wider.
rng = np.random.default_rng(1)
examples = (rng.normal(0, 0.5, (8, 256, 3)).astype(np.float32), np.arange(8, dtype=np.int32) % 4)

task = Task(
    name="vibration-cnn",
    input=Input((256, 3), dtype="float32", minimum=-50, maximum=50, deviation=0.5),
    labels=("healthy", "outer ring", "inner ring", "ball"),
    layers=[
        Conv1D(16, 9, stride=2, activation="relu"),
        MaxPool(2),
        Conv1D(32, 5, activation="relu"),
        MaxPool(2),
        Conv1D(32, 3, activation="relu"),
        GlobalAveragePool(),
        Dense(4),
    ],
    defaults=TrainingDefaults(epochs=5, learning_rate=0.1, batch_size=16),
    prox=True,
    correction=True,
    private=True,
    examples=examples,
)
