"""Parties that would refuse every round: who goes by another roster, a hub with other floors; all real."""

import contextlib
from pathlib import Path

from coordinator_bench import (
    DEVICES,
    FLEET,
    HUBS,
    Bench,
    Device,
    background,
    everybody,
    fleet,
    until_version,
)
from shoal_codecs.security.identity import load_identity
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.status import FleetView
from shoal_coordinator.coordinator import CoordinatorService
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.fleet_init import init_fleet
from shoal_coordinator.hub.config import HubSettings
from shoal_coordinator.hub.service import HubService
from shoal_coordinator.schedule import Schedule
from shoal_coordinator.service import make_organs
from shoal_coordinator.store import Store


def waits(view: FleetView) -> bool:
    return "go by other rosters" in view.waits_for


async def test_no_round_is_drawn_in_vain_where_a_hub_has_another_roster(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    """The picture says who differs; the first round opens as soon as nobody does, without that device."""
    bench = Bench(tmp_path, mosquitto.url)
    behind = {name: (bench.folders[name] / "roster.bin").read_bytes() for name in ("hub-2", DEVICES[0])}
    init_fleet(tmp_path, FLEET, devices=[*DEVICES, "device-6"], hubs=HUBS)
    newest = (bench.folders["hub-2"] / "roster.bin").read_bytes()
    for name, roster in behind.items():
        (bench.folders[name] / "roster.bin").write_bytes(roster)
    async with contextlib.AsyncExitStack() as stack:
        devices = [Device(bench, name) for name in DEVICES]
        for device in devices:
            await stack.enter_async_context(background(device.run()))
            stack.push_async_callback(device.link.close)
        await stack.enter_async_context(bench.coordinator())
        await stack.enter_async_context(background(bench.hub("hub-1").run()))
        operator = await stack.enter_async_context(bench.operator())
        async with background(bench.hub("hub-2").run()):
            await operator.until(lambda view: all(hub.online for hub in view.hubs) and bool(view.hubs), 20)
            await operator.command("rounds.run")
            view = await operator.until(waits, 20)
            assert "(hub-2 by roster 1, the coordinator by roster 2)" in view.waits_for
            assert "newest roster" in view.waits_for
            rosters = {hub.name: hub.other_roster for hub in view.hubs}
            assert rosters == {"hub-1": "", "hub-2": "roster 1"}
            view = await operator.until(
                lambda view: sum(row.online for row in view.devices) == len(DEVICES), 20
            )
            assert [row.other_roster for row in view.devices] == ["roster 1", *[""] * len(DEVICES)]
        (bench.folders["hub-2"] / "roster.bin").write_bytes(newest)
        async with background(bench.hub("hub-2").run()):
            view = await operator.until(until_version(1), 30)
    assert [(row.round, row.outcome, row.devices) for row in view.rounds if row.version > 0] == [
        (view.rounds[-1].round, "committed", len(DEVICES) - 1)
    ]
    # At most one row says that it waited, however long that was; no hub was asked for a nonce meanwhile.
    assert len(view.rounds) <= 2
    assert not devices[0].all(wire.Invitation)


async def test_who_refused_is_asked_again_as_soon_as_it_starts_again(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    """And not before: a refusal lasts, and each try would use up a draw of the other hubs."""
    bench = Bench(tmp_path, mosquitto.url, norm_check=1.6, kept_share=0.5)
    strict = HubService(
        HubSettings(name="hub-2", fleet=FLEET, folder=str(bench.folders["hub-2"]), link=bench.link),
        load_identity("hub-2", bench.folders["hub-2"] / "identity.key"),
        bench.roster("hub-2"),
    )
    store = await Store.open(tmp_path / "store")
    organs = await make_organs(bench.settings(), store)
    organs.schedule = Schedule(target=0, shortest_ms=200_000, longest_ms=200_000)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        await stack.enter_async_context(fleet(bench, hubs=False))
        await stack.enter_async_context(background(bench.hub("hub-1").run()))
        await stack.enter_async_context(background(CoordinatorService(organs).run()))
        operator = await stack.enter_async_context(bench.operator())
        async with background(strict.run()):
            await operator.until(everybody, 20)
            await operator.command("rounds.run")
            view = await operator.until(lambda view: view.next_ms > 0, 20)
            assert view.next_ms - view.taken_ms > 100_000
            assert "hub-2 refused the plan: PlanPromiseError" in view.rounds[0].reason
        async with background(bench.hub("hub-2").run()):
            view = await operator.until(until_version(1), 30)
    assert [row.outcome for row in view.rounds] == ["aborted", "committed"]
