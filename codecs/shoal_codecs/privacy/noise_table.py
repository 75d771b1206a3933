"""Tables that noise is drawn from: symmetric distributions on the integers, for Walker's alias method.

Masses are computed in integers of more than 100 exact bits; a column's threshold is cut to 64 bits. What a
table draws is thus within 2**-63 of the distribution it stands for (total variation), tails included.
"""

import math
from array import array
from decimal import Decimal, localcontext
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from shoal_codecs.privacy.errors import NoiseSizeError
from shoal_codecs.privacy.ring_width import (
    LEAST_VARIANCE,
    MOST_MAGNITUDES,
    MOST_VARIANCE,
    TAIL,
    laplace_reach,
)

# Masses are multiples of 2**-160.
_MASS_BITS = 160
_GUARD_BITS = 200
_DIGITS = 90


class NoiseTable:
    """One distribution of magnitudes, 0 to ``reach``; the sign is a fair coin.

    ``threshold`` uint64[2**bits] and ``alias`` int32[2**bits]: column i, drawn evenly, is the magnitude i
    where a 64-bit uniform is below its threshold, else its alias.
    """

    def __init__(self, masses: list[int]) -> None:
        """Make the table of integer masses that add up to 2**160; the list is used up."""
        self.reach = len(masses) - 1
        self.bits = max(1, self.reach.bit_length())
        masses.extend([0] * ((1 << self.bits) - len(masses)))
        alias = _columns(masses, 1 << (_MASS_BITS - self.bits))
        drop = _MASS_BITS - self.bits - 64
        self.threshold: npt.NDArray[np.uint64] = np.fromiter(
            (min(one >> drop, (1 << 64) - 1) for one in masses), np.uint64, len(masses)
        )
        self.alias: npt.NDArray[np.int32] = np.frombuffer(alias, np.intc).astype(np.int32)


@lru_cache(maxsize=2)
def skellam_table(variance: float) -> NoiseTable:
    """Return the table of Skellam noise: the difference of two Poisson variables of ``variance`` / 2 each.

    Raises:
        NoiseSizeError: a variance outside what is tabulated.
    """
    reach = _reach(variance, TAIL / 3 + math.sqrt(TAIL**2 / 9 + 2 * variance * TAIL))
    # I(k - 1) = I(k + 1) + 2 k / v * I(k), backwards, where it is stable (Miller); e**-v cancels.
    numerator, denominator = variance.as_integer_ratio()
    step = (2 * denominator << _GUARD_BITS) // numerator
    bessel = [0] * (reach + 2)
    bessel[reach] = 1 << _GUARD_BITS
    for k in range(reach, 0, -1):
        bessel[k - 1] = bessel[k + 1] + (k * bessel[k] * step >> _GUARD_BITS)
    bessel.pop()
    return NoiseTable(_normalised(bessel))


@lru_cache(maxsize=2)
def discrete_gaussian_table(sigma: float) -> NoiseTable:
    """Return the table of the discrete Gaussian of Canonne, Kamath and Steinke 2020, at ``sigma`` levels.

    Raises:
        NoiseSizeError: a deviation outside what is tabulated.
    """
    reach = _reach(sigma * sigma, sigma * math.sqrt(2 * TAIL) + 1)
    with localcontext() as context:
        context.prec = _DIGITS
        half = -1 / (2 * Decimal(sigma) ** 2)
        ratio, shrink = _fixed(half.exp()), _fixed((2 * half).exp())
    masses = [1 << _GUARD_BITS]
    for _ in range(reach):
        masses.append(masses[-1] * ratio >> _GUARD_BITS)
        ratio = ratio * shrink >> _GUARD_BITS
    return NoiseTable(_normalised(masses))


@lru_cache(maxsize=2)
def rounded_laplace_table(scale: float) -> NoiseTable:
    """Return the table of Laplace noise of ``scale`` levels, rounded to the nearest integer.

    Added to integers it is the Laplace mechanism, rounded afterwards: it costs what Laplace noise costs.

    Raises:
        NoiseSizeError: a scale outside what is tabulated.
    """
    reach = _reach(2 * scale * scale, laplace_reach(scale))
    with localcontext() as context:
        context.prec = _DIGITS
        half, whole = (_fixed((-1 / (part * Decimal(scale))).exp()) for part in (2, 1))
    masses = [(1 << _GUARD_BITS) - half]
    # What lies beyond k - 1/2, both sides together; a weight is one side's.
    beyond = half
    for _ in range(reach):
        after = beyond * whole >> _GUARD_BITS
        masses.append((beyond - after) // 2)
        beyond = after
    return NoiseTable(_normalised(masses))


def _normalised(weights: list[int]) -> list[int]:
    """Turn one side's weights into the masses of magnitudes, which add up to 2**160 exactly; in place.

    There may be half a million, of some 40 bytes each: a device has no room for two such lists.
    """
    total = 2 * sum(weights) - weights[0]
    for place, weight in enumerate(weights):
        weights[place] = (2 * weight << _MASS_BITS) // total
    weights[0] = 0
    weights[0] = (1 << _MASS_BITS) - sum(weights)
    return weights


def _columns(left: list[int], full: int) -> "array[int]":
    """Make the thresholds of columns of ``full`` mass each of ``left``; return their aliases (Vose 1991)."""
    alias = array("i", range(len(left)))
    heavy = (place for place, mass in enumerate(left) if mass > full)
    light = array("i", (place for place, mass in enumerate(left) if mass < full))
    present = next(heavy, -1)
    for place in light:
        needs = place
        while left[needs] < full:
            alias[needs] = present
            left[present] -= full - left[needs]
            if left[present] > full:
                break
            needs, present = present, next(heavy, -1)
    return alias


def _fixed(number: Decimal) -> int:
    return int(number * (1 << _GUARD_BITS))


def _reach(variance: float, reach: float) -> int:
    if not (LEAST_VARIANCE <= variance <= MOST_VARIANCE and reach < MOST_MAGNITUDES):
        raise NoiseSizeError(
            f"noise of variance {variance:g} is outside {LEAST_VARIANCE:g} to {MOST_VARIANCE:g} squared "
            "levels, or its tails are too long: change the clamp, and with it the levels of the clip norm"
        )
    return math.ceil(reach)
