"""Parties of one fleet that go by different rosters: real hubs, broker and coordinator."""

import contextlib
from pathlib import Path

from coordinator_bench import DEVICES, FLEET, HUBS, Bench, Device, background, until_version
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.status import FleetView
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.fleet_init import init_fleet


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
