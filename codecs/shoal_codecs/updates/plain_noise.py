"""Noise in mode ``plain``: updates on a grid of integers, noised on the device or once over their sum.

Integers and not floats, whose gaps would tell the noise from what it hides (Mironov 2012): clip, round to the
grid under a bound on the norm, add noise from a table.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from shoal_codecs.privacy.noise_table import discrete_gaussian_table, rounded_laplace_table
from shoal_codecs.privacy.plan_noise import clip_levels, grid_sensitivity, grid_size, noise_levels
from shoal_codecs.privacy.ring_width import FAR_DEVIATIONS, noise_length
from shoal_codecs.privacy.samplers import noise_pieces
from shoal_codecs.privacy.sensitivity import rounded_l1
from shoal_codecs.updates.base import Chance, Float32Vector, check_shape
from shoal_codecs.updates.ring_levels import Chosen, check_finite, write_levels
from shoal_codecs.updates.selection import Selection, select_coordinates
from shoal_codecs.wire.plan import SEEDED_CODECS, Plan, coordinate_seed

Float64Vector = npt.NDArray[np.float64]
_WORD_BITS = 32
_NO_CLAMP = (1 << (_WORD_BITS - 1)) - 1


def noise_on_device(update: Float32Vector, plan: Plan, rng: Chance) -> Float32Vector:
    """Return ``update`` (float32[D]) as a device may show it under ``local-gaussian`` or ``local-laplace``.

    Clipped after the rescale (to an L1 norm for Laplace noise) and noised on every coordinate that the
    plan's codec sends; zero on all others. The codec's own rescale then gives what was noised.

    Raises:
        VectorShapeError, NonFiniteUpdateError: no update of this plan.
        NoiseSizeError: noise that no table holds.
    """
    codec = plan.codec
    check_shape(update, codec.dimension)
    check_finite(update)
    selection = _selection(plan)
    levels = _levels(Chosen(update, selection), plan, rng)
    scale = noise_levels(plan)
    laplace = plan.privacy is not None and plan.privacy.mechanism == "local-laplace"
    table = rounded_laplace_table(scale) if laplace else discrete_gaussian_table(scale)
    for start, numbers in noise_pieces(table, levels.size):
        levels[start : start + numbers.size] += numbers
    unit = codec.clip_norm / clip_levels(codec)
    if selection is None:
        return (levels * unit).astype(np.float32)
    noised = np.zeros(codec.dimension, np.float32)
    noised[selection.indices] = levels * (unit / selection.factor)
    return noised


def noised_mean(updates: Iterable[Float32Vector], plan: Plan, rng: Chance) -> Float64Vector:
    """Return the mean (float64[D]) of decoded ``updates`` (float32[D] each) over n_max, under ``central``.

    Each is clipped to the clip norm, rescaled as it comes; noise is added once, on every coordinate that
    could have moved. A device that is missing counts as one that moved nothing.

    Raises:
        NoiseSizeError: noise that no table holds.
    """
    codec = plan.codec
    selection = _selection(plan)
    total = np.zeros(grid_size(codec), np.int64)
    for update in updates:
        sent = update if selection is None else update[selection.indices]
        total += _levels(Chosen(sent, None), plan, rng)
    for start, numbers in noise_pieces(discrete_gaussian_table(noise_levels(plan)), total.size):
        total[start : start + numbers.size] += numbers
    values = total.astype(np.float64)
    values *= codec.clip_norm / clip_levels(codec) / plan.n_max
    if selection is None:
        return values
    mean = np.zeros(codec.dimension, np.float64)
    mean[selection.indices] = values
    return mean


def longest_update(plan: Plan) -> float:
    """Return the L2 norm that an honest device's decoded update stays within."""
    codec, privacy = plan.codec, plan.privacy
    if privacy is None or privacy.mechanism == "central":
        return codec.clip_norm * math.sqrt(codec.dimension / codec.kept)
    size, unit = grid_size(codec), codec.clip_norm / clip_levels(codec)
    spread = noise_levels(plan) * unit
    if privacy.mechanism == "local-laplace":
        # Deviation sqrt(2) times the scale; one value far out is longer than all others are likely to be.
        return codec.clip_norm + spread * (2 * math.sqrt(size) + 8 * FAR_DEVIATIONS)
    return codec.clip_norm + noise_length(spread**2, size)


def _selection(plan: Plan) -> Selection | None:
    codec = plan.codec
    if codec.name not in SEEDED_CODECS or codec.kept == codec.dimension:
        return None
    return select_coordinates(coordinate_seed(plan), codec.dimension, codec.kept)


def _levels(chosen: Chosen, plan: Plan, rng: Chance) -> npt.NDArray[np.int32]:
    """Return the chosen values clipped and rounded to the plan's grid: int32[k]."""
    codec = plan.codec
    power = 1 if plan.privacy is not None and plan.privacy.mechanism == "local-laplace" else 2
    reach = clip_levels(codec)
    norm = chosen.norm(power)
    factor = reach / codec.clip_norm * min(1.0, codec.clip_norm / norm if norm else 1.0)
    # Of the very numbers that the noise is computed from.
    bound = rounded_l1(reach, grid_size(codec)) if power == 1 else grid_sensitivity(codec).l2_squared
    words = np.empty(chosen.size, np.uint32)
    write_levels(words, chosen, factor, rng, clamp=_NO_CLAMP, bits=_WORD_BITS, bound=bound, power=power)
    return words.view(np.int32)
