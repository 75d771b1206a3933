"""Algorithms that devices take part in, in a running fleet."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleet_bench import LiveFleet, change_settings, live_fleet
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.control import CONTROL, decode_memory
from shoal_codecs.wire.packing import unpack_plain
from shoal_codecs.wire.plan import Plan, decode_plan
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions
from shoal_coordinator.store import Store

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
DEVICES, DIMENSION = 4, 9610


def settled_on(layout: DemoFleet, **rounds: Any) -> None:
    change_settings(layout.config_of("coordinator"), rounds={"minimum": 2, "floor_share": 0.5} | rounds)
    for device in layout.devices:
        change_settings(layout.config_of(device), n_min=2, heartbeat_s=1.0)


def plans(fleet: LiveFleet) -> list[Plan]:
    found = {}
    for notice in fleet.all(wire.PlanNotice):
        plan = decode_plan(notice.plan)
        found[plan.round] = plan
    return [found[number] for number in sorted(found)]


async def stored(fleet: LiveFleet) -> Store:
    return await Store.open(fleet.layout.folders["coordinator"] / "data")


async def test_scaffold_s_controls_on_both_sides_stay_each_other_s_mean(tmp_path: Path) -> None:
    def prepare(layout: DemoFleet) -> None:
        settled_on(layout, codec="int8", clip_norm=50.0, algorithm={"name": "scaffold"})

    options = DemoOptions(devices=DEVICES, mode="plain", calm=True)
    async with live_fleet(tmp_path, options, prepare=prepare) as fleet:
        view = await fleet.rounds(4)
        made = plans(fleet)
        assert view.rounds[-1].accuracy > view.rounds[0].accuracy
        assert all(plan.training.correction for plan in made)
        assert len({plan.training.correction for plan in made}) == len(made)
        homes = {device: fleet.layout.folders[device] for device in fleet.layout.devices}
    store = await stored(fleet)
    newest = (await store.versions())[-1]
    assert newest.state is not None
    memory = decode_memory(store.blobs.read(newest.state.name))
    await store.close()
    control = np.frombuffer(memory.vectors[CONTROL], "<f4")
    held = []
    for device, home in homes.items():
        (path,) = (one for one in home.rglob("control-*") if one.suffix != ".next")
        number, before, after, _ = unpack_plain(path.read_bytes())
        held.append(np.frombuffer(after if number == memory.settled[device] else before, "<f4"))
    assert set(memory.settled) == set(homes)
    assert np.abs(control).max() > 0
    np.testing.assert_allclose(control, np.mean(held, axis=0), rtol=1e-3, atol=1e-5)


async def test_no_round_waits_for_a_slow_device_and_its_report_still_counts(tmp_path: Path) -> None:
    def prepare(layout: DemoFleet) -> None:
        settled_on(layout, codec="int8", window_s=120.0, algorithm={"name": "fedbuff", "buffer": 2})

    options = DemoOptions(devices=DEVICES, mode="plain", calm=True)
    async with live_fleet(tmp_path, options, prepare=prepare) as fleet:
        slow = fleet.layout.devices[-1]
        await fleet.ask(4)
        await fleet.first(wire.Reply, sender=slow)
        fleet.freeze(slow)
        try:
            await fleet.reach(4)
        finally:
            fleet.thaw(slow)
        (first,) = {message.round for message in fleet.all(wire.Reply, sender=slow)}
        await fleet.first(wire.Receipt, on=f"devices/{slow}/")
        await fleet.ask(2)
        view = await fleet.reach(6)
        assert all(row.outcome == "committed" for row in view.rounds)
    store = await stored(fleet)
    versions = await store.versions()
    told = [
        decode_memory(store.blobs.read(version.state.name)).settled for version in versions if version.state
    ]
    await store.close()
    assert [one.get(slow, 0) for one in told[:4]] == [0] * 4
    assert told[4][slow] == first
    # A version of late reports alone is scored by nobody.
    assert max(version.accuracy for version in versions[2:]) > versions[1].accuracy
