"""SCAFFOLD: controls on both sides take out of every gradient what is one device's and not the fleet's."""

from typing import ClassVar

import numpy as np

from shoal_codecs.updates.plain_noise import longest_update
from shoal_codecs.wire.control import CONTROL, SCAFFOLD
from shoal_codecs.wire.plan import SEEDED_CODECS, Mode, Plan
from shoal_codecs.wire.told import Tell
from shoal_coordinator.algorithms.base import PLAIN_ONLY, Algorithm, Float64Vector, weighted_mean
from shoal_coordinator.algorithms.state import AlgorithmState
from shoal_coordinator.plain_reports import Reports, decode_payload
from shoal_coordinator.round_errors import NoUsableReportError


class Scaffold(Algorithm):
    """Stochastic controlled averaging, with the devices' controls of option II.

    The fleet's control c is the mean of the devices' own c_k over those that have reported at least once.
    ``settled`` says of which round a device's last change was taken, so that a device whose report came to
    nothing goes back to what c counts. A change that no honest device can come to counts for nothing,
    with its report: c goes to the whole fleet, and what spoils it once would spoil all rounds after.
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
        """Return the plain mean of the updates (float64[D]); the controls' changes go into ``state``.

        Raises:
            NoUsableReportError: no change of a control can be true.
        """
        control = state.vector(CONTROL, reports.dimension)
        fleet = control.astype(np.float64)
        total, weights = len(state.settled) * fleet, []
        for one in reports.told():
            change = decode_payload(reports.plan, one.told.control).astype(np.float64)
            sound = _is_sound(change, fleet, reports.plan)
            weights.append(float(sound))
            if sound:
                total += change
                state.settled[one.device] = reports.plan.round
        if not any(weights):
            raise NoUsableReportError("no device's change of its control can be true: look at the devices")
        control[:] = total / len(state.settled)
        return weighted_mean(reports, weights)


def _is_sound(change: Float64Vector, fleet: Float64Vector, plan: Plan) -> bool:
    """Return whether a device may have come to ``change`` = -``fleet`` - d / (steps * learning rate).

    The update d is no longer than the plan allows, and there is a step an epoch at least. Twice that, and
    half of the fleet's control, are for what rounding adds; what the codec left out does not count.
    """
    longest = longest_update(plan) / (plan.training.epochs * plan.training.learning_rate)
    rest = float(np.linalg.norm((change + fleet)[change != 0]))
    return rest <= 2 * longest + float(np.linalg.norm(fleet)) / 2
