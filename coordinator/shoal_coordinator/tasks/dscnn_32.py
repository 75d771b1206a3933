"""Colour images of 32 by 32 with ten labels: a depthwise-separable CNN like MobileNet (Howard et al. 2017).

Layer norm stands where MobileNet has batch norm: a device's batches are small and of few labels.
"""

from shoal_codecs.wire.task import TrainingDefaults
from shoal_coordinator.authoring import (
    Conv2D,
    Dense,
    DepthwiseConv2D,
    GlobalAveragePool,
    Input,
    LayerNorm,
    Task,
)


def separable(filters: int, stride: int) -> list[DepthwiseConv2D | Conv2D | LayerNorm]:
    """Return a depthwise and a pointwise convolution."""
    return [
        DepthwiseConv2D(3, stride=stride),
        LayerNorm(),
        Conv2D(filters, 1, activation="relu"),
    ]


task = Task(
    name="dscnn-32",
    input=Input((32, 32, 3), mean=127.5, deviation=64),
    labels=tuple("0123456789"),
    layers=[
        Conv2D(16, 3, stride=2, activation="relu"),
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
