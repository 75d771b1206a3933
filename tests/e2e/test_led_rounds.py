"""Codec ``global_topk`` in a running fleet: each round takes half its coordinates from the last step."""

from pathlib import Path

import pytest

from fleet_bench import change_settings, live_fleet
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.plan import Plan, decode_plan
from shoal_codecs.wire.step import decode_step
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
DEVICES = ("device-01", "device-02", "device-03")


def everybody(layout: DemoFleet) -> None:
    """No round without every device: one that cannot find the step would be missed."""
    rounds = {"kept_share": 0.1, "minimum": 3, "floor_share": 1.0, "quorum_share": 1.0}
    change_settings(layout.config_of("coordinator"), rounds=rounds)


def step_file(layout: DemoFleet, device: str) -> Path:
    return layout.folders[device] / "data" / "step.bin"


async def test_rounds_lead_each_other_and_a_device_without_the_step_fetches_it(tmp_path: Path) -> None:
    options = DemoOptions(devices=3, calm=True, codec="global_topk")
    async with live_fleet(tmp_path, options, prepare=everybody) as fleet:
        view = await fleet.rounds(3, devices=3)
        kept = [step_file(fleet.layout, device) for device in DEVICES]
        await fleet.until(lambda: all(path.exists() for path in kept))
        kept[1].unlink()
        kept[2].write_bytes(b"damaged")
        mark = fleet.mark
        view = await fleet.rounds(2, devices=3)
        assert {row.devices for row in view.rounds if row.outcome == "committed"} == {3}

        plans: dict[int, Plan] = {}
        for notice in fleet.all(wire.PlanNotice):
            plan = decode_plan(notice.plan)
            plans[plan.round] = plan
        first, *led = [plans[number] for number in sorted(plans)]
        assert first.codec.source == b""
        assert all(plan.codec.source for plan in led)
        steps = {digest_of(one.model.step): decode_step(one.model.step) for one in fleet.all(wire.Evaluate)}
        for plan in led:
            step = steps[plan.codec.source]
            assert step.child == plan.base
            assert step.kept == 961
        assert {step.led for step in steps.values()} == {0, 480}
        # The step of each of the two rounds was there for those that had lost it.
        sources = {one.source.name for one in fleet.all(wire.Invitation, since=mark) if one.source}
        assert len(sources) == 2
        await fleet.until(lambda: len({path.read_bytes() for path in kept}) == 1)


async def test_mode_single_leads_its_rounds_too_in_four_bits(tmp_path: Path) -> None:
    def narrow(layout: DemoFleet) -> None:
        change_settings(layout.config_of("coordinator"), rounds={"kept_share": 0.1, "levels": 4})

    options = DemoOptions(devices=4, calm=True, codec="global_topk", mode="single")
    async with live_fleet(tmp_path, options, prepare=narrow) as fleet:
        await fleet.rounds(3)
        plans = {plan.round: plan for plan in (decode_plan(one.plan) for one in fleet.all(wire.PlanNotice))}
        assert {(plan.mode, plan.codec.clamp, plan.codec.ring_bits) for plan in plans.values()} == {
            ("single", 7, 6)
        }
        assert [bool(plans[number].codec.source) for number in sorted(plans)][-2:] == [True, True]
