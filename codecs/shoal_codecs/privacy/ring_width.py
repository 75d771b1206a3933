"""How wide a ring has to be that noise is added in: with ``math`` alone, so that every party can check it."""

import math

MOST_ROUNDS = 1 << 20
"""For so many rounds together a sum shall not leave its ring but with a probability of 2**-40."""
LEAST_VARIANCE, MOST_VARIANCE = 2.0**-10, 2.0**32
"""One party's noise in squared levels: less hides nothing on its own, more is in no table."""
MOST_MAGNITUDES = 1 << 20
TAIL = 110 * math.log(2)
"""A table goes on until less than 2**-109 lies beyond it, and has at most so many magnitudes."""
MOST_BITS = 1024
FAR_DEVIATIONS = 10.5
_LOG_FAILURE = 40 * math.log(2)


def laplace_reach(scale: float) -> float:
    """Return the levels at which a table of Laplace noise of ``scale`` ends: its tails are the longest."""
    return scale * TAIL + 1


def noise_reach(variance: float, words: int) -> float:
    """Return the levels that Skellam noise of ``variance`` stays within, in all of ``words`` over all rounds.

    It is the Gaussian's bound sqrt(2 v t) with t = ln(2 k T) + 40 ln 2, widened by what Skellam's tails are
    heavier: its cumulants fulfil Bernstein's condition with 1/3 (Boucheron et al. 2013, theorem 2.10).
    """
    if variance <= 0:
        return 0.0
    tail = math.log(2 * words * MOST_ROUNDS) + _LOG_FAILURE
    return tail / 3 + math.sqrt(tail**2 / 9 + 2 * variance * tail)


def noise_length(variance: float, words: int) -> float:
    """Return the L2 norm that noise of ``variance`` on ``words`` coordinates stays within, nearly always."""
    # A Gaussian vector's norm is its root mean square and a deviation of less than one coordinate's.
    return math.sqrt(variance) * (math.sqrt(words) + FAR_DEVIATIONS)


def sum_reach(n_max: int, level: float, variance: float, words: int) -> float:
    """Return the largest level that ``n_max`` devices at +-``level`` add up to, their noise included.

    ``variance`` is that of one device's noise in levels squared, ``words`` the length of the vector.
    """
    return n_max * level + noise_reach(n_max * variance, words)


def overflow(bits: int, n_max: int, level: float, variance: float, words: int) -> str:
    """Return why such a sum does not fit a ring of ``bits``, empty where it does."""
    reach, half = sum_reach(n_max, level, variance, words), 1 << (bits - 1)
    if reach < half:
        return ""
    noise = f" and noise of {math.sqrt(n_max * variance):.6g} levels" if variance > 0 else ""
    return (
        f"{n_max} devices at level {level:g}{noise} add up to {reach:.12g}, and a ring of {bits} bits holds "
        f"less than {half}: use a wider ring, fewer devices or a lower clamp"
    )


def bits_for(n_max: int, level: float, variance: float, words: int) -> int:
    """Return the bits of the narrowest ring that holds such a sum; it may be wider than any that there is."""
    reach = sum_reach(n_max, level, variance, words)
    return math.floor(reach).bit_length() + 1 if reach < math.inf else MOST_BITS
