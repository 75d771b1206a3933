"""Budgets of bytes in a running fleet: the codec that fits is taken, and whose day is used up is left out."""

from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from fleet_bench import LiveFleet, change_settings, live_fleet
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.plan import Plan, decode_plan
from shoal_coordinator.byte_estimate import SHARED_CHOICES, round_bytes
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions
from shoal_coordinator.planning import PlanSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
DIMENSION, DEVICES, POOR = 9610, 4, "device-04"
SETTINGS = PlanSettings(fleet="demo", mode="hubs")
DENSE = SHARED_CHOICES[0].applied(SETTINGS)


def cost(place: int) -> int:
    return round_bytes(SHARED_CHOICES[place].applied(SETTINGS), DIMENSION, DEVICES).total


def satellite(layout: DemoFleet) -> None:
    """Dense rounds are wanted; at this pause 10 % of the coordinates fit, and one device can pay for two."""
    pause_s = 1.0
    rounds: dict[str, Any] = {"kept_share": 1.0, "pause_s": pause_s, "minimum": 2, "floor_share": 0.5}
    rounds["bytes_per_day"] = int((cost(2) + cost(3)) // 2 * 86_400 / pause_s)
    rounds["device_bytes_per_day"] = {POOR: 2 * cost(-1)}
    change_settings(layout.config_of("coordinator"), rounds=rounds)
    for hub in ("hub-1", "hub-2"):
        change_settings(layout.config_of(hub), floors={"n_min": 2, "cohort_share": 0.5})
    for device in layout.devices:
        change_settings(layout.config_of(device), n_min=2, heartbeat_s=1.0)


def plans(fleet: LiveFleet, since: int = 0) -> list[Plan]:
    found = {}
    for notice in fleet.all(wire.PlanNotice, since=since):
        plan = decode_plan(notice.plan)
        found[plan.round] = plan
    return [found[number] for number in sorted(found)]


async def test_the_codec_follows_the_budget_and_a_day_that_is_used_up_ends(tmp_path: Path) -> None:
    async with live_fleet(tmp_path, DemoOptions(devices=DEVICES, calm=True), prepare=satellite) as fleet:
        await fleet.rounds(1, devices=DEVICES)
        await fleet.rounds(3)
        made = plans(fleet)
        assert POOR in made[0].cohort
        assert made[0].codec.kept == 96
        # What it fetched for its first round has used its day up.
        assert all(POOR not in plan.cohort for plan in made[-2:])
        assert all(len(plan.cohort) == DEVICES - 1 for plan in made[-2:])
        events = [one for one in fleet.all(wire.CoordinatorEvent) if one.kind.startswith("bytes.")]
        assert events[0].kind == "bytes.none_fits"
        assert "NoCodecFitsError" in events[0].text
        assert events[0].fields["cost"] > events[0].fields["allowance"]
        # Who is left out is named, once.
        left_out = [one for one in events if one.kind == "bytes.used_up"]
        assert [one.fields["device"] for one in left_out] == [POOR]
        assert "until midnight UTC" in left_out[0].text
        for event in events[1:]:
            if event is left_out[0]:
                continue
            assert event.kind == "bytes.codec"
            assert event.fields["cost"] <= event.fields["allowance"]
        # What devices counted on their own connections is what the formulas say, but for heartbeats.
        row, plan = fleet.view.rounds[-1], made[-1]
        used = replace(DENSE, kept_share=plan.codec.kept / DIMENSION, clamp=plan.codec.clamp)
        estimate = round_bytes(used, DIMENSION, DEVICES - 1)
        assert 0.5 * estimate.up < row.up_bytes < 2.0 * estimate.up
        assert 0.4 * estimate.down < row.down_bytes < 2.5 * estimate.down
