"""What a plan with noise has to keep to: checked where it is made, by every hub and by every device."""

import math

from shoal_codecs.privacy.charge import charge_of
from shoal_codecs.privacy.errors import CoarseScaleError, NoiseSizeError, PrivateCodecError
from shoal_codecs.privacy.plan_noise import (
    clip_levels,
    device_variance,
    extra_levels,
    grid_size,
    noise_levels,
)
from shoal_codecs.privacy.ring_width import (
    LEAST_VARIANCE,
    MOST_MAGNITUDES,
    MOST_VARIANCE,
    laplace_reach,
    overflow,
)
from shoal_codecs.updates.errors import RingOverflowError
from shoal_codecs.wire.plan import INDEXED_CODECS, Plan

LEAST_SCALE, FAIR_SCALE = 0.5, 4.0
"""Levels of the clip norm for each square root of the coordinates."""


def check_promise(plan: Plan) -> None:
    """Refuse a plan whose noise cannot be added as it says, or would not be worth what it says.

    Raises:
        RingOverflowError: sum and noise could leave the ring.
        NoiseSizeError: noise that is too small or too large to be drawn.
        PrivateCodecError: a codec that tells what noise is meant to hide.
        CoarseScaleError: rounding would move the sum further than updates do.
        PrivacyNumberError: numbers that no formula holds for.
    """
    privacy, codec = plan.privacy, plan.codec
    if privacy is None:
        return
    charge_of(plan)
    if privacy.mechanism.startswith("local") and codec.name in INDEXED_CODECS:
        raise PrivateCodecError(
            "Top-K tells which coordinates a device moved, whatever noise is on them: use randk or dense"
        )
    size = grid_size(codec)
    if clip_levels(codec) < LEAST_SCALE * math.sqrt(size):
        raise CoarseScaleError(
            f"the clip norm has {clip_levels(codec):.1f} levels over {size} coordinates, so that rounding "
            "would outweigh updates: raise the clamp, or lower the range factor"
        )
    laplace = privacy.mechanism == "local-laplace"
    drawn = noise_levels(plan) ** 2 * (2 if laplace else 1)
    too_long = laplace and laplace_reach(noise_levels(plan)) >= MOST_MAGNITUDES
    if drawn < LEAST_VARIANCE:
        raise NoiseSizeError(
            f"each party would draw noise of variance {drawn:g}, under {LEAST_VARIANCE:g} squared levels: "
            "plan more rounds or a smaller epsilon, or raise the clamp",
            too_small=True,
        )
    if too_long or not drawn <= MOST_VARIANCE:
        raise NoiseSizeError(
            f"each party would draw noise of variance {drawn:g}, over {MOST_VARIANCE:g} squared levels or "
            "with too long tails: plan fewer rounds or a larger epsilon, or lower the clamp"
        )
    if plan.shared:
        extra = extra_levels(privacy)
        level, words = max(codec.clamp, *extra, 0), codec.kept + len(extra)
        fault = overflow(codec.ring_bits, plan.n_max, level, device_variance(plan), words)
        if fault:
            raise RingOverflowError(fault)


def judge_scale(plan: Plan) -> str:
    """Return a warning where the levels are coarse for noise, empty where they are fine.

    With 127 levels of the clip norm over a million coordinates rounding made an epsilon of 8 one of 26.
    """
    size = grid_size(plan.codec)
    levels, fair = clip_levels(plan.codec), FAIR_SCALE * math.sqrt(size)
    if plan.privacy is None or levels >= fair:
        return ""
    return (
        f"the clip norm has {levels:.0f} levels, {fair:.0f} would keep the noise for rounding small: raise "
        "the clamp or lower the range factor"
    )
