"""A multilayer perceptron on the digits in numpy, split among devices: real updates of any size, in seconds.

The devices of a fleet train inside LiteRT; what a benchmark of coding needs of them is that the updates are
those of real training on real, unevenly split data.
"""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from shoal_codecs.partition import dirichlet_split
from shoal_coordinator.config import shipped

Vector = npt.NDArray[np.float32]
Examples = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
HELD_OUT = 400
CONCENTRATION = 0.3


class Perceptron:
    """ReLU layers of ``widths``, softmax at the end; weights are one float32[dimension]."""

    def __init__(self, widths: tuple[int, ...]) -> None:
        self.widths = widths
        self.dimension = sum(inputs * outputs + outputs for inputs, outputs in pairwise(widths))

    def initial(self, rng: np.random.Generator) -> Vector:
        """Return weights to begin with (He et al. 2015)."""
        weights = np.zeros(self.dimension, np.float32)
        for matrix, _ in self._layers(weights):
            matrix[:] = rng.normal(size=matrix.shape) * np.sqrt(2 / matrix.shape[0])
        return weights

    def accuracy(self, weights: Vector, examples: Examples) -> float:
        """Return the share of ``examples`` that are classified rightly."""
        x, y = examples
        return float((self._forward(list(self._layers(weights)), x)[-1].argmax(axis=1) == y).mean())

    def update(
        self,
        base: Vector,
        examples: Examples,
        rng: np.random.Generator,
        *,
        epochs: int,
        learning_rate: float,
        batch_size: int,
    ) -> Vector:
        """Return what some epochs of SGD on ``examples`` add to ``base``."""
        (x, y), weights = examples, base.copy()
        layers = list(self._layers(weights))
        gradient = np.zeros_like(weights)
        slopes = list(self._layers(gradient))
        for _ in range(epochs):
            order = rng.permutation(len(y))
            for start in range(0, len(y), batch_size):
                chosen = order[start : start + batch_size]
                self._backward(layers, slopes, x[chosen], y[chosen])
                gradient *= np.float32(learning_rate)
                weights -= gradient
        return weights - base

    def _layers(self, weights: Vector) -> Iterator[tuple[Vector, Vector]]:
        start = 0
        for inputs, outputs in pairwise(self.widths):
            middle = start + inputs * outputs
            yield weights[start:middle].reshape(inputs, outputs), weights[middle : middle + outputs]
            start = middle + outputs

    @staticmethod
    def _forward(layers: list[tuple[Vector, Vector]], x: Vector) -> list[Vector]:
        outputs = [x]
        for place, (matrix, bias) in enumerate(layers):
            linear = outputs[-1] @ matrix + bias
            outputs.append(linear if place == len(layers) - 1 else np.maximum(linear, 0))
        return outputs

    def _backward(
        self,
        layers: list[tuple[Vector, Vector]],
        slopes: list[tuple[Vector, Vector]],
        x: Vector,
        y: npt.NDArray[np.int64],
    ) -> None:
        outputs = self._forward(layers, x)
        raised = np.exp(outputs[-1] - outputs[-1].max(axis=1, keepdims=True))
        error = raised / raised.sum(axis=1, keepdims=True)
        error[np.arange(len(y)), y] -= 1
        error /= np.float32(len(y))
        for place in range(len(layers) - 1, -1, -1):
            np.matmul(outputs[place].T, error, out=slopes[place][0])
            error.sum(axis=0, out=slopes[place][1])
            if place:
                error = (error @ layers[place][0].T) * (outputs[place] > 0)


def shards(devices: int, seed: int, source: Path | None = None) -> tuple[list[Examples], Examples]:
    """Return each device's examples, split by Dirichlet(0.3), and 400 held out of all."""
    with np.load(source or shipped("digits.npz")) as digits:
        x, y = digits["x"].astype(np.float32) / 16, digits["y"].astype(np.int64)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(y))
    held_out, rest = order[:HELD_OUT], order[HELD_OUT:]
    split = dirichlet_split(y[rest].astype(np.uint8), devices, CONCENTRATION, rng)
    return [(x[rest[own]], y[rest[own]]) for own in split], (x[held_out], y[held_out])
