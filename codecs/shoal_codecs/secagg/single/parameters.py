"""How many neighbours a device needs, and how many of them open its secrets (Bell et al. 2020, section 4).

Exact hypergeometric tails and union bounds. Security may fail with probability 2^-40, split evenly between
its two ways: so many corrupt neighbours of one device that they open its secrets, and so many corrupt or
vanished devices in a row that the graph falls apart. A round may fail for want of neighbours with 2^-20.
"""

import math
from dataclasses import dataclass

from shoal_codecs.secagg.single.errors import NeighbourhoodError

SECURITY_BITS = 40
SUCCESS_BITS = 20


@dataclass(frozen=True, slots=True)
class Neighbourhood:
    """``neighbours`` k hold shares of each device's secrets, ``threshold`` t of them open one."""

    neighbours: int
    threshold: int


def neighbourhood(
    devices: int, corrupt_share: float, dropout_share: float, *, active: bool = True
) -> Neighbourhood:
    """Return the fewest neighbours, and the threshold, for a cohort of ``devices``.

    ``active``: the coordinator may tell different devices different sets of survivors, so that two sets of
    ``threshold`` neighbours must have an honest one in common.

    Raises:
        NeighbourhoodError: not even everybody as everybody's neighbour keeps the bounds.
    """
    corrupt, gone = round(corrupt_share * devices), round(dropout_share * devices)
    if devices < 2 or not (0 <= corrupt < devices and 0 <= gone < devices):
        raise NeighbourhoodError(
            f"{corrupt} corrupt and {gone} vanishing of {devices} devices is no cohort: check the shares"
        )
    for neighbours in (*range(2, devices - 1, 2), devices - 1):
        complete = neighbours == devices - 1
        if not complete and _falls_apart(devices, corrupt + gone, neighbours) > _security(devices):
            continue
        threshold = _threshold(devices, corrupt, neighbours)
        if active:
            threshold = max(threshold, (neighbours + threshold - 1) // 2 + 1)
        lost = _log_tail(devices - 1, gone, neighbours, neighbours - threshold + 1)
        if threshold <= neighbours and lost <= -SUCCESS_BITS * math.log(2) - math.log(devices):
            return Neighbourhood(neighbours, threshold)
    raise NeighbourhoodError(
        f"{devices} devices of which {corrupt} may be corrupt and {gone} vanish cannot keep a secret "
        "this way: expect fewer of either, invite more, or use mode 'hubs'"
    )


def _security(devices: int) -> float:
    return -(SECURITY_BITS + 1) * math.log(2) - math.log(devices)


def _threshold(devices: int, corrupt: int, neighbours: int) -> int:
    """Return the least number of neighbours that are never all corrupt."""
    return next(
        count
        for count in range(1, neighbours + 2)
        if _log_tail(devices - 1, corrupt, neighbours, count) <= _security(devices)
    )


def _falls_apart(devices: int, lost: int, neighbours: int) -> float:
    """Return the log of the probability that ``neighbours`` / 2 devices in one given row are all lost."""
    row = neighbours // 2
    return _log_choose(devices - row, lost - row) - _log_choose(devices, lost)


def _log_tail(population: int, marked: int, drawn: int, least: int) -> float:
    """Return the log of the probability that at least ``least`` of ``drawn`` are ``marked``."""
    total = _log_choose(population, drawn)
    terms = [
        _log_choose(marked, hits) + _log_choose(population - marked, drawn - hits) - total
        for hits in range(max(least, drawn - population + marked, 0), min(marked, drawn) + 1)
    ]
    if not terms:
        return -math.inf
    peak = max(terms)
    return peak + math.log(math.fsum(math.exp(term - peak) for term in terms))


def _log_choose(total: int, chosen: int) -> float:
    if not 0 <= chosen <= total:
        return -math.inf
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
