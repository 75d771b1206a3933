"""What a hub asks of a plan before it signs: each rule keeps a plan out that is right in all else."""

from typing import Any

import pytest

from edge_parts import NOW_MS, codec_plan, make_fleet, make_plan
from shoal_codecs.secagg.hub_errors import (
    BaseAnsweredError,
    LoweredFloorError,
    PlanCohortError,
    PlanDrawError,
    PlanHubsError,
    PlanModeError,
    PlanOfferError,
    PlanPromiseError,
    PlanRefusedError,
    PlanRosterError,
    PlanSizeError,
    PlanWindowError,
    RoundReusedError,
)
from shoal_codecs.secagg.hub_floors import Draw, HubFloors, check_plan
from shoal_codecs.wire.hubs import promise_of, promise_set_digest
from shoal_codecs.wire.plan import Plan

FLEET = make_fleet(devices=5)
BASE = b"\1" * 32
FLOORS = HubFloors(longest_round_s=200.0)
GOOD: dict[str, Any] = {"n_min": 4, "quorum": 4}


def judge(plan: Plan, **changes: Any) -> None:
    good = make_plan(FLEET, BASE, **GOOD)
    promises = tuple(promise_of(offer) for offer in good.hubs)
    draw = Draw(good.hubs[0], promise_set_digest(promises), good.task, good.base)
    known: dict[str, Any] = {"draw": draw, "answered": (), "rounds": (), "now_ms": NOW_MS, "floors": FLOORS}
    check_plan(plan, hub="hub-1", roster=FLEET.roster, **(known | changes))


def plan_of(**changes: Any) -> Plan:
    return make_plan(FLEET, BASE, **(GOOD | changes))


def test_a_plan_that_keeps_every_rule_is_signed() -> None:
    judge(plan_of())
    # A clock that is a little behind the coordinator's is no obstacle.
    judge(plan_of(opens_ms=NOW_MS + 59_000))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"mode": "plain"}, PlanModeError),
        ({"fleet": "another"}, PlanRosterError),
        ({"roster": bytes(32)}, PlanRosterError),
        ({"hubs": make_plan(make_fleet(hubs=3), BASE).hubs}, PlanHubsError),
        ({"hubs": (FLEET.offer("hub-2"), FLEET.offer("coordinator"))}, PlanHubsError),
        ({"task": bytes(32)}, PlanDrawError),
        ({"base": bytes(32)}, PlanDrawError),
        ({"cohort": ("device-01", "device-02", "device-03", "device-04", "puppet")}, PlanCohortError),
        ({"cohort": ("device-01", "device-02", "device-03", "device-04", "hub-1")}, PlanCohortError),
        ({"n_min": 3, "quorum": 3}, LoweredFloorError),
        ({"opens_ms": NOW_MS - 3000, "closes_ms": NOW_MS}, PlanWindowError),
        ({"opens_ms": NOW_MS + 61_000, "closes_ms": NOW_MS + 62_000}, PlanWindowError),
        ({"closes_ms": NOW_MS + 150_000}, PlanWindowError),
        ({"codec": codec_plan(5, dimension=1 << 27, kept=(1 << 26) + 1)}, PlanSizeError),
    ],
)
def test_a_plan_that_breaks_one_rule_is_not(changes: dict[str, Any], error: type[PlanRefusedError]) -> None:
    with pytest.raises(error):
        judge(plan_of(**changes))


def test_a_norm_check_is_the_hubs_own_to_allow() -> None:
    """It shows hubs projections of every update: no coordinator may order it."""
    plan = plan_of(norm_check=1.6, codec=codec_plan(5, ring_bits=20))
    with pytest.raises(PlanPromiseError, match="norm_check"):
        judge(plan)
    judge(plan, floors=HubFloors(norm_check=True))


def test_what_was_shown_and_answered_counts() -> None:
    plan = plan_of()
    for changes, error in (
        ({"draw": None}, PlanOfferError),
        ({"draw": Draw(FLEET.offer("coordinator"), bytes(32), plan.task, plan.base)}, PlanOfferError),
        ({"draw": Draw(plan.hubs[0], bytes(32), plan.task, plan.base)}, PlanDrawError),
        ({"answered": ((plan.task, plan.base),)}, BaseAnsweredError),
        ({"rounds": (plan.round,)}, RoundReusedError),
    ):
        with pytest.raises(error):
            judge(plan, **changes)
