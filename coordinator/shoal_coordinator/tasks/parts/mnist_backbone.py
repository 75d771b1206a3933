"""The frozen part of mnist-head: a small CNN whose weights ``scripts/train_backbone.py`` found."""

from pathlib import Path

from shoal_coordinator.authoring import Conv2D, DepthwiseConv2D, Flatten, MaxPool

SHAPE = (28, 28, 1)
DEVIATION = 255.0
LAYERS = (
    Conv2D(16, 3, stride=2, activation="relu"),
    DepthwiseConv2D(3, activation="relu"),
    Conv2D(32, 1, activation="relu"),
    MaxPool(2),
    Conv2D(64, 3, activation="relu"),
    MaxPool(2),
    Flatten(),
)
WEIGHTS = Path(__file__).with_name("mnist_backbone.npz")
"""int8 levels with their scales, and biases: 20,880 weights."""
