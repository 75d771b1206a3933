"""What mode ``single`` adds to a plan: floor, neighbours, threshold, key bundles, phases."""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from shoal_codecs.secagg.single.errors import NeighbourhoodError
from shoal_codecs.secagg.single.parameters import (
    COMPLETE_DEVICES,
    Neighbourhood,
    complete_neighbourhood,
    mask_edges,
    neighbourhood,
)
from shoal_codecs.wire.plan import SinglePlan
from shoal_codecs.wire.single import Prekey, prekey_id
from shoal_coordinator.round_errors import CohortTooSmallError, InvalidRoundPlanError


def single_floor(size: int, dropout_share: float) -> int:
    """Return the fewest survivors of ``size`` devices: under it, a small group could be split off."""
    return size - math.floor(dropout_share * size + 1e-9)


def single_part(
    fleet: str,
    cohort: Sequence[str],
    prekeys: Mapping[str, Prekey],
    *,
    floor: int,
    corrupt_share: float,
    shares_ms: int,
    masked_ms: int,
) -> SinglePlan:
    """Return the part of a plan for ``cohort``, of which ``floor`` survive; times are since the epoch.

    Raises:
        CohortTooSmallError: a device without a bundle, or too few to keep a secret.
        InvalidRoundPlanError: phases that do not fit into the round.
    """
    size = len(cohort)
    lacking = [device for device in cohort if device not in prekeys]
    if lacking:
        raise CohortTooSmallError(f"{', '.join(lacking)[:200]} has parked no key bundle: is it running?")
    if shares_ms >= masked_ms:
        raise InvalidRoundPlanError(
            "a round is too short for its phases: raise window_s, or lower shares_s and unmask_s"
        )
    try:
        found, edges = _neighbours(size, corrupt_share, size - floor)
    except NeighbourhoodError as error:
        raise CohortTooSmallError(str(error)) from error
    return SinglePlan(
        neighbours=found.neighbours,
        threshold=found.threshold,
        edges=edges,
        prekeys=tuple(prekey_id(fleet, device, prekeys[device]) for device in cohort),
        shares_ms=shares_ms,
        masked_ms=masked_ms,
    )


@lru_cache(maxsize=64)
def _neighbours(size: int, corrupt_share: float, gone: int) -> tuple[Neighbourhood, int]:
    choose = complete_neighbourhood if size <= COMPLETE_DEVICES else neighbourhood
    found = choose(size, corrupt_share, gone / max(size, 1))
    return found, mask_edges(size, corrupt_share, found)
