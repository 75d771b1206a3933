"""How far one device can move the sum of a ring, in levels: what noise has to hide.

Stochastic rounding makes a vector longer. It is drawn again until the length keeps the bound here, so that
the bound holds for every vector (conditional rounding: Kairouz, Liu and Steinke 2021, section 4.2).
"""

import math
from dataclasses import dataclass

from shoal_codecs.privacy.errors import PrivacyNumberError


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Bounds in levels on what one device adds: the L2 norm squared and the L1 norm."""

    l2_squared: float
    l1: float

    def plus(self, levels: float) -> "Sensitivity":
        """Return the bounds with one more coordinate of at most ``levels``."""
        return Sensitivity(self.l2_squared + levels**2, self.l1 + levels)


def rounded_l2_squared(reach: float, kept: int) -> float:
    """Return the bound that a rounded vector keeps: L2 norm squared, in levels squared.

    ``reach`` is the clip norm in levels, ``kept`` the number of coordinates. The probability that one draw
    breaks it is beta = exp(-1/2), so that sqrt(2 ln(1/beta)) is 1; no draw can pass (reach + sqrt(kept))^2.
    """
    root = math.sqrt(kept)
    return min((reach + root) ** 2, reach**2 + kept / 4 + reach + root / 2)


def rounded_l1(reach: float, kept: int) -> float:
    """Return the bound on the L1 norm that a vector of L1 norm ``reach`` keeps when it is rounded.

    Rounding keeps the norm on the average; by Hoeffding's inequality one draw breaks this bound with a
    probability of at most exp(-1/2).
    """
    return reach + math.sqrt(kept) / 2


def ring_sensitivity(reach: float, kept: int, extra: tuple[float, ...] = ()) -> Sensitivity:
    """Return what one device of a round can add to its ring.

    ``extra`` are the most levels of each further coordinate, such as the clip bit. Integers are at most their
    squares, so that the L1 norm is bounded by the L2 norm squared too.

    Raises:
        PrivacyNumberError: a length that is none.
    """
    if not (math.isfinite(reach) and reach > 0 and kept >= 1):
        raise PrivacyNumberError(f"a reach of {reach} levels over {kept} coordinates is none: check the plan")
    squared = rounded_l2_squared(reach, kept)
    bounds = Sensitivity(squared, min(math.sqrt(kept * squared), squared))
    for levels in extra:
        bounds = bounds.plus(levels)
    return bounds
