"""From the operator's budget to the noise of plans: the numbers fit, and what cannot fit is refused."""

import re
from typing import Any

import msgspec
import pytest

from shoal_codecs.privacy.charge import Charge, charge_of
from shoal_codecs.privacy.errors import BudgetExceededError, BudgetUnreachableError, FleetTooSmallError
from shoal_codecs.privacy.plan_noise import clip_levels
from shoal_codecs.privacy.promise import check_promise
from shoal_codecs.updates.errors import RingOverflowError
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.plan import HubOffer, Plan
from shoal_coordinator.config import PrivacySettings
from shoal_coordinator.plannable import price_of_a_round, refuse_unplannable
from shoal_coordinator.planning import PlanSettings, codec_plan, make_plan
from shoal_coordinator.privacy_terms import PrivacyTerms, make_terms
from shoal_coordinator.round_errors import InvalidRoundPlanError

DIMENSION = 9610


def terms(mode: str = "hubs", fleet: int = 100, **changes: Any) -> PrivacyTerms:
    settings = PrivacySettings(**({"mechanism": "auto"} | changes))
    made = make_terms(settings, mode, fleet, fleet)
    assert made is not None
    return made


def planned(made: PrivacyTerms, mode: str = "hubs", size: int = 100) -> Plan:
    settings = PlanSettings(fleet="field", mode=mode, privacy=made)  # type: ignore[arg-type]
    names = ("hub-1", "hub-2") if mode == "hubs" else ("coordinator",)
    return make_plan(
        settings,
        number=1,
        task=b"t" * 32,
        base=b"b" * 32,
        roster=b"r" * 32,
        dimension=DIMENSION,
        cohort=[f"device-{n:03}" for n in range(size)],
        offers={name: HubOffer(name, b"k" * 32, b"n" * 32) for name in names},
        hubs=names,
        now_ms=1_700_000_000_000,
    )


def test_rounds_add_no_noise_unless_asked_to() -> None:
    assert make_terms(PrivacySettings(), "hubs", 3, 3) is None
    assert PlanSettings(fleet="field", mode="hubs").privacy is None


@pytest.mark.parametrize("changes", [{"epsilon": 2.0}, {"noise_multiplier": 1.0}, {"adaptive_clip": True}])
def test_a_budget_without_noise_is_refused_by_its_key(changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRoundPlanError, match=rf"rounds.privacy.{next(iter(changes))} .*to 'auto'"):
        make_terms(PrivacySettings(**changes), "hubs", 3, 3)


@pytest.mark.parametrize(("mode", "mechanism"), [("hubs", "skellam"), ("plain", "central")])
def test_the_noise_of_a_plan_keeps_the_budget_and_no_more(mode: str, mechanism: str) -> None:
    plan = planned(terms(mode), mode)
    assert plan.privacy is not None
    assert plan.privacy.mechanism == mechanism
    charge = charge_of(plan)
    assert 7.99 < charge.times(50).epsilon(plan.privacy.delta) <= 8.0
    assert charge.times(51).epsilon(plan.privacy.delta) > 8.0


def test_the_noise_is_the_usual_multiple_of_the_clip_norm() -> None:
    central = planned(terms("plain"), "plain")
    assert central.privacy is not None
    assert central.privacy.noise == pytest.approx(4.55, rel=0.01)
    plan = planned(terms())
    assert plan.privacy is not None
    # In the ring a little more, for rounding makes vectors longer.
    assert 1.0 < plan.privacy.noise**0.5 / clip_levels(plan.codec) / central.privacy.noise < 1.02


def test_a_fifth_of_the_cohort_is_not_counted_on() -> None:
    for size, corrupt in ((100, 20), (101, 21), (5, 1), (3, 1)):
        plan = planned(terms(allow_small_fleet=True), size=size)
        assert plan.privacy is not None
        assert plan.privacy.corrupt == corrupt
    assert planned(terms("plain"), "plain").privacy.corrupt == 0  # type: ignore[union-attr]


def test_further_coordinates_are_paid_for() -> None:
    bare, more = planned(terms()), planned(terms(adaptive_clip=True, metrics=True))
    assert bare.privacy is not None
    assert more.privacy is not None
    assert more.privacy.clip_bit > 0 < more.privacy.metric_levels
    assert 1.01 < (more.privacy.noise / bare.privacy.noise) ** 0.5 < 1.15
    delta = more.privacy.delta
    assert charge_of(more).times(50).epsilon(delta) <= 8.0


def test_noise_that_does_not_last_is_refused_with_the_rounds_that_would() -> None:
    wanted = terms(noise_multiplier=3.0)
    codec = codec_plan(PlanSettings(fleet="field", mode="hubs"), DIMENSION, 100)
    with pytest.raises(BudgetExceededError, match=r"50 rounds cost epsilon 13\.\d+, .* 22 rounds would fit"):
        wanted.part(codec, 100)
    with pytest.raises(InvalidRoundPlanError, match="22 rounds would fit"):
        planned(wanted)
    lasting = terms(noise_multiplier=3.0, rounds=22).part(codec, 100)
    assert lasting.noise == pytest.approx((3.0 * clip_levels(codec)) ** 2)


def test_the_noise_hangs_on_the_codec_and_not_on_the_round() -> None:
    made = terms()
    codec = codec_plan(PlanSettings(fleet="field", mode="hubs"), DIMENSION, 100)
    again = msgspec.structs.replace(codec, ring_bits=24, clip_norm=1.5, source=b"s" * 32)
    assert made.part(codec, 100) == made.part(again, 100)
    finer = msgspec.structs.replace(codec, clamp=2047)
    assert made.part(finer, 100).noise > made.part(codec, 100).noise
    assert made.charge(codec).times(50).epsilon(made.delta) <= 8.0


def test_small_fleets_are_refused_before_the_first_round_unless_meant() -> None:
    with pytest.raises(FleetTooSmallError, match="49 devices"):
        terms(fleet=49)
    assert "learn little" in terms(fleet=49, allow_small_fleet=True).warning
    assert terms().warning == ""


def test_delta_follows_the_fleet_unless_it_is_set() -> None:
    assert terms().delta == 1e-5
    assert terms(fleet=100_000).delta == pytest.approx(1e-6)
    assert terms(delta=1e-7).delta == 1e-7


@pytest.mark.parametrize(
    ("mode", "changes"),
    [
        ("plain", {"mechanism": "skellam"}),
        ("hubs", {"mechanism": "central"}),
        ("hubs", {"mechanism": "local-gaussian"}),
        ("plain", {"metrics": True}),
        ("hubs", {"epsilon": 0.0}),
        ("hubs", {"rounds": 0}),
        ("hubs", {"delta": 1.5}),
        ("hubs", {"corrupt_share": 1.0}),
        ("hubs", {"noise_multiplier": -1.0}),
    ],
)
def test_settings_that_make_no_budget_are_named(mode: str, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRoundPlanError, match=r"rounds\.privacy"):
        terms(mode, **changes)


@pytest.mark.parametrize("size", [3, 50, 100, 1000])
def test_the_ring_holds_the_noise(size: int) -> None:
    made = terms(allow_small_fleet=True, metrics=True, adaptive_clip=True)
    plan = planned(made, size=size)
    assert ring_spec(plan).noise > 0
    narrower = msgspec.structs.replace(plan.codec, ring_bits=plan.codec.ring_bits - 1)
    with pytest.raises((RingOverflowError, InvalidPlanError)):
        check_promise(msgspec.structs.replace(plan, codec=narrower))


def test_settings_that_make_no_plan_are_refused_at_the_start() -> None:
    coarse = PlanSettings(fleet="field", mode="hubs", clamp=2, privacy=terms())
    with pytest.raises(InvalidRoundPlanError, match="raise the clamp"):
        refuse_unplannable(coarse, DIMENSION, 100)
    refuse_unplannable(PlanSettings(fleet="field", mode="hubs", privacy=terms()), DIMENSION, 100)
    # A fleet below its floor is no fault of the noise: it waits for more.
    refuse_unplannable(PlanSettings(fleet="field", mode="hubs", privacy=terms()), DIMENSION, 1)


@pytest.mark.parametrize("mode", ["hubs", "plain"])
@pytest.mark.parametrize(("epsilon", "rounds"), [(0.05, 5000), (8.0, 500_000), (1e-6, 50)])
def test_a_budget_out_of_reach_is_refused_with_the_rounds_that_would_fit(
    mode: str, epsilon: float, rounds: int
) -> None:
    """What is told is the most: so many rounds make a plan, and one more makes none."""

    def priced(count: int) -> Charge | None:
        made = terms(mode, epsilon=epsilon, rounds=count, allow_small_fleet=True)
        settings = PlanSettings(fleet="field", mode=mode, privacy=made)  # type: ignore[arg-type]
        return price_of_a_round(settings, DIMENSION, 10)

    with pytest.raises((InvalidRoundPlanError, BudgetUnreachableError)) as caught:
        priced(rounds)
    found = re.search(r"; (\d+|not even one) rounds? would fit$", str(caught.value))
    assert found is not None
    fit = int(found[1]) if found[1].isdigit() else 0
    assert (fit > 0) == (epsilon > 0.01)
    if fit:
        charge = priced(fit)
        assert charge is not None
        assert charge.times(fit).epsilon(terms().delta) <= epsilon
    with pytest.raises((InvalidRoundPlanError, BudgetUnreachableError)):
        priced(fit + 1)


def test_noise_too_small_to_be_drawn_asks_for_no_fewer_rounds() -> None:
    made = terms(epsilon=1e9, rounds=1, allow_small_fleet=True)
    settings = PlanSettings(fleet="field", mode="hubs", clamp=7, range_factor=3.0, privacy=made)
    with pytest.raises(InvalidRoundPlanError, match=r"smaller epsilon, or raise the clamp$"):
        price_of_a_round(settings, DIMENSION, 100)
