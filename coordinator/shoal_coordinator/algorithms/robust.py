"""Rules that a few hostile devices cannot lead away; they look at single updates, so mode ``plain`` only.

All updates are held at once, in memory while they are few and in a file beyond that, and are worked through
in blocks of coordinates.
"""

import math
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.plan import Mode
from shoal_coordinator.algorithms.base import (
    PLAIN_ONLY,
    Algorithm,
    Float64Vector,
    weighted_mean,
    weighted_sum,
)
from shoal_coordinator.algorithms.errors import TooFewReportsError
from shoal_coordinator.algorithms.matrix import UpdateMatrix, update_matrix
from shoal_coordinator.algorithms.state import AlgorithmState
from shoal_coordinator.plain_reports import Reports

_FLOAT_SLACK = 1e-9
_NO_RULE = 0.5


class RobustRule(Algorithm):
    """A rule over single updates; ``hostile`` of n reports may be anything."""

    modes: ClassVar[frozenset[Mode]] = PLAIN_ONLY
    noise: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("hostile_share",)

    def hostile(self, reports: int) -> int:
        """Return how many of ``reports`` are taken for hostile."""
        return math.floor(self.settings.hostile_share * reports + _FLOAT_SLACK)

    def needed(self, hostile: int) -> int:
        """Return how many reports it takes against ``hostile`` ones."""
        return 2 * hostile + 1

    def fault(self, reports: int) -> str:
        """Return why ``reports`` are too few, empty if they are enough."""
        hostile = self.hostile(reports)
        share = self.settings.hostile_share
        if not hostile:
            least = math.ceil(1 / share - _FLOAT_SLACK) if share else 0
            return (
                f"{reports} reports at a hostile_share of {share:g} leave room for no hostile one: set it, "
                f"and rounds.minimum to {least or 5} or more"
            )
        if share >= _NO_RULE:
            return (
                f"no rule finds the honest beside {share:g} hostile ones: set rounds.algorithm.hostile_share "
                "under 0.5, and think about whom to enrol"
            )
        if reports < self.needed(hostile):
            return (
                f"{self.name} needs {self.needed(hostile)} reports against {hostile} hostile ones and there "
                f"are {reports}: raise rounds.minimum, or lower rounds.algorithm.hostile_share"
            )
        return ""

    def checked(self, reports: int) -> int:
        """Return how many of ``reports`` are taken for hostile.

        Raises:
            TooFewReportsError: the rule holds against none with so few reports.
        """
        if fault := self.fault(reports):
            raise TooFewReportsError(fault)
        return self.hostile(reports)


class Median(RobustRule):
    """The median of each coordinate."""

    name: ClassVar[str] = "median"
    paper: ClassVar[str] = "Yin et al. 2018, definition 1 (arXiv:1803.01498)"
    formula: ClassVar[str] = "x_j += rate * median_k d_kj"
    # What most devices did not send has a median of zero.
    refused_codecs: ClassVar[frozenset[str]] = frozenset({"topk", "topk4"})
    options: ClassVar[tuple[str, ...]] = ()

    def fault(self, reports: int) -> str:
        """Return why ``reports`` are too few: two have no middle."""
        return "" if reports >= 3 else f"median needs 3 reports and there are {reports}: raise rounds.minimum"

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the medians (float64[D])."""
        del state
        self.checked(len(reports))
        total = np.empty(reports.dimension, np.float64)
        with update_matrix(reports) as matrix:
            for place, block in matrix.blocks():
                total[place] = np.median(block, axis=0, overwrite_input=True)
        return total


class TrimmedMean(RobustRule):
    """The mean of each coordinate without its ``hostile`` largest and as many smallest values."""

    name: ClassVar[str] = "trimmed_mean"
    paper: ClassVar[str] = "Yin et al. 2018, definition 2 (arXiv:1803.01498)"
    formula: ClassVar[str] = "x_j += rate * mean of d_kj without the b largest and the b smallest"
    refused_codecs: ClassVar[frozenset[str]] = frozenset({"topk", "topk4"})

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the trimmed means (float64[D])."""
        del state
        cut = self.checked(len(reports))
        total = np.empty(reports.dimension, np.float64)
        with update_matrix(reports) as matrix:
            for place, block in matrix.blocks():
                block.sort(axis=0)
                total[place] = block[cut : len(reports) - cut].mean(axis=0, dtype=np.float64)
        return total


class Krum(RobustRule):
    """The one update that is nearest to its n - f - 2 nearest others."""

    name: ClassVar[str] = "krum"
    paper: ClassVar[str] = "Blanchard et al. 2017, section 4 (arXiv:1703.02757)"
    formula: ClassVar[str] = "x += rate * d_i, i the least of sum |d_i - d_k|^2 over the n - f - 2 nearest k"

    def needed(self, hostile: int) -> int:
        """Return 2 f + 3."""
        return 2 * hostile + 3

    def kept(self, reports: int, hostile: int) -> int:
        """Return how many of the best updates are averaged."""
        del reports, hostile
        return 1

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the mean (float64[D]) of the updates that are nearest to the others."""
        del state
        count = len(reports)
        hostile = self.checked(count)
        with update_matrix(reports) as matrix:
            scores = krum_scores(squared_distances(matrix), hostile)
        chosen = np.argsort(scores, kind="stable")[: self.kept(count, hostile)]
        weights = np.zeros(count)
        weights[chosen] = 1.0
        return weighted_mean(reports, weights.tolist())


class MultiKrum(Krum):
    """The mean of the best by Krum's score."""

    name: ClassVar[str] = "multi_krum"
    formula: ClassVar[str] = "the mean of the krum_kept best, of n - f where that is 0"
    options: ClassVar[tuple[str, ...]] = ("hostile_share", "krum_kept")

    def kept(self, reports: int, hostile: int) -> int:
        """Return ``krum_kept``, at most all that cannot be hostile."""
        return min(self.settings.krum_kept or reports, reports - hostile)


class NormClip(RobustRule):
    """The weighted mean of updates that are shortened to a common bound."""

    name: ClassVar[str] = "norm_clip"
    paper: ClassVar[str] = "Sun et al. 2019, section 4 (arXiv:1911.07963)"
    formula: ClassVar[str] = "x += rate * sum_k w_k d_k min(1, bound / |d_k|) / sum_k w_k"
    options: ClassVar[tuple[str, ...]] = ("weighting", "norm_bound")

    def fault(self, reports: int) -> str:
        """Return nothing: it works with any number of reports."""
        del reports
        return ""

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the mean (float64[D]) of the shortened updates."""
        del state
        norms = np.array([float(np.linalg.norm(one.update.astype(np.float64))) for one in reports])
        bound = self.settings.norm_bound or float(np.median(norms))
        weights = np.array([self.weight(one) for one in reports.told()])
        if not weights.any():
            weights = np.ones(len(norms))
        shorter = np.minimum(1.0, np.divide(bound, norms, out=np.ones_like(norms), where=norms > 0))
        return weighted_sum(reports, (weights * shorter / weights.sum()).tolist())


def squared_distances(matrix: UpdateMatrix) -> npt.NDArray[np.float64]:
    """Return the squared distances (float64[n, n]) between all updates."""
    count = len(matrix)
    found = np.zeros((count, count))
    for _, block in matrix.blocks():
        wide = block.astype(np.float64)
        # Around the mean: far from the origin the squares would swallow the differences.
        wide -= wide.mean(axis=0)
        products = wide @ wide.T
        squares = np.diagonal(products)
        found += squares[:, None] + squares[None, :] - 2 * products
    return np.maximum(found, 0.0)


def krum_scores(distances: npt.NDArray[np.float64], hostile: int) -> npt.NDArray[np.float64]:
    """Return each update's sum of squared ``distances`` (float64[n, n]) to its n - f - 2 nearest others."""
    count = len(distances)
    others = np.sort(distances + np.diag(np.full(count, np.inf)), axis=1)
    total: npt.NDArray[np.float64] = others[:, : count - hostile - 2].sum(axis=1)
    return total
