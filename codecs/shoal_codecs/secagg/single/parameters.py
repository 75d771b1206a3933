"""How many neighbours a device needs, and how many of them open its secrets (Bell et al. 2020, section 4).

Exact hypergeometric tails and union bounds. Security may fail with probability 2^-40, split evenly between
its two ways: so many corrupt neighbours of one device that they open its secrets, and so many corrupt or
vanished devices in a row that the graph falls apart. A round may fail for want of neighbours with 2^-20.

A coordinator that sees the graph may choose whom to call dead. It must leave ``threshold`` of a device's
neighbours alive, or nobody opens that device's mask: so masks are shared with so many neighbours that what
it may kill, and what is corrupt, never is all of them. A group that it would cut off needs that of each of
its members, whose draws are independent, so that a single device is the worst case.
"""

import math
from dataclasses import dataclass
from functools import cache

from shoal_codecs.secagg.single.errors import NeighbourhoodError, WeakNeighbourhoodError

SECURITY_BITS = 40
SUCCESS_BITS = 20
COMPLETE_DEVICES = 64
"""Up to this many devices, everybody is everybody's neighbour."""
SMALLEST_COHORT = 3


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


def complete_neighbourhood(devices: int, corrupt_share: float, dropout_share: float) -> Neighbourhood:
    """Return the threshold where everybody is everybody's neighbour; safe against an active coordinator.

    Raises:
        NeighbourhoodError: so many may vanish that the rest cannot open a secret.
    """
    corrupt, gone = round(corrupt_share * devices), round(dropout_share * devices)
    others = devices - 1
    threshold = max(corrupt + 1, (others + corrupt) // 2 + 1)
    if devices < SMALLEST_COHORT or others - gone < threshold:
        raise NeighbourhoodError(
            f"{devices} devices of which {corrupt} may be corrupt and {gone} vanish cannot keep a secret "
            "this way: expect fewer of either, invite more, or use mode 'hubs'"
        )
    return Neighbourhood(others, threshold)


def mask_edges(devices: int, corrupt_share: float, found: Neighbourhood) -> int:
    """Return with how many of its neighbours a device shares masks.

    At most ``neighbours - threshold`` of them can be called dead while its mask still opens; one more must be
    left than are ever corrupt. Where everybody is a neighbour, all.
    """
    corrupt, most = round(corrupt_share * devices), found.neighbours
    if most == devices - 1:
        return most
    return next(
        count
        for count in range(-(-most // 2), most + 1)
        if count == most or count - (most - found.threshold) >= _threshold(devices, corrupt, count)
    )


@cache
def check_neighbourhood(
    devices: int, found: Neighbourhood, edges: int, corrupt_share: float, gone: int
) -> None:
    """Check what a plan promises to a device that expects ``corrupt_share`` of the cohort to be corrupt.

    ``gone`` is how many the plan lets vanish.

    Raises:
        WeakNeighbourhoodError: fewer neighbours, masks or shares than keep the bounds.
    """
    corrupt = round(corrupt_share * devices)
    most, threshold = found.neighbours, found.threshold
    least = corrupt + 1 if most == devices - 1 else _threshold(devices, corrupt, most)
    least = max(least, (most + least - 1) // 2 + 1)
    if devices < SMALLEST_COHORT or threshold < least:
        raise WeakNeighbourhoodError(
            f"{threshold} of {most} neighbours open a secret among {devices} devices, of which {corrupt} may "
            f"be corrupt: ask for {least}, or lower this device's corrupt_share"
        )
    if most == devices - 1 == edges:
        return
    apart = _falls_apart(devices, corrupt + gone, 2 * edges) > _security(devices)
    if apart or edges - (most - threshold) < _threshold(devices, corrupt, edges):
        raise WeakNeighbourhoodError(
            f"masks with {edges} of {most} neighbours do not hide a device when {gone} of {devices} vanish "
            f"and {corrupt} may be corrupt: plan with more neighbours"
        )


def _security(devices: int) -> float:
    return -(SECURITY_BITS + 1) * math.log(2) - math.log(devices)


def _threshold(devices: int, corrupt: int, neighbours: int) -> int:
    """Return the least number of neighbours that are never all corrupt."""
    bound, tail = _security(devices), -math.inf
    for count in range(min(corrupt, neighbours), 0, -1):
        term = _log_term(devices - 1, corrupt, neighbours, count)
        tail = max(tail, term) + math.log1p(math.exp(-abs(tail - term)))
        if tail > bound:
            return count + 1
    return 1


def _falls_apart(devices: int, lost: int, neighbours: int) -> float:
    """Return the log of the probability that ``neighbours`` / 2 devices in one given row are all lost."""
    row = neighbours // 2
    return _log_choose(devices - row, lost - row) - _log_choose(devices, lost)


def _log_tail(population: int, marked: int, drawn: int, least: int) -> float:
    """Return the log of the probability that at least ``least`` of ``drawn`` are ``marked``."""
    terms = [
        _log_term(population, marked, drawn, hits)
        for hits in range(max(least, drawn - population + marked, 0), min(marked, drawn) + 1)
    ]
    if not terms:
        return -math.inf
    peak = max(terms)
    return peak + math.log(math.fsum(math.exp(term - peak) for term in terms))


def _log_term(population: int, marked: int, drawn: int, hits: int) -> float:
    """Return the log of the probability that exactly ``hits`` of ``drawn`` are ``marked``."""
    total = _log_choose(population, drawn)
    return _log_choose(marked, hits) + _log_choose(population - marked, drawn - hits) - total


def _log_choose(total: int, chosen: int) -> float:
    if not 0 <= chosen <= total:
        return -math.inf
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
