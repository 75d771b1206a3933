"""The digits in three widths, for tests of mixed fleets. ``shoal author`` makes the .task beside it."""

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import Dense, Input, Task

task = Task(
    name="digits-widths",
    input=Input((64,), maximum=16, deviation=16),
    labels=tuple("0123456789"),
    layers=[Dense(128, activation="relu"), Dense(64, activation="relu"), Dense(10)],
    defaults=TrainingDefaults(epochs=5, learning_rate=0.1, batch_size=16),
    prox=True,
    correction=True,
    widths=(0.5, 0.25),
)
