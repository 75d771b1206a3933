"""Handwritten digits of 8 by 8 pixels, an MLP with 9,610 parameters: what the demo's fleet trains."""

from pathlib import Path

import numpy as np

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import Dense, Input, Task

# Public examples that never go to a device, ten of each digit.
PUBLIC = Path(__file__).parents[1] / "demo" / "data" / "digits_calibration.npz"

with np.load(PUBLIC) as public:
    examples = (public["x"][::12][:8], public["y"][::12][:8])

task = Task(
    name="digits-mlp-64-128-10",
    input=Input((64,), maximum=16, deviation=16),
    labels=tuple("0123456789"),
    layers=[Dense(128, activation="relu"), Dense(10)],
    defaults=TrainingDefaults(epochs=5, learning_rate=0.2, batch_size=16),
    prox=True,
    correction=True,
    private=True,
    examples=examples,
)
