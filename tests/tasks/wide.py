"""1.9 million weights, and a quarter of the width: what the memory of a small board is tested with."""

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import Dense, Input, Task

task = Task(
    name="wide",
    input=Input((784,), maximum=255, deviation=255),
    labels=tuple("0123456789"),
    layers=[Dense(1024, activation="relu"), Dense(1024, activation="relu"), Dense(10)],
    defaults=TrainingDefaults(epochs=1, learning_rate=0.05, batch_size=16),
    widths=(0.25,),
)
