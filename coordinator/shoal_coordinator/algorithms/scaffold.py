"""SCAFFOLD: controls on both sides take out of every gradient what is one device's and not the fleet's."""

from typing import ClassVar

import numpy as np

from shoal_codecs.wire.control import CONTROL, SCAFFOLD
from shoal_codecs.wire.plan import SEEDED_CODECS, Mode
from shoal_codecs.wire.told import Tell
from shoal_coordinator.algorithms.base import PLAIN_ONLY, Algorithm, Float64Vector, weighted_mean
from shoal_coordinator.algorithms.state import AlgorithmState
from shoal_coordinator.plain_reports import Reports, decode_payload


class Scaffold(Algorithm):
    """Stochastic controlled averaging, with the devices' controls of option II.

    The fleet's control c is the mean of the devices' own c_k over those that have reported at least once.
    ``settled`` says of which round a device's last change was taken, so that a device whose report came to
    nothing goes back to what c counts.
    """

    name: ClassVar[str] = SCAFFOLD
    paper: ClassVar[str] = "Karimireddy et al. 2020, algorithm 1 (arXiv:1910.06378)"
    formula: ClassVar[str] = (
        "x += rate * mean d_k; c = mean c_k; a device steps by g - c_k + c, "
        "then c_k += -c - d_k / (steps * learning_rate)"
    )
    modes: ClassVar[frozenset[Mode]] = PLAIN_ONLY
    noise: ClassVar[bool] = False
    # Their rescale would make a control of a few coordinates 1 / kept_share times too large.
    refused_codecs: ClassVar[frozenset[str]] = SEEDED_CODECS
    tells: ClassVar[tuple[Tell, ...]] = ("control",)
    options: ClassVar[tuple[str, ...]] = ()

    def combine(self, reports: Reports, state: AlgorithmState) -> Float64Vector:
        """Return the plain mean of the updates (float64[D]); the controls' changes go into ``state``."""
        control = state.vector(CONTROL, reports.dimension)
        told = reports.told()
        before = len(state.settled)
        for one in told:
            state.settled[one.device] = reports.plan.round
        total = before * control.astype(np.float64)
        for one in told:
            total += decode_payload(reports.plan, one.told.control)
        control[:] = total / len(state.settled)
        return weighted_mean(reports, [1.0] * len(told))
