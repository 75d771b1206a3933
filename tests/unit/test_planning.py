"""From settings to a plan that every party can keep."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.plan import HubOffer, Mode, Plan, decode_plan, encode_plan
from shoal_codecs.wire.task import decode_task
from shoal_coordinator.config import CoordinatorSettings, RoundSettings, shipped
from shoal_coordinator.plannable import refuse_unplannable
from shoal_coordinator.planning import RING_LEVELS, PlanSettings, make_plan, refuse_mode
from shoal_coordinator.round_errors import CohortTooSmallError, InvalidRoundPlanError, MissingOfferError
from shoal_coordinator.service import plan_settings

OFFERS = {name: HubOffer(name, name.encode().ljust(32), b"n" * 32) for name in ("hub-1", "hub-2")}
NOW = 1_700_000_000_000


def plan_for(devices: int = 10, settings: PlanSettings | None = None, **changes: object) -> Plan:
    arguments: dict[str, object] = {
        "number": 1,
        "task": b"t" * 32,
        "base": b"b" * 32,
        "roster": b"r" * 32,
        "dimension": 9610,
        "cohort": [f"device-{n:02}" for n in range(devices)],
        "offers": OFFERS,
        "hubs": ("hub-1", "hub-2"),
        "now_ms": NOW,
    }
    arguments.update(changes)
    return make_plan(settings or PlanSettings(fleet="field", mode="hubs"), **arguments)  # type: ignore[arg-type]


def test_the_usual_plan_has_the_numbers_of_its_cohort() -> None:
    plan = plan_for()
    assert (plan.n_min, plan.quorum, plan.n_max) == (8, 8, 10)
    assert plan.codec.kept == 481
    assert plan.codec.ring_bits == 12
    assert [offer.hub for offer in plan.hubs] == ["hub-1", "hub-2"]
    assert plan.opens_ms < NOW < plan.closes_ms
    assert ring_spec(plan).words == 481 + ring_spec(plan).limbs


def test_the_scale_of_the_ring_is_the_one_that_was_signed() -> None:
    plan = plan_for()
    wider = replace(plan, codec=replace(plan.codec, range_factor=12.0))
    assert ring_spec(wider).levels_per_unit == ring_spec(plan).levels_per_unit / 2


@pytest.mark.parametrize(
    ("levels", "devices", "bits"), [(8, 258, 16), (8, 259, 17), (8, 3, 10), (4, 3, 6), (4, 18, 8), (4, 19, 9)]
)
def test_the_ring_is_as_narrow_as_the_cohort_lets_it_be(levels: int, devices: int, bits: int) -> None:
    clamp, range_factor = RING_LEVELS[levels]
    plan = plan_for(devices, PlanSettings(fleet="field", mode="hubs", clamp=clamp, range_factor=range_factor))
    assert (plan.codec.ring_bits, plan.codec.range_factor) == (bits, range_factor)
    assert ring_spec(plan).ring_bits == bits
    with pytest.raises(InvalidPlanError, match=rf"\b{devices} devices.*\b{clamp}\b.*\b{bits - 1} bits"):
        replace(plan, codec=replace(plan.codec, ring_bits=bits - 1))


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, (127, 6.0)),
        ({"levels": 4}, (7, 3.0)),
        ({"levels": 4, "range_factor": 2.0}, (7, 2.0)),
        ({"clamp": 31}, (31, 6.0)),
    ],
)
def test_levels_choose_clamp_and_range_unless_they_are_given(
    chosen: dict[str, Any], expected: tuple[int, float]
) -> None:
    bundle = decode_task(shipped("digits.task").read_bytes())
    made = plan_settings(CoordinatorSettings(rounds=RoundSettings(**chosen)), bundle, 10)
    assert (made.clamp, made.range_factor) == expected


def test_hubs_stand_in_the_order_of_the_roster() -> None:
    assert [offer.hub for offer in plan_for(hubs=("hub-2", "hub-1")).hubs] == ["hub-2", "hub-1"]


@given(st.integers(3, 60), st.integers(1, 500), st.floats(0.01, 1.0))
def test_every_plan_that_is_made_can_be_decoded_and_makes_a_ring(
    devices: int, clamp: int, share: float
) -> None:
    settings = PlanSettings(fleet="field", mode="hubs", clamp=clamp, kept_share=share, floor_share=share)
    plan = plan_for(devices, settings)
    assert decode_plan(encode_plan(plan)) == plan
    assert ring_spec(plan).n_max == devices


@pytest.mark.parametrize("devices", [0, 1, 2])
def test_too_few_devices_are_said_so(devices: int) -> None:
    with pytest.raises(CohortTooSmallError, match=f"{devices} devices"):
        plan_for(devices)


def test_a_hub_without_an_offer_is_named() -> None:
    with pytest.raises(MissingOfferError, match="hub-2"):
        plan_for(offers={"hub-1": OFFERS["hub-1"]})


def test_a_led_plan_names_the_step_that_led_to_its_base() -> None:
    settings = PlanSettings(fleet="field", mode="hubs", codec="global_topk", kept_share=0.1)
    plan = plan_for(settings=settings, source=b"s" * 32)
    assert (plan.codec.source, plan.codec.kept) == (b"s" * 32, 961)
    assert plan_for(settings=settings).codec.source == b""
    assert plan_for(source=b"s" * 32).codec.source == b""
    with pytest.raises(InvalidRoundPlanError, match="use topk"):
        plan_for(settings=PlanSettings(fleet="field", mode="plain", codec="global_topk"))


def test_top_k_is_never_planned_as_shared() -> None:
    with pytest.raises(InvalidRoundPlanError, match="randk"):
        plan_for(settings=PlanSettings(fleet="field", mode="hubs", codec="topk"))


@pytest.mark.parametrize("hubs", [0, 1])
def test_mode_hubs_is_refused_without_hubs_and_the_other_modes_are_not(hubs: int) -> None:
    with pytest.raises(InvalidRoundPlanError, match=f"there are {hubs}: enrol them"):
        refuse_mode(PlanSettings(fleet="field", mode="hubs"), hubs)
    refuse_mode(PlanSettings(fleet="field", mode="hubs"), 2)
    refuse_mode(PlanSettings(fleet="field", mode="single"), hubs)
    refuse_mode(PlanSettings(fleet="field", mode="plain", codec="topk"), hubs)


@pytest.mark.parametrize("mode", ["plain", "single"])
def test_a_norm_check_in_another_mode_than_hubs_is_refused_before_there_is_a_round(
    mode: Mode,
) -> None:
    codec = "dense" if mode == "plain" else "randk"
    with pytest.raises(InvalidRoundPlanError, match="the norm check belongs to mode 'hubs'"):
        refuse_unplannable(PlanSettings(fleet="field", mode=mode, codec=codec, norm_check=1.6), 9610, 10)
    refuse_unplannable(PlanSettings(fleet="field", mode=mode, codec=codec), 9610, 10)
    refuse_unplannable(PlanSettings(fleet="field", mode="hubs", norm_check=1.6), 9610, 10)


def test_an_algorithm_with_corrections_is_no_fault_of_the_settings() -> None:
    refuse_unplannable(
        PlanSettings(fleet="field", mode="plain", codec="dense", algorithm="scaffold", tells=("control",)),
        100,
        10,
    )


def test_settings_that_contradict_each_other_make_no_plan() -> None:
    with pytest.raises(InvalidRoundPlanError, match="positive"):
        plan_for(settings=PlanSettings(fleet="field", mode="hubs", epochs=0))


@pytest.mark.parametrize(
    ("codec", "kept"),
    [
        ("dense", 9610),
        ("int8", 9610),
        ("int4", 9610),
        ("topk", 481),
        ("topk4", 481),
        ("randk", 481),
        ("randk4", 481),
    ],
)
def test_plain_plans_name_the_coordinator_alone(codec: str, kept: int) -> None:
    offer = HubOffer("coordinator", b"k" * 32, b"n" * 32)
    plan = plan_for(
        settings=PlanSettings(fleet="field", mode="plain", codec=codec),
        hubs=("coordinator",),
        offers={"coordinator": offer},
    )
    assert (plan.codec.kept, plan.codec.ring_bits, plan.hubs) == (kept, 0, (offer,))


@pytest.mark.parametrize("mode", ["hubs", "plain", "single"])
@pytest.mark.parametrize("key", ["corrupt_share", "dropout_share", "shares_s", "unmask_s"])
def test_keys_of_mode_single_are_refused_where_nobody_reads_them(mode: Any, key: str) -> None:
    settings = CoordinatorSettings(rounds=RoundSettings(mode=mode, **{key: 0.25}))  # type: ignore[arg-type]
    bundle = decode_task(shipped("digits.task").read_bytes())
    if mode == "single":
        made = plan_settings(settings, bundle, 10)
        assert 0.25 in (made.corrupt_share, made.dropout_share, made.shares_ms / 1000, made.unmask_ms / 1000)
        return
    with pytest.raises(InvalidRoundPlanError, match=rf"mode {mode} does not read rounds\.{key}: take it out"):
        plan_settings(settings, bundle, 10)
