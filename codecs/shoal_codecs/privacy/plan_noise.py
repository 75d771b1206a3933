"""The numbers behind a plan's privacy part, in levels: every party comes to the same ones."""

import math

from shoal_codecs.privacy.sensitivity import Sensitivity, ring_sensitivity, rounded_l1
from shoal_codecs.wire.plan import SEEDED_CODECS, SHARED_CODECS, CodecPlan, Plan, PrivacyPlan

METRICS = 2
"""Loss and accuracy."""


def extra_levels(privacy: PrivacyPlan | None) -> tuple[int, ...]:
    """Return the most levels of each further coordinate: the clip bit, then loss and accuracy."""
    if privacy is None:
        return ()
    return tuple(level for level in (privacy.clip_bit, *(privacy.metric_levels,) * METRICS) if level > 0)


def device_variance(plan: Plan) -> float:
    """Return the variance of the noise that each device adds to each word of the ring; 0 where it adds none.

    ``n_min - corrupt`` devices make up ``noise`` together, whatever the others do.
    """
    privacy = plan.privacy
    if privacy is None or privacy.mechanism != "skellam":
        return 0.0
    return privacy.noise / (plan.n_min - privacy.corrupt)


def clip_levels(codec: CodecPlan) -> float:
    """Return S, the levels of the clip norm."""
    return codec.clamp * math.sqrt(grid_size(codec)) / codec.range_factor


def grid_size(codec: CodecPlan) -> int:
    """Return how many coordinates of an update are rounded: those that the round draws, else all.

    Top-K's are others on each device, and a dense codec sends all, whatever the plan says it keeps.
    """
    return codec.kept if codec.name in SEEDED_CODECS | SHARED_CODECS else codec.dimension


def grid_sensitivity(codec: CodecPlan, extra: tuple[int, ...] = ()) -> Sensitivity:
    """Return what one device can add to a sum of rounded updates and ``extra`` coordinates."""
    return ring_sensitivity(clip_levels(codec), grid_size(codec), extra)


def noise_levels(plan: Plan) -> float:
    """Return the standard deviation (``local-laplace``: the scale) in levels of what one party draws.

    That is a device, or the coordinator for ``central``; 0 without noise.
    """
    privacy = plan.privacy
    if privacy is None:
        return 0.0
    if privacy.mechanism == "skellam":
        return math.sqrt(device_variance(plan))
    if privacy.mechanism == "local-laplace":
        return privacy.noise * rounded_l1(clip_levels(plan.codec), grid_size(plan.codec))
    return privacy.noise * math.sqrt(grid_sensitivity(plan.codec).l2_squared)
