"""Whether rounds can be planned at all: asked before the first one, where a person hears the answer."""

import contextlib
from dataclasses import replace

import msgspec

from shoal_codecs.privacy.charge import Charge
from shoal_codecs.privacy.errors import BudgetUnreachableError, NoiseSizeError
from shoal_codecs.wire.plan import HubOffer
from shoal_codecs.wire.single import Prekey
from shoal_coordinator.planning import PlanSettings, codec_plan, make_plan
from shoal_coordinator.round_errors import CohortTooSmallError, InvalidRoundPlanError


def price_of_a_round(settings: PlanSettings, dimension: int, size: int) -> Charge | None:
    """Return what a round of ``size`` devices costs each of them, None where rounds add no noise.

    Raises:
        InvalidRoundPlanError: settings that make no plan, with the numbers that do not fit.
        BudgetExceededError, BudgetUnreachableError: the noise that is asked for, or any, does not keep the
            budget; with how many rounds would fit.
    """
    terms = settings.privacy
    if terms is None:
        refuse_unplannable(settings, dimension, size)
        return None
    try:
        charge = terms.charge(codec_plan(settings, dimension, size))
        refuse_unplannable(settings, dimension, size)
    except (BudgetUnreachableError, InvalidRoundPlanError) as error:
        if terms.multiplier or not _too_much_noise(error):
            raise
        fit = _rounds_that_fit(settings, dimension, size)
        words = f"{fit} round{'s' if fit > 1 else ''} would fit" if fit else "not even one round would fit"
        raise type(error)(f"{error}; {words}") from error
    return charge


def refuse_unplannable(settings: PlanSettings, dimension: int, size: int) -> None:
    """Refuse settings that make no plan for ``size`` devices, before there is any round.

    Raises:
        InvalidRoundPlanError: with the numbers that do not fit.
    """
    names = ("a", "b") if settings.mode == "hubs" else ("a",)
    devices = [str(place) for place in range(size)]
    with contextlib.suppress(CohortTooSmallError):
        make_plan(
            settings,
            number=1,
            task=bytes(32),
            base=bytes(32),
            roster=bytes(32),
            dimension=dimension,
            cohort=devices,
            offers={name: HubOffer(name, bytes(32), bytes(32)) for name in names},
            hubs=names,
            now_ms=settings.clock_slack_ms + 1,
            prekeys={name: Prekey(name.encode(), b"", b"", b"") for name in devices},
            correction=bytes(32) if "control" in settings.tells else b"",
        )


def _too_much_noise(error: Exception) -> bool:
    """Whether a plan needs more noise than can be drawn, which fewer rounds would not."""
    fault = error.__cause__ if isinstance(error, InvalidRoundPlanError) else error
    return isinstance(fault, BudgetUnreachableError) or (
        isinstance(fault, NoiseSizeError) and not fault.too_small
    )


def _rounds_that_fit(settings: PlanSettings, dimension: int, size: int) -> int:
    """Return the most rounds that the noise of plans can keep the budget over; all that are wanted cannot."""
    terms = settings.privacy
    if terms is None:
        return 0
    fit, too_many = 0, terms.rounds
    while too_many - fit > 1:
        middle = (fit + too_many) // 2
        fewer = msgspec.structs.replace(settings, privacy=replace(terms, rounds=middle))
        try:
            refuse_unplannable(fewer, dimension, size)
        except InvalidRoundPlanError:
            too_many = middle
        else:
            fit = middle
    return fit
