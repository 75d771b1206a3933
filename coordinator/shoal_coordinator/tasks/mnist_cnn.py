"""MNIST with the CNN of McMahan et al. 2017, section 3: 1,663,370 parameters.

Two convolutions of 5 by 5 with 32 and 64 channels, each with a max pool of 2 by 2, 512 units, a softmax.
"""

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import Conv2D, Dense, Flatten, Input, MaxPool, Task

task = Task(
    name="mnist-cnn",
    input=Input((28, 28, 1), deviation=255),
    labels=tuple("0123456789"),
    layers=[
        Conv2D(32, 5, activation="relu"),
        MaxPool(2),
        Conv2D(64, 5, activation="relu"),
        MaxPool(2),
        Flatten(),
        Dense(512, activation="relu"),
        Dense(10),
    ],
    defaults=TrainingDefaults(epochs=5, learning_rate=0.1, batch_size=10),
)
