"""Boards of several sizes train one model: each as much of its width as it says or measures that it takes."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from fleet_bench import change_settings, live_fleet
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.plan import decode_plan
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
TASK = Path(__file__).parents[1] / "tasks" / "digits_widths.task"
DEVICES = ("device-01", "device-02", "device-03", "device-04")
# The task's own learning rate: the demo's is for a wider model than the narrowest here.
ROUNDS = {"minimum": 4, "floor_share": 1.0, "quorum_share": 1.0, "learning_rate": 0.0}


def sizes(layout: DemoFleet, **rounds: object) -> None:
    """One board of full size, one of half, one of a quarter, and one that is to find out; with all digits."""
    change_settings(layout.config_of("coordinator"), task=str(TASK), rounds=ROUNDS | rounds)
    for device, width in zip(DEVICES, (1.0, 0.5, 0.25, 0.0), strict=True):
        change_settings(layout.config_of(device), width=width)
    paths = [layout.folders[device] / "examples.npz" for device in DEVICES]
    shards = [np.load(path) for path in paths]
    x, y = (np.concatenate([shard[name] for shard in shards]) for name in ("x", "y"))
    order = np.random.default_rng(0).permutation(len(y))
    for path, part in zip(paths, np.array_split(order, len(paths)), strict=True):
        np.savez_compressed(path, x=x[part], y=y[part])


async def test_each_board_trains_its_own_width_of_one_model(tmp_path: Path) -> None:
    options = DemoOptions(devices=4, mode="plain", calm=True)
    async with live_fleet(tmp_path, options, prepare=lambda layout: sizes(layout, codec="int8")) as fleet:
        # A busy machine takes longer to measure than to train.
        for _ in range(30):
            await fleet.rounds(2, devices=4)
            plans = {
                plan.round: plan for plan in (decode_plan(one.plan) for one in fleet.all(wire.PlanNotice))
            }
            variants = [plans[number].variants for number in sorted(plans)]
            if variants[-1] == bytes([0, 1, 2, 0]):
                break
        # The last board trains the narrowest until it has measured that it takes all of the model.
        assert variants[0] == bytes([0, 1, 2, 2])
        assert variants[-1] == bytes([0, 1, 2, 0])
        assert [line["percent"] for line in fleet.log("device-04") if line["event"] == "width_measured"] == [
            100
        ]
        # It may have measured after two rounds, or after forty: how far they came is no matter of widths.
        view = await fleet.rounds(8, devices=4)
        sent: dict[tuple[str, int], int] = defaultdict(int)
        for part in fleet.all(wire.ReportPart):
            sent[part.sender, part.round] = len(part.data)
        last = max(plans)
        full, half, quarter = (sent[device, last] for device in DEVICES[:3])
        assert quarter < 0.35 * full
        assert half < 0.6 * full
        assert max(row.accuracy for row in view.rounds) > 0.8


async def test_where_updates_are_not_seen_a_round_has_one_width(tmp_path: Path) -> None:
    def prepare(layout: DemoFleet) -> None:
        sizes(layout, kept_share=0.5, minimum=3)
        change_settings(layout.config_of("device-04"), width=0.5)

    async with live_fleet(tmp_path, DemoOptions(devices=4, calm=True), prepare=prepare) as fleet:
        await fleet.rounds(3)
        plans = {plan.round: plan for plan in (decode_plan(one.plan) for one in fleet.all(wire.PlanNotice))}
        # One board alone takes the full width, which therefore never has its turn: the sum of what it trains
        # would be its own update.
        cohorts = {(plan.cohort, plan.variants) for plan in plans.values()}
        assert cohorts == {
            (("device-01", "device-02", "device-04"), bytes([1, 1, 1])),
            (DEVICES, bytes([2, 2, 2, 2])),
        }
