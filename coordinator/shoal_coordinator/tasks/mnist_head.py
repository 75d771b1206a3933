"""MNIST with a head of 5,770 parameters on a frozen int8 backbone: what the smallest boards can train.

The backbone saw the digits 0 to 4 of the training set only (``scripts/train_backbone.py``). Its weights are
int8 constants of the graph: they are in the file, never travel in a round, and nobody trains them.
"""

import numpy as np

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import Dense, Input, Task, freeze
from shoal_coordinator.authoring.int8_weights import unpacked
from shoal_coordinator.tasks.parts.mnist_backbone import DEVIATION, LAYERS, SHAPE, WEIGHTS

with np.load(WEIGHTS) as arrays:
    backbone = unpacked(arrays)

task = Task(
    name="mnist-head",
    input=Input(SHAPE, deviation=DEVIATION),
    labels=tuple("0123456789"),
    layers=[*freeze(LAYERS, SHAPE, backbone), Dense(10, name="head")],
    defaults=TrainingDefaults(epochs=1, learning_rate=0.05, batch_size=16),
    prox=True,
    correction=True,
    private=True,
)
