"""Colour images of 32 by 32 with ten labels: a depthwise-separable CNN like MobileNet (Howard et al. 2017).

With batch norm, as there: layer norm in its place leaves it at chance for thousands of steps. Fleets whose
devices see different pictures keep the norms on each device (FedBN, ``rounds.local``).
"""

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import (
    Activation,
    BatchNorm,
    Conv2D,
    Dense,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    Layer,
    Task,
)


def separable(filters: int, stride: int) -> list[Layer]:
    """Return a depthwise and a pointwise convolution, each with its norm."""
    return [
        DepthwiseConv2D(3, stride=stride),
        BatchNorm(),
        Activation("relu"),
        Conv2D(filters, 1),
        BatchNorm(),
        Activation("relu"),
    ]


task = Task(
    name="dscnn-32",
    input=Input((32, 32, 3), mean=127.5, deviation=64),
    labels=tuple("0123456789"),
    layers=[
        Conv2D(16, 3, stride=2),
        BatchNorm(),
        Activation("relu"),
        *separable(32, 1),
        *separable(64, 2),
        *separable(64, 1),
        *separable(128, 2),
        GlobalAveragePool(),
        Dense(10),
    ],
    defaults=TrainingDefaults(epochs=1, learning_rate=0.1, batch_size=16),
    prox=True,
    correction=True,
)
