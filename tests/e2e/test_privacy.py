"""A fleet of real processes under a privacy budget, and what crosses the broker meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any, Literal

import pytest

from fleet_bench import LiveFleet, change_settings, live_fleet
from shoal_codecs.privacy.accountant import ORDERS, skellam_rdp
from shoal_codecs.privacy.charge import Charge
from shoal_codecs.privacy.plan_noise import extra_levels, grid_sensitivity
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.messages import (
    CoordinatorEvent,
    Evaluate,
    Evaluated,
    Heartbeat,
    Invitation,
    PlanNotice,
    Reply,
    ReportPart,
)
from shoal_codecs.wire.plan import decode_plan
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions
from shoal_coordinator.operator import OperatorError
from shoal_coordinator.store import Store
from shoal_edge.privacy_guard import LEDGER

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
ROUNDS = 4
NOISE = {"mechanism": "auto", "rounds": ROUNDS, "allow_small_fleet": True, "metrics": True}


def prepare(layout: DemoFleet) -> None:
    change_settings(layout.config_of("coordinator"), rounds={"privacy": NOISE})
    for device in layout.devices:
        change_settings(layout.config_of(device), privacy={"epsilon": 8.0})


async def shown(*words: str) -> Any:
    """What a command prints, as JSON."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", *words, "-o", "json"), stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return json.loads(out)


def check_what_crossed_the_broker(fleet: LiveFleet) -> None:
    assert fleet.all(Evaluate) == []
    assert fleet.all(Evaluated) == []
    for beat in fleet.all(Heartbeat):
        assert Reading.EXAMPLES not in beat.readings
        assert Reading.HELD_OUT not in beat.readings
    reports = {(one.sender, one.round) for one in fleet.all(ReportPart)}
    assert {number for _, number in reports} == {one.round for one in fleet.all(Invitation)}
    assert len({number for _, number in reports}) == ROUNDS


@pytest.mark.parametrize("mode", ["hubs", "single"])
async def test_a_budget_lasts_exactly_as_long_as_it_was_planned_for(
    tmp_path: Path, mode: Literal["hubs", "single"]
) -> None:
    options = DemoOptions(devices=4, rounds=ROUNDS, mode=mode, calm=True)
    async with live_fleet(tmp_path / "fleet", options, prepare=prepare) as fleet:
        with pytest.raises(OperatorError, match=f"5 rounds more do not fit .* {ROUNDS} rounds would fit"):
            await fleet.ask(ROUNDS + 1)
        view = await fleet.rounds(ROUNDS, devices=4)
        await fleet.until(lambda: fleet.view.privacy is not None and not fleet.view.privacy.rounds_left)
        with pytest.raises(OperatorError, match="0 rounds would fit"):
            await fleet.ask(1)
        check_what_crossed_the_broker(fleet)
        plans = [decode_plan(notice.plan) for notice in fleet.all(PlanNotice)]
        operator = str(fleet.layout.config_of("operator"))
        answer = await shown("shoal_coordinator", "privacy", "show", "--config", operator)
        one = await shown(
            *("shoal_coordinator", "privacy", "show", "--device", "device-02", "--config", operator)
        )
        own = [
            await shown("shoal_edge", "privacy", "--config", str(fleet.layout.config_of(device)))
            for device in fleet.layout.devices
        ]
    assert view.privacy is not None
    # Our own closed form, from the published plan alone.
    plan = plans[0]
    assert plan.privacy is not None
    bounds = grid_sensitivity(plan.codec, extra_levels(plan.privacy))
    price = Charge(tuple(skellam_rdp(plan.privacy.noise, bounds, order) for order in ORDERS))
    expected = [price.times(count).epsilon(plan.privacy.delta) for count in range(1, ROUNDS + 1)]
    committed = [row for row in view.rounds if row.outcome == "committed"]
    assert [row.epsilon for row in committed] == pytest.approx(expected)
    assert expected[-1] == pytest.approx(8.0, abs=1e-3)
    assert [row["epsilon"] for row in answer["devices"]] == pytest.approx([expected[-1]] * 4)
    assert answer["covers"] == "updates only"
    assert [charge["state"] for charge in one["charges"]] == ["accepted"] * ROUNDS
    # The coordinator's copy is what the devices have written down themselves.
    assert [ledger["spent"] for ledger in own] == pytest.approx([expected[-1]] * 4)
    assert all(len(ledger["charges"]) == ROUNDS for ledger in own)
    store = await Store.open(fleet.layout.folders["coordinator"] / "data")
    versions = await store.versions()
    await store.close()
    assert [version.epsilon for version in versions[1:]] == pytest.approx(expected)
    assert [version.task_epsilon for version in versions[1:]] == pytest.approx(expected)


def lose_ledgers(layout: DemoFleet) -> None:
    """One device has lost its ledger, the ledger of another is damaged."""
    prepare(layout)
    for device in layout.devices[:2]:
        (layout.folders[device] / "data").mkdir()
        (layout.folders[device] / "data" / "answered.log").touch()
    (layout.folders[layout.devices[1]] / "data" / LEDGER).write_bytes(b"what was this?")


async def test_devices_without_a_ledger_decline_and_the_fleet_goes_on(tmp_path: Path) -> None:
    options = DemoOptions(devices=5, rounds=ROUNDS, calm=True)
    async with live_fleet(tmp_path / "fleet", options, prepare=lose_ledgers) as fleet:
        await fleet.ask(2)
        view = await fleet.reach(2)
        # The others say, of rounds that ended before their reports, that they sent nothing.
        refusals = {
            one.sender: one.reason for one in fleet.all(Reply) if not one.accepted and "Error" in one.reason
        }
        assert refusals["device-01"].startswith("BudgetExceededError: the privacy ledger is missing")
        assert refusals["device-02"].startswith("BudgetExceededError: the privacy ledger is damaged")
        assert set(refusals) == {"device-01", "device-02"}
        assert not {one.sender for one in fleet.all(ReportPart)} & {"device-01", "device-02"}
        assert max(row.devices for row in view.rounds) == 3
        operator = str(fleet.layout.config_of("operator"))
        answer = await shown("shoal_coordinator", "privacy", "show", "--config", operator)
        spent = {row["name"]: row["rounds"] for row in answer["devices"]}
        # Who declined at once is not charged, and not asked again; the others pay for what they sent.
        assert spent["device-01"] == spent["device-02"] == 0
        assert len(fleet.all(Invitation, on="device-01")) <= 2
        for device in fleet.layout.devices[2:]:
            own = await shown("shoal_edge", "privacy", "--config", str(fleet.layout.config_of(device)))
            assert 2 <= len(own["charges"]) <= spent[device] <= 3
        assert not [one for one in fleet.all(CoordinatorEvent) if one.kind == "privacy.spent"]
