"""The model kit: describe a model once, get a task that trains inside the LiteRT interpreter.

A description is a list of layers, a loss and an optimiser:

    task = Task(
        name="digits-mlp",
        input=Input(shape=(64,), minimum=0, maximum=16, deviation=16),
        labels=tuple("0123456789"),
        layers=[Dense(128, activation="relu"), Dense(10)],
    )

Descriptions need no TensorFlow; it is imported where graphs are made (``plain_ops``, ``builtin_ops``,
``graphs``, ``convert``, ``inference``, ``reference``). One description is run through two sets of operations
with the same methods (``ops.Ops``):

- ``BuiltinOps``: float32; each has a gradient of its own made of LiteRT's builtin operators. Trainable files
  are traced with it.
- ``PlainOps``: TensorFlow's own operations and automatic differentiation; in float64 it makes the reference,
  in float32 the inference models that templates are made from.

The layer protocol (``layer.Layer``; each layer is a frozen dataclass). A layer is given its input's shape
without the batch axis and says what it makes of it and which parameters it has, by short names:

    built = layer.build((28, 28, 1))     # Built(shape=(24, 24, 32), parameters=(Parameter("w", ...), ...))
    y = layer.forward(run, p, x)         # p: tensors by those short names; run.ops, run.training, run.seed

``forward`` uses ``run.ops`` for everything that a gradient goes through, and so converts and is checked. What
a layer does in training only is asked of ``run.training``; a parameter that moves without a gradient (running
statistics) is handed to ``run.move(name, value)``. ``parts()`` splits a layer into simpler ones (a dense
layer and its activation). ``squares(run, p, x, dy)`` is the squared length of each example's own gradient
(n, 1): what DP-SGD needs of a layer with parameters. ``narrow(share)`` is the layer of a thinner model. A
full parameter's name is the layer's and the short one: ``dense1_w``.
"""

from shoal_coordinator.authoring.compression import Clustered, Pruned, Quantised, Teacher
from shoal_coordinator.authoring.convolution import Conv1D, Conv2D, DepthwiseConv2D
from shoal_coordinator.authoring.dense import Activation, Dense
from shoal_coordinator.authoring.frozen import Frozen, freeze
from shoal_coordinator.authoring.layer import Built, Layer, Run
from shoal_coordinator.authoring.losses import CrossEntropy, MeanSquaredError
from shoal_coordinator.authoring.normalisation import BatchNorm
from shoal_coordinator.authoring.optimisers import Adam, Momentum, Optimiser, Sgd
from shoal_coordinator.authoring.pooling import (
    AveragePool,
    Flatten,
    GlobalAveragePool,
    GlobalMaxPool,
    MaxPool,
    Reshape,
)
from shoal_coordinator.authoring.recurrent import GRU, LSTM
from shoal_coordinator.authoring.scale import Scale
from shoal_coordinator.authoring.task import Input, Task
from shoal_coordinator.authoring.tokens import Dropout, Embedding, LayerNorm

__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "Adam",
    "AveragePool",
    "BatchNorm",
    "Built",
    "Clustered",
    "Conv1D",
    "Conv2D",
    "CrossEntropy",
    "Dense",
    "DepthwiseConv2D",
    "Dropout",
    "Embedding",
    "Flatten",
    "Frozen",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Input",
    "Layer",
    "LayerNorm",
    "MaxPool",
    "MeanSquaredError",
    "Momentum",
    "Optimiser",
    "Pruned",
    "Quantised",
    "Reshape",
    "Run",
    "Scale",
    "Sgd",
    "Task",
    "Teacher",
    "freeze",
]
