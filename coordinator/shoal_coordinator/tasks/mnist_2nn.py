"""MNIST with the 2NN of McMahan et al. 2017, section 3: 199,210 parameters, E = 1, B = 10."""

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import Dense, Input, Task

task = Task(
    name="mnist-2nn",
    input=Input((784,), deviation=255),
    labels=tuple("0123456789"),
    layers=[Dense(200, activation="relu"), Dense(200, activation="relu"), Dense(10)],
    defaults=TrainingDefaults(epochs=1, learning_rate=0.1, batch_size=10),
    prox=True,
    correction=True,
    private=True,
)
