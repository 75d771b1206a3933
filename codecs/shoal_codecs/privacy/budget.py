"""Budgets before the first round: how much noise keeps one, and how many rounds fit."""

import math
from collections.abc import Callable

from shoal_codecs.privacy.charge import Charge, keeps
from shoal_codecs.privacy.errors import (
    BudgetExceededError,
    BudgetUnreachableError,
    FleetTooSmallError,
    PrivacyNumberError,
)

LARGEST_DELTA = 1e-5
LEAST_FLEET, FAIR_FLEET = 50, 100
STRICT_EPSILON = 8.0
MOST_ROUNDS = 1_000_000
_MOST_NOISE = 1e18
_STEPS = 80


def default_delta(fleet: int) -> float:
    """Return the delta for a fleet of that many devices: 1e-5, or a tenth of one device's share."""
    if fleet < 1:
        raise PrivacyNumberError(f"{fleet} devices are no fleet: enrol some")
    return min(LARGEST_DELTA, 1 / (10 * fleet))


def rounds_within(charge: Charge, epsilon: float, delta: float, spent: Charge | None = None) -> int:
    """Return how many rounds of ``charge`` fit into (``epsilon``, ``delta``) on top of ``spent``."""
    start = spent or Charge()
    low, high = 0, 1
    while high <= MOST_ROUNDS and keeps(start + charge.times(high), epsilon, delta):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        fits = keeps(start + charge.times(middle), epsilon, delta)
        low, high = (middle, high) if fits else (low, middle)
    return min(low, MOST_ROUNDS)


def noise_for(price: Callable[[float], Charge], epsilon: float, delta: float, rounds: int) -> float:
    """Return the least noise for which ``rounds`` of ``price(noise)`` keep (``epsilon``, ``delta``).

    Raises:
        PrivacyNumberError: a budget or a number of rounds that is none.
        BudgetUnreachableError: no noise does.
    """
    if not (math.isfinite(epsilon) and epsilon > 0 and rounds >= 1):
        raise PrivacyNumberError(f"epsilon {epsilon} over {rounds} rounds is no budget: make both positive")

    def enough(noise: float) -> bool:
        return price(noise).times(rounds).epsilon(delta) <= epsilon

    high = 1.0
    while not enough(high):
        high *= 4
        if high > _MOST_NOISE:
            raise BudgetUnreachableError(
                f"no noise keeps epsilon {epsilon:g} over {rounds} rounds with delta {delta:g}: "
                "raise epsilon or ask for fewer rounds"
            )
    low = 0.0
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def refuse_unless_kept(charge: Charge, rounds: int, epsilon: float, delta: float) -> None:
    """Refuse ``rounds`` of ``charge`` that do not fit, before the first of them.

    Raises:
        BudgetExceededError: with the largest number of rounds that would.
    """
    whole = charge.times(rounds)
    if not keeps(whole, epsilon, delta):
        cost = whole.epsilon(delta)
        fit = rounds_within(charge, epsilon, delta)
        raise BudgetExceededError(
            f"{rounds} rounds cost epsilon {cost:.2f}, the budget is {epsilon:g}: {fit} rounds would fit; "
            f"{'ask for those, ' if fit else ''}add noise, or raise the budget"
        )


def judge_fleet(devices: int, epsilon: float, *, allow_small: bool = False) -> str:
    """Return a warning where ``devices`` are few for ``epsilon``, empty where they are enough.

    Noise is shared by a cohort: at epsilon 8 the digits came to .22 to .34 with 10 devices, to .92 with 100.

    Raises:
        FleetTooSmallError: so few that the model would learn nothing, unless ``allow_small``.
    """
    if epsilon > STRICT_EPSILON or devices >= FAIR_FLEET:
        return ""
    if devices < LEAST_FLEET and not allow_small:
        raise FleetTooSmallError(
            f"{devices} devices cannot learn under epsilon {epsilon:g}: enrol {LEAST_FLEET} or more, or "
            "set allow_small_fleet = true and expect little"
        )
    pace = "slowly" if devices >= LEAST_FLEET else "little or nothing"
    return f"{devices} devices under epsilon {epsilon:g} will learn {pace}: {FAIR_FLEET} would do well"
