"""Algorithms whose weights hang on what a device tells: its steps, its loss, the age of its base."""

from typing import ClassVar

import numpy as np

from shoal_codecs.updates.local_steps import effective_steps
from shoal_codecs.updates.plain_noise import longest_update
from shoal_codecs.wire.plan import Mode
from shoal_codecs.wire.told import Tell
from shoal_coordinator.algorithms.base import PLAIN_ONLY, Algorithm, Float64Vector, weighted_sum
from shoal_coordinator.algorithms.state import AlgorithmState
from shoal_coordinator.plain_reports import Reports

_LEAST_LOSS = 1e-10


class FedNova(Algorithm):
    """Updates per step, so that who takes more steps pulls no harder.

    In mode ``plain`` the coordinator divides by the steps that devices tell. In the shared modes each device
    does so itself and multiplies by ``even_steps``, which the plan names: the paper allows any such number.
    In every mode what comes of that is clipped anew: a device that tells too few steps, or so many that the
    common number soars, pulls no harder than the longest update does.
    Right for SGD without momentum on the devices, with or without FedProx.
    """

    name: ClassVar[str] = "fednova"
    paper: ClassVar[str] = "Wang et al. 2020, equation 6 (arXiv:2007.07481)"
    formula: ClassVar[str] = "x += rate * t sum_k p_k d_k / t_k, with t = sum_k p_k t_k or even_steps"
    tells: ClassVar[tuple[Tell, ...]] = ("steps",)
    options: ClassVar[tuple[str, ...]] = ("weighting", "even_steps")

    def even_steps(self, mode: Mode) -> float:
        """Return the number of steps that devices bring their updates to in shared modes."""
        return 0.0 if mode == "plain" else self.settings.even_steps

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the mean of the updates per step (float64[D]), times the steps of all."""
        del state
        training, told = reports.plan.training, reports.told()
        share = np.array([self.weight(one) for one in told])
        share = share / share.sum() if share.any() else np.full(len(told), 1 / len(told))
        steps = np.array(
            [effective_steps(one.told.steps, training.learning_rate, training.mu) for one in told]
        )
        even = self.settings.even_steps or float(share @ steps)
        longest, total = longest_update(reports.plan), np.zeros(reports.dimension, np.float64)
        for one, part, stretch in zip(reports, share, even / steps, strict=True):
            moved = one.update.astype(np.float64)
            norm = stretch * float(np.linalg.norm(moved))
            total += part * stretch * min(1.0, longest / norm if norm else 1.0) * moved
        return total


class QFedAvg(Algorithm):
    """Fair averaging: devices whose loss is large weigh more."""

    name: ClassVar[str] = "qfedavg"
    paper: ClassVar[str] = "Li et al. 2020, algorithm 2 (arXiv:1905.10497)"
    formula: ClassVar[str] = (
        "x += rate * sum_k L F_k^q d_k / sum_k (q F_k^(q-1) |L d_k|^2 + L F_k^q), with L = 1 / learning_rate"
    )
    modes: ClassVar[frozenset[Mode]] = PLAIN_ONLY
    noise: ClassVar[bool] = False
    tells: ClassVar[tuple[Tell, ...]] = ("loss",)
    options: ClassVar[tuple[str, ...]] = ("fairness",)

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the weighted sum of the updates (float64[D]) over what their curvature may be."""
        del state
        fairness, steepness = self.settings.fairness, 1 / reports.plan.training.learning_rate
        # Over and under the line in powers of the largest: what a device says to a power may leave floats.
        largest = max(_LEAST_LOSS, *(one.told.loss for one in reports.told()))
        total = np.zeros(reports.dimension, np.float64)
        divisor = 0.0
        for one in reports:
            loss = max(one.told.loss, _LEAST_LOSS)
            moved = one.update.astype(np.float64)
            power = (loss / largest) ** fairness
            total += steepness * power * moved
            length = steepness**2 * float(moved @ moved)
            divisor += fairness * power / loss * length + steepness * power
        total /= divisor
        return total


class FedBuff(Algorithm):
    """Asynchronous: a version comes of the first ``buffer`` reports, on whichever base they were trained.

    A report that is s versions behind weighs (1 + s)^-``staleness_power``; one that is more than
    ``staleness_limit`` behind is thrown away.
    """

    name: ClassVar[str] = "fedbuff"
    paper: ClassVar[str] = "Nguyen et al. 2022, algorithm 1 (arXiv:2106.06639)"
    formula: ClassVar[str] = (
        "x += rate * sum_k w_k (1 + s_k)^-power d_k / sum_k w_k, over the first K reports"
    )
    modes: ClassVar[frozenset[Mode]] = PLAIN_ONLY
    noise: ClassVar[bool] = False
    options: ClassVar[tuple[str, ...]] = ("weighting", "buffer", "staleness_limit", "staleness_power")

    def buffer(self, minimum: int) -> int:
        """Return ``buffer``, else the fewest devices of a round."""
        return self.settings.buffer or minimum

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the mean (float64[D]) of the updates, stale ones made smaller.

        What is used is noted in ``state``: it is committed with the version, and no report counts twice.
        """
        for device, number in reports.rounds().items():
            state.settled[device] = max(number, state.settled.get(device, 0))
        told = reports.told()
        weights = np.array([self.weight(one) for one in told])
        if not weights.any():
            weights = np.ones(len(told))
        fresh = np.array([(1.0 + one.staleness) ** -self.settings.staleness_power for one in told])
        return weighted_sum(reports, (weights * fresh / weights.sum()).tolist())
