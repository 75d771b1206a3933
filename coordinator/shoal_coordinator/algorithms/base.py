"""What an algorithm is: how updates become one, and how one moves the model."""

from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import Indices
from shoal_codecs.wire.plan import Mode
from shoal_codecs.wire.told import Tell
from shoal_coordinator.algorithms.settings import DEFAULT_OPTIONS, AlgorithmSettings
from shoal_coordinator.algorithms.state import AlgorithmState
from shoal_coordinator.plain_reports import PlainUpdate, Reports

Float64Vector = npt.NDArray[np.float64]
EVERY_MODE: frozenset[Mode] = frozenset({"hubs", "single", "plain"})
PLAIN_ONLY: frozenset[Mode] = frozenset({"plain"})


class Algorithm:
    """One algorithm: ``combine`` sees single updates (mode ``plain``), ``move`` only what came of them.

    ``paper`` names its source and ``formula`` what it computes, for the reference. ``modes`` are where it
    works, ``noise`` says whether under differential privacy too, ``refused_codecs`` what it cannot be coded
    in. ``tells`` is what it asks of devices beside the update. ``scales_only`` says that ``move`` is the rate
    times the mean, so that a sum of integers may stay exact. ``rate`` is the server's learning rate where
    the settings name none, ``options`` the keys of ``AlgorithmSettings`` that it reads.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    formula: ClassVar[str]
    modes: ClassVar[frozenset[Mode]] = EVERY_MODE
    noise: ClassVar[bool] = True
    refused_codecs: ClassVar[frozenset[str]] = frozenset()
    tells: ClassVar[tuple[Tell, ...]] = ()
    options: ClassVar[tuple[str, ...]] = ("weighting",)
    rate: ClassVar[float] = 1.0
    scales_only: ClassVar[bool] = True

    def __init__(self, settings: AlgorithmSettings = DEFAULT_OPTIONS) -> None:
        self.settings = settings

    @property
    def averages(self) -> bool:
        """Whether it takes the mean of updates, which may be of variants and cover some coordinates only."""
        return type(self).combine is Algorithm.combine

    def asks(self, mode: Mode) -> tuple[Tell, ...]:
        """Return what devices tell beside their updates in ``mode`` under these settings."""
        if mode != "plain":
            return ()
        weighted = self.settings.weighting == "validation" and "weighting" in self.options
        return (*self.tells, "score") if weighted else self.tells

    def fault(self, reports: int) -> str:
        """Return why ``reports`` are too few, empty if they are enough."""
        del reports
        return ""

    def buffer(self, minimum: int) -> int:
        """Return how many reports make a version of an asynchronous round, 0 where rounds wait for all."""
        del minimum
        return 0

    def even_steps(self, mode: Mode) -> float:
        """Return the number of steps that devices bring their updates to, 0 where they do not."""
        del mode
        return 0.0

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the one update (float64[D]) that ``reports``, at least one, come to.

        Raises:
            NoUsableReportError: they come to nothing.
        """
        del state
        return weighted_mean(reports, [self.weight(one) for one in reports.told()])

    def weight(self, report: PlainUpdate) -> float:
        """Return what ``report`` weighs in a mean, before that is divided by all weights."""
        match self.settings.weighting:
            case "uniform":
                return 1.0
            case "validation":
                return report.told.score
            case _:
                return float(report.weight)

    def move(
        self, mean: Float64Vector, rate: float, state: AlgorithmState, where: Indices | None, dimension: int
    ) -> Float64Vector:
        """Return by how much the weights move, float64 like ``mean``; ``state`` is changed in place.

        ``mean`` (float64[k]) is the update at the coordinates ``where`` (int64[k], None: all of the
        ``dimension``), ``rate`` the server's learning rate. What is not among them is not observed: neither
        it nor its state moves.
        """
        del state, where, dimension
        return rate * mean


def weighted_mean(reports: Reports, weights: list[float]) -> Float64Vector:
    """Return the mean (float64[D]) of the updates; where nobody weighs anything all weigh alike.

    Devices that train a variant count where it has coordinates, and nowhere else (Diao et al. 2021, section
    3.1); what nobody of the round has does not move.
    """
    if not sum(weights):
        weights = [1.0] * len(weights)
    total = np.zeros(reports.dimension, np.float64)
    everywhere, somewhere = 0.0, None
    for weight, one in zip(weights, reports, strict=True):
        if weight and one.covered is None:
            total += weight * one.update.astype(np.float64)
            everywhere += weight
        elif weight:
            somewhere = np.zeros(reports.dimension) if somewhere is None else somewhere
            total[one.covered] += weight * one.update[one.covered].astype(np.float64)
            somewhere[one.covered] += weight
    if somewhere is None:
        total /= everywhere
        return total
    somewhere += everywhere
    return np.divide(total, somewhere, out=total, where=somewhere > 0)


def weighted_sum(reports: Reports, weights: list[float]) -> Float64Vector:
    """Return the sum (float64[D]) of the updates, each times its weight."""
    total = np.zeros(reports.dimension, np.float64)
    for weight, one in zip(weights, reports, strict=True):
        if weight:
            total += weight * one.update.astype(np.float64)
    return total
