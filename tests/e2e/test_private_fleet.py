"""Real agents, hubs and coordinator under differential privacy: what they learn and what they tell."""

from pathlib import Path
from typing import Any

import pytest

from fleet_bench import change_settings, live_fleet
from shoal_codecs.privacy.examples import EXAMPLE_DELTA, example_charge
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.plan import decode_plan
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
# Four devices cannot hide each other: a budget that nobody should give, so that there is something to see.
PRIVACY: dict[str, Any] = {"mechanism": "auto", "epsilon": 5000.0, "rounds": 40, "allow_small_fleet": True}


def with_privacy(**changes: Any) -> Any:
    def prepare(layout: DemoFleet) -> None:
        rounds = {"privacy": PRIVACY | changes, "clip_norm": 2.0, "kept_share": 0.2}
        change_settings(layout.config_of("coordinator"), rounds=rounds)

    return prepare


@pytest.mark.parametrize("mode", ["hubs", "single"])
async def test_agents_measure_the_base_and_the_sum_tells_what_they_found(tmp_path: Path, mode: str) -> None:
    options = DemoOptions(devices=4, mode=mode, calm=True)
    prepare = with_privacy(adaptive_clip=True, metrics=True)
    async with live_fleet(tmp_path, options, prepare=prepare) as fleet:
        view = await fleet.rounds(6)
        plans = [decode_plan(notice.plan) for notice in fleet.all(wire.PlanNotice)]
        assert all(plan.privacy and plan.privacy.mechanism == "skellam" for plan in plans)
        # Adaptive clipping: half of the four shall be clipped, and the norm has moved.
        assert len({plan.codec.clip_norm for plan in plans}) > 1
        rows = [row for row in view.rounds if row.outcome == "committed"]
        assert all(set(row.told) == {"accuracy", "loss", "clipped"} for row in rows)
        accuracy, error = rows[-1].told["accuracy"]
        first, _ = rows[0].told["accuracy"]
        assert 0 < error < 0.2
        # The first round tells of the untrained model, the last of one that five rounds have trained.
        assert first < 0.1 + 5 * error
        assert accuracy > 0.4
        assert rows[-1].told["loss"][0] < rows[0].told["loss"][0]


@pytest.mark.parametrize("mechanism", ["central", "local-gaussian"])
async def test_agents_take_part_in_noised_plain_rounds(tmp_path: Path, mechanism: str) -> None:
    options = DemoOptions(devices=3, mode="plain", calm=True)
    async with live_fleet(tmp_path, options, prepare=with_privacy(mechanism=mechanism)) as fleet:
        view = await fleet.rounds(2)
        assert [row.outcome for row in view.rounds][-2:] == ["committed"] * 2
        assert len({row.version for row in view.rounds}) >= 2


async def test_agents_learn_by_dp_sgd_when_the_plan_asks_for_it(tmp_path: Path) -> None:
    def prepare(layout: DemoFleet) -> None:
        rounds = {"example_clip": 1.0, "example_noise": 0.8, "kept_share": 0.5}
        change_settings(layout.config_of("coordinator"), rounds=rounds)

    async with live_fleet(tmp_path, DemoOptions(devices=3, calm=True), prepare=prepare) as fleet:
        view = await fleet.rounds(5, devices=3)
        plans = [decode_plan(notice.plan) for notice in fleet.all(wire.PlanNotice)]
        assert {plan.training.example_noise for plan in plans} == {0.8}
        rows = [row for row in view.rounds if row.outcome == "committed"]
        assert {row.devices for row in rows} == {3}
        # Every agent says in its log what the round promised an example.
        for device in ("device-01", "device-02", "device-03"):
            told = [line["example_epsilon"] for line in fleet.log(device) if line.get("event") == "trained"]
            assert len(told) >= 5
            assert set(told) == {round(example_charge(plans[0].training).epsilon(EXAMPLE_DELTA), 4)}
        assert max(row.accuracy for row in rows) > 0.3
