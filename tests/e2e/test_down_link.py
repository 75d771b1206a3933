"""What comes down to the devices of a running fleet, in bytes: steps to those that hold the base.

A whole model is published when a device is offered it, and never before: that nobody has heard one of its
chunks on the broker says that no device fetched it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from fleet_bench import LiveFleet, change_settings, live_fleet
from shoal_codecs.wire import messages as wire
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
DEVICES = ("device-01", "device-02", "device-03")
WHOLE_BYTES = 4 * 9610
# Invitation, plan, receipts, the word that asks for an evaluation: what a round says to a device besides.
TALK_BYTES = 6_500
FINE = 0.05
"""Levels so fine that a dense step is longer than what travels inside an offer."""


def rounds_of(**more: object) -> dict[str, object]:
    return {"minimum": 2, "floor_share": 1.0, "quorum_share": 1.0, "patience_s": 0.5, **more}


def offers(fleet: LiveFleet, device: str = "", since: int = 0) -> list[wire.ModelOffer]:
    """What was offered to a device, or to all, oldest first."""
    on = f"devices/{device}" if device else "devices/"
    asked = [(one.sent_ms, one.model) for one in fleet.all(wire.Evaluate, on=on, since=since)]
    invited = [(one.sent_ms, one.model) for one in fleet.all(wire.Invitation, on=on, since=since)]
    return [model for _, model in sorted(asked + invited, key=lambda pair: pair[0])]


def published(fleet: LiveFleet, names: Iterable[str]) -> set[str]:
    """Which of these blobs have crossed the broker."""
    topics = [one.topic for one in fleet.heard if one.payload]
    return {name for name in names if any(f"/blobs/{name}/" in topic for topic in topics)}


def received(fleet: LiveFleet, device: str) -> list[tuple[int, int]]:
    """Version and all bytes received so far, at each evaluation of a device."""
    versions = {one.model.digest[:8]: one.model.version for one in fleet.all(wire.Evaluate)}
    told = fleet.all(wire.Evaluated, sender=device)
    return [(versions[one.model_id], one.received) for one in told]


@pytest.mark.parametrize(
    ("mode", "codec", "level"), [("plain", "dense", FINE), ("plain", "topk", 0.5), ("hubs", "randk", 0.5)]
)
async def test_devices_that_hold_the_base_receive_the_step_alone(
    tmp_path: Path, mode: str, codec: str, level: float
) -> None:
    options = DemoOptions(devices=3, calm=True, mode=mode, codec=codec)

    def prepare(layout: DemoFleet) -> None:
        change_settings(layout.config_of("coordinator"), rounds=rounds_of(level_rms=level))

    async with live_fleet(tmp_path, options, prepare=prepare) as fleet:
        await fleet.rounds(5, devices=3)
        last = fleet.view.version
        await fleet.until(lambda: all(received(fleet, one)[-1][0] == last for one in DEVICES))
        made = offers(fleet)
        assert {bool(one.step) for one in made if one.parent and (one.step or one.chain)} == {level != FINE}
        # Nobody was ever sent a whole model; long steps were fetched as blobs, once each.
        assert not published(fleet, {one.whole.name for one in made})
        steps = {ref.name: ref.size for one in made for ref in one.chain}
        assert published(fleet, steps) == set(steps)
        sizes = {
            one.version: len(one.step) or sum(ref.size for ref in one.chain) for one in made if one.parent
        }
        for device in DEVICES:
            counted = dict(received(fleet, device))
            for version in range(2, last + 1):
                if version - 1 in counted and version in counted:
                    down = counted[version] - counted[version - 1]
                    assert sizes[version] <= down <= sizes[version] + TALK_BYTES
                    assert down < WHOLE_BYTES / 2


async def test_a_device_that_was_away_gets_the_steps_it_lacks_and_one_away_for_long_the_whole(
    tmp_path: Path,
) -> None:
    options = DemoOptions(devices=3, calm=True, mode="plain", codec="dense")

    def prepare(layout: DemoFleet) -> None:
        change_settings(layout.config_of("coordinator"), rounds=rounds_of(level_rms=FINE, longest_chain=4))

    async with live_fleet(tmp_path, options, prepare=prepare) as fleet:
        await fleet.rounds(1, devices=3)
        away = DEVICES[2]

        async def leave(rounds: int, *, forget: bool = False) -> int:
            """Cut a device's power, let the others go on, and bring it back; return the mark.

            With ``forget`` the coordinator loses its power too and knows only what it has stored.
            """
            await fleet.until(lambda: holds(fleet, away) == fleet.view.version)
            await fleet.children.kill(away)
            await fleet.online(away, online=False)
            await fleet.rounds(rounds)
            if forget:
                await fleet.children.kill("coordinator")
                await fleet.children.restart("coordinator")
            mark = fleet.mark
            await fleet.children.restart(away)
            await fleet.online(away)
            await fleet.rounds(1, devices=3)
            return mark

        mark = await leave(3, forget=True)
        first = offers(fleet, away, mark)[0]
        # The coordinator may ask before the device has said what it holds: then it offers all four steps.
        assert 3 <= len(first.chain) <= 4
        assert not published(fleet, {first.whole.name})
        assert published(fleet, {ref.name for ref in first.chain}) == {ref.name for ref in first.chain}
        assert [one["fault"] for one in fleet.log(away) if one["event"] == "step_refused"] == []

        mark = await leave(7)
        first = offers(fleet, away, mark)[0]
        assert (first.step, first.chain) == (b"", ())
        assert published(fleet, {first.whole.name}) == {first.whole.name}

        # Steps that no chain can use any more are neither on the broker nor on the disk.
        used = {ref.name for one in offers(fleet, away, mark)[-1:] for ref in one.chain}
        blobs = fleet.layout.folders["coordinator"] / "data" / "blobs"
        old = {ref.name for one in offers(fleet)[:4] for ref in one.chain} - used
        assert old
        await fleet.until(lambda: not any((blobs / name).exists() for name in old))
        cleared = {
            one.topic.split("/")[-2] for one in fleet.heard if not one.payload and "/blobs/" in one.topic
        }
        assert old <= cleared


def holds(fleet: LiveFleet, device: str) -> int:
    """The version that a device has evaluated last."""
    told = received(fleet, device)
    return told[-1][0] if told else -1
