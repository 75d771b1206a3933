"""Renyi differential privacy in closed form, and what it means as (epsilon, delta). Imports ``math`` alone.

Mironov 2017 for the notion, Mironov, Talwar and Zhang 2019 for Poisson sampling, Agarwal, Kairouz and Liu
2021 for Skellam noise, Canonne, Kamath and Steinke 2020 (proposition 12) for the conversion.
"""

import math
from collections.abc import Iterable

from shoal_codecs.privacy.errors import PrivacyNumberError
from shoal_codecs.privacy.sensitivity import Sensitivity

ORDERS: tuple[float, ...] = (
    *(1 + step / 10 for step in range(1, 100)),
    *(float(order) for order in range(11, 64)),
    *(64.0, 80.0, 96.0, 128.0, 192.0, 256.0, 512.0, 1024.0),
)
"""Where every charge is computed; sums of charges are sums at each of them."""
# The series alternates, so that what is left out is less than its first term: 1e-11 of the moment.
_NEGLIGIBLE = -25.0
_FAR = 25.0


def gaussian_rdp(sigma: float, order: float) -> float:
    """Return the RDP at ``order`` of Gaussian noise with ``sigma`` times the L2 sensitivity."""
    _positive(sigma=sigma)
    return order / (2 * sigma**2)


def laplace_rdp(scale: float, order: float) -> float:
    """Return the RDP at ``order`` of Laplace noise with ``scale`` times the L1 sensitivity."""
    _positive(scale=scale)
    first = math.log(order / (2 * order - 1)) + (order - 1) / scale
    second = math.log((order - 1) / (2 * order - 1)) - order / scale
    return _log_add(first, second) / (order - 1)


def skellam_rdp(variance: float, bounds: Sensitivity, order: float) -> float:
    """Return the RDP at ``order`` of Skellam noise of ``variance`` (levels squared) on integers.

    Agarwal et al. 2021, theorem 3.5, which holds for whole orders; at large variances it is the Gaussian's.
    Between two whole orders (order - 1) times the RDP is at most on the line between theirs, for it is convex
    in the order, and zero at 1 (van Erven and Harremoes 2014, corollary 2).
    """
    _positive(variance=variance)
    whole = math.floor(order)
    low = (whole - 1) * _whole_skellam_rdp(variance, bounds, whole)
    if whole == order:
        return low / (order - 1)
    high = whole * _whole_skellam_rdp(variance, bounds, whole + 1)
    return (low + (order - whole) * (high - low)) / (order - 1)


def _whole_skellam_rdp(variance: float, bounds: Sensitivity, order: int) -> float:
    squared, l1 = bounds.l2_squared, bounds.l1
    tail = ((2 * order - 1) * squared + 6 * l1) / (4 * variance**2)
    return order * squared / (2 * variance) + min(tail, 3 * l1 / (2 * variance))


def sampled_gaussian_rdp(sigma: float, sampled: float, order: float) -> float:
    """Return the RDP at ``order`` of Gaussian noise where each takes part with probability ``sampled``.

    Poisson sampling only: shuffled batches are none, and nobody may see who took part.
    """
    _positive(sigma=sigma)
    if not 0 <= sampled <= 1:
        raise PrivacyNumberError(f"a sampling probability of {sampled} is none: take 0 to 1")
    if sampled == 0:
        return 0.0
    if sampled == 1:
        return gaussian_rdp(sigma, order)
    whole = order == int(order)
    moment = _moment(sigma, sampled, int(order)) if whole else _fractional_moment(sigma, sampled, order)
    return moment / (order - 1)


def epsilon_of(rdp: Iterable[float], delta: float) -> float:
    """Return the least epsilon that the RDP at ``ORDERS`` gives with ``delta``.

    Raises:
        PrivacyNumberError: ``delta`` is no probability between 0 and 1.
    """
    if not 0 < delta < 1:
        raise PrivacyNumberError(f"delta {delta} is none: take a small number such as 1e-5")
    return max(
        0.0,
        min(
            spent + math.log1p(-1 / order) - math.log(delta * order) / (order - 1)
            for spent, order in zip(rdp, ORDERS, strict=True)
        ),
    )


def analytic_gaussian_epsilon(sigma: float, delta: float) -> float:
    """Return the exact epsilon of one Gaussian release (Balle and Wang 2018, theorem 8)."""
    _positive(sigma=sigma, delta=delta)
    low, high = 0.0, 1.0
    while _gaussian_delta(sigma, high) > delta:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _gaussian_delta(sigma, middle) > delta else (low, middle)
    return high


def _gaussian_delta(sigma: float, epsilon: float) -> float:
    half, shift = 1 / (2 * sigma), epsilon * sigma
    return _normal(half - shift) - math.exp(epsilon + math.log(max(_normal(-half - shift), 5e-324)))


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _moment(sigma: float, sampled: float, order: int) -> float:
    """Return the log of the moment at a whole order (Mironov et al. 2019, section 3.3)."""
    total = -math.inf
    for k in range(order + 1):
        chosen = math.lgamma(order + 1) - math.lgamma(k + 1) - math.lgamma(order - k + 1)
        weight = k * math.log(sampled) + (order - k) * math.log1p(-sampled)
        total = _log_add(total, chosen + weight + (k * k - k) / (2 * sigma**2))
    return total


def _fractional_moment(sigma: float, sampled: float, order: float) -> float:
    """Return the log of the moment at any order: two series around the point where the densities cross."""
    cross = sigma**2 * math.log(1 / sampled - 1) + 0.5
    # The signs alternate beyond the order, so that positive and negative terms are kept apart.
    plus = minus = -math.inf
    magnitude, sign, k = 0.0, 1.0, 0
    while True:
        rest = order - k
        low = k * math.log(sampled) + rest * math.log1p(-sampled) + (k * k - k) / (2 * sigma**2)
        high = rest * math.log(sampled) + k * math.log1p(-sampled) + (rest * rest - rest) / (2 * sigma**2)
        low += _log_erfc((k - cross) / (math.sqrt(2) * sigma)) - math.log(2)
        high += _log_erfc((cross - rest) / (math.sqrt(2) * sigma)) - math.log(2)
        term = magnitude + _log_add(low, high)
        plus, minus = (_log_add(plus, term), minus) if sign > 0 else (plus, _log_add(minus, term))
        if k > order and term < max(plus, 0.0) + _NEGLIGIBLE:
            break
        sign *= math.copysign(1.0, rest)
        magnitude += math.log(abs(rest)) - math.log(k + 1)
        k += 1
    return plus + math.log1p(-math.exp(minus - plus))


def _log_erfc(x: float) -> float:
    if x < _FAR:
        return math.log(math.erfc(x))
    # erfc itself is too small for a float here; its asymptotic series is exact to the last digits.
    return -x * x - math.log(x * math.sqrt(math.pi)) + math.log1p(-1 / (2 * x * x) + 3 / (4 * x**4))


def _log_add(one: float, other: float) -> float:
    high, low = max(one, other), min(one, other)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _positive(**numbers: float) -> None:
    for name, value in numbers.items():
        if not (math.isfinite(value) and value > 0):
            raise PrivacyNumberError(f"{name} must be a positive number, got {value}: check the settings")
