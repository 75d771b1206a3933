"""Optimisers on the server: the mean update is a pseudo-gradient that momentum or a mean square follows.

They see no single update, so that they work in the secret-shared modes too. There a round observes the
coordinates it has drawn and no others: what is not drawn keeps its moments and does not move (lazy moments,
as for sparse gradients), and what is drawn comes with rand-k's rescale.
"""

from typing import ClassVar

import numpy as np

from shoal_codecs.updates.base import Float32Vector, Indices
from shoal_coordinator.algorithms.averaging import FedAvg
from shoal_coordinator.algorithms.base import Float64Vector
from shoal_coordinator.algorithms.state import AlgorithmState


class ServerOptimiser(FedAvg):
    """FedAvg's mean, moved by an optimiser with a state of its own."""

    # Whose largest coordinates would lead the next round is the sum, and the move is not the sum here.
    refused_codecs: ClassVar[frozenset[str]] = frozenset({"global_topk"})
    scales_only: ClassVar[bool] = False


class FedAvgM(ServerOptimiser):
    """FedAvg with momentum on the server."""

    name: ClassVar[str] = "fedavgm"
    paper: ClassVar[str] = "Hsu et al. 2019, section 4.2 (arXiv:1909.06335)"
    formula: ClassVar[str] = "v = momentum * v + d; x += rate * v"
    options: ClassVar[tuple[str, ...]] = ("weighting", "momentum")

    def move(
        self, mean: Float64Vector, rate: float, state: AlgorithmState, where: Indices | None, dimension: int
    ) -> Float64Vector:
        """Return ``rate`` times the velocity (float64[k])."""
        velocity = state.vector("velocity", dimension)
        moved = self.settings.momentum * _at(velocity, where) + mean
        _put(velocity, where, moved)
        return rate * moved


class Adaptive(ServerOptimiser):
    """Algorithm 2 of Reddi et al. 2021: the family differs in how the mean square follows."""

    paper: ClassVar[str] = "Reddi et al. 2021, algorithm 2 (arXiv:2003.00295)"
    options: ClassVar[tuple[str, ...]] = ("weighting", "beta_1", "beta_2", "adaptivity")
    # Their experiments' best rates lie between 0.01 and 0.1 (appendix D).
    rate: ClassVar[float] = 0.03

    def move(
        self, mean: Float64Vector, rate: float, state: AlgorithmState, where: Indices | None, dimension: int
    ) -> Float64Vector:
        """Return ``rate`` times the mean update over the root of the mean square plus ``adaptivity``."""
        settings = self.settings
        first = state.vector("first", dimension)
        second = state.vector("second", dimension, settings.adaptivity**2)
        moment = settings.beta_1 * _at(first, where) + (1 - settings.beta_1) * mean
        square = self.second(_at(second, where), np.square(mean))
        _put(first, where, moment)
        _put(second, where, square)
        np.sqrt(square, out=square)
        square += settings.adaptivity
        moment *= rate
        moment /= square
        return moment

    def second(self, old: Float64Vector, square: Float64Vector) -> Float64Vector:
        """Return the mean square that follows ``old`` after a mean update whose ``square`` is given."""
        raise NotImplementedError


class FedAdam(Adaptive):
    """Adam on the server, without bias correction, as in the paper."""

    name: ClassVar[str] = "fedadam"
    formula: ClassVar[str] = (
        "m = beta_1 m + (1 - beta_1) d; v = beta_2 v + (1 - beta_2) d^2; "
        "x += rate * m / (sqrt(v) + adaptivity)"
    )

    def second(self, old: Float64Vector, square: Float64Vector) -> Float64Vector:
        """Return an exponential mean."""
        beta = self.settings.beta_2
        return beta * old + (1 - beta) * square


class FedYogi(Adaptive):
    """Yogi on the server: the mean square moves by no more than the new square."""

    name: ClassVar[str] = "fedyogi"
    formula: ClassVar[str] = "as fedadam, with v = v - (1 - beta_2) d^2 sign(v - d^2)"

    def second(self, old: Float64Vector, square: Float64Vector) -> Float64Vector:
        """Return what moves towards the new square, in steps of its size."""
        return old - (1 - self.settings.beta_2) * square * np.sign(old - square)


class FedAdagrad(Adaptive):
    """Adagrad on the server: squares add up."""

    name: ClassVar[str] = "fedadagrad"
    formula: ClassVar[str] = "as fedadam, with v = v + d^2"
    options: ClassVar[tuple[str, ...]] = ("weighting", "beta_1", "adaptivity")

    def second(self, old: Float64Vector, square: Float64Vector) -> Float64Vector:
        """Return the sum."""
        return old + square


def _at(vector: Float32Vector, where: Indices | None) -> Float64Vector:
    return (vector if where is None else vector[where]).astype(np.float64)


def _put(vector: Float32Vector, where: Indices | None, values: Float64Vector) -> None:
    vector[slice(None) if where is None else where] = values
