"""What one round costs, from its plan alone: coordinator, hubs and devices come to the same number."""

import math
from collections.abc import Iterator

import msgspec

from shoal_codecs.privacy.accountant import (
    ORDERS,
    epsilon_of,
    gaussian_rdp,
    laplace_rdp,
    skellam_rdp,
)
from shoal_codecs.privacy.errors import PrivacyNumberError, UnprivatePlanError
from shoal_codecs.privacy.plan_noise import extra_levels, grid_sensitivity
from shoal_codecs.privacy.sensitivity import Sensitivity
from shoal_codecs.wire.plan import CodecPlan, Plan, PrivacyPlan

_FLOAT_SLACK = 1e-9


class Charge(msgspec.Struct, frozen=True, array_like=True):
    """A price: the RDP at each of ``accountant.ORDERS``. Prices of several rounds add up.

    Raises:
        PrivacyNumberError: not one finite number, zero or more, for each order.
    """

    rdp: tuple[float, ...] = (0.0,) * len(ORDERS)

    def __post_init__(self) -> None:
        """Refuse what would not be a price."""
        if len(self.rdp) != len(ORDERS) or not all(0 <= spent < math.inf for spent in self.rdp):
            raise PrivacyNumberError(
                f"a charge has {len(ORDERS)} finite numbers, zero or more: restore the ledger"
            )

    def __add__(self, other: "Charge") -> "Charge":
        """Return the price of both."""
        return Charge(tuple(map(sum, zip(self.rdp, other.rdp, strict=True))))

    def times(self, rounds: int) -> "Charge":
        """Return the price of so many rounds alike."""
        return Charge(tuple(rounds * spent for spent in self.rdp))

    def epsilon(self, delta: float) -> float:
        """Return what the price means with ``delta``."""
        return epsilon_of(self.rdp, delta)


def keeps(charge: Charge, epsilon: float, delta: float) -> bool:
    """Return whether ``charge`` stays within the budget (``epsilon``, ``delta``)."""
    # T charges added one by one differ from T times one in the last digits, and T rounds are promised.
    return charge.epsilon(delta) <= epsilon * (1 + _FLOAT_SLACK)


def sensitivity_of(plan: Plan) -> Sensitivity:
    """Return what one device can add to the ring of ``plan`` (a shared mode)."""
    return grid_sensitivity(plan.codec, extra_levels(plan.privacy))


def charge_of(plan: Plan) -> Charge:
    """Return what taking part in ``plan`` costs a device, whoever works it out.

    The noise of ``corrupt`` devices is not counted: ``privacy.noise`` is what the others add together. There
    is no discount for being chosen by chance, for everybody can see who takes part.

    Raises:
        UnprivatePlanError: the plan adds no noise.
        PrivacyNumberError: numbers that no formula holds for.
    """
    if plan.privacy is None:
        raise UnprivatePlanError(f"round {plan.round} adds no noise: give its settings a privacy mechanism")
    return price_of(plan.codec, plan.privacy)


def price_of(codec: CodecPlan, privacy: PrivacyPlan) -> Charge:
    """Return what a round with this codec and this noise costs; it hangs on nothing else of a plan.

    Raises:
        PrivacyNumberError: numbers that no formula holds for.
    """
    try:
        return Charge(tuple(_price(codec, privacy)))
    except ArithmeticError as error:
        raise PrivacyNumberError(
            "the plan's noise or range is too large or too small to be counted with: correct its settings"
        ) from error


def _price(codec: CodecPlan, privacy: PrivacyPlan) -> Iterator[float]:
    if privacy.mechanism == "skellam":
        bounds = grid_sensitivity(codec, extra_levels(privacy))
        return (skellam_rdp(privacy.noise, bounds, order) for order in ORDERS)
    formula = laplace_rdp if privacy.mechanism == "local-laplace" else gaussian_rdp
    return (formula(privacy.noise, order) for order in ORDERS)
