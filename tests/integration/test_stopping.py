"""Rounds that an operator takes back: real hubs, broker and coordinator, which is killed in the midst."""

import asyncio
import sys
from pathlib import Path

import pytest

from coordinator_bench import DEVICES, Bench, everybody, fleet, kill, until_version
from shoal_codecs.wire.status import FleetView
from shoal_coordinator.cli.operate import send_command
from shoal_coordinator.demo.broker import BrokerHandle


def idle(view: FleetView) -> bool:
    return view.phase == "idle"


async def test_rounds_that_are_taken_back_stay_so_over_a_restart(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    """Also those that the settings ask for; the round under way is the last."""
    bench = Bench(tmp_path, mosquitto.url, mode="plain", codec="dense", target_version=5000)
    config = bench.folders["operator"] / "config.toml"
    config.write_text('fleet = "bench"\n', encoding="utf-8")
    async with fleet(bench, hubs=False) as devices, bench.operator() as operator:
        process = await bench.coordinator_process()
        try:
            await operator.until(lambda view: everybody(view) and view.version >= 1, 30)
            for device in devices.values():
                device.silent = True
            await operator.until(lambda view: view.phase == "collecting", 20)
            waiting = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "shoal_coordinator", "rounds", "run", "--count", "7", "--wait"),
                *("--config", str(config), "--broker", mosquitto.url),
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
            )
            view = await operator.until(lambda view: view.target == 5007, 20)
            answer = await operator.command("rounds.stop", reason="the hall is closed")
            await kill(process)
            assert answer.fields["taken_back"] == 5007 - view.version - 1
            last = answer.fields["version"] + 1
            process = await bench.coordinator_process()
            for device in devices.values():
                device.silent = False
            view = await operator.until(lambda view: view.version == last and idle(view), 40)
            assert (view.target, view.stopped) == (last - 1, "the hall is closed")
            async with asyncio.timeout(20):
                _, said = await waiting.communicate()
            assert waiting.returncode == 2
            assert f"version {last} is the last: the hall is closed" in said.decode()
            answer = await operator.command("rounds.run", count=2)
            assert answer.fields["target"] == last + 2
            view = await operator.until(lambda view: view.version == last + 2 and idle(view), 30)
            assert view.stopped == ""
        finally:
            await kill(process)


@pytest.mark.parametrize("mode", ["hubs", "plain"])
async def test_the_round_under_way_is_given_up_and_its_version_trained_on_again(
    mosquitto: BrokerHandle, tmp_path: Path, mode: str
) -> None:
    bench = Bench(tmp_path, mosquitto.url, mode=mode, codec="randk" if mode == "hubs" else "dense")
    async with (
        bench.coordinator(),
        fleet(bench, hubs=mode == "hubs") as devices,
        bench.operator() as operator,
    ):
        await operator.until(everybody, 20)
        for device in devices.values():
            device.silent = True
        await operator.command("rounds.run", count=3)
        await operator.until(lambda view: view.phase == "collecting", 20)
        answer = await operator.command("rounds.stop", abort=True, reason="wrong data")
        assert (answer.fields["taken_back"], answer.fields["given_up"]) == (2, True)
        view = await operator.until(lambda view: idle(view) and len(view.rounds) == 1, 20)
        assert view.rounds[0].reason == "given up by the operator: wrong data"
        assert (view.target, view.stopped) == (0, "wrong data")
        await operator.command("rounds.run", count=3)
        await operator.until(lambda view: view.phase == "collecting", 20)
        await operator.command("rounds.stop", abort=True)
        # Hubs may not have let go of it yet, and still it makes none of what is asked for.
        assert (await operator.command("rounds.run", count=1)).fields["target"] == 1
        for device in devices.values():
            device.silent = False
        view = await operator.until(until_version(1), 30)
        assert view.rounds[-1].devices == len(DEVICES)


async def test_a_round_that_makes_its_version_is_not_given_up(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url, evaluation_s=2.0)
    async with bench.coordinator(), fleet(bench) as devices, bench.operator() as operator:
        await operator.until(everybody, 20)
        for device in devices.values():
            device.evaluates = False
        await operator.command("rounds.run", count=3)
        await operator.until(lambda view: view.phase == "evaluating", 30)
        answer = await operator.command("rounds.stop", abort=True)
        assert not answer.fields["given_up"]
        assert "is not given up" in answer.text
        # While it is under way, a round more is one more.
        assert (await operator.command("rounds.run")).fields["target"] == 2
        await operator.command("rounds.stop")
        view = await operator.until(lambda view: idle(view) and view.version == 1, 20)
        assert [row.outcome for row in view.rounds] == ["committed"]
        answer = await operator.command("rounds.stop")
        assert answer.fields == {"taken_back": 0, "version": 1, "round": 0, "given_up": False}


async def test_who_waits_for_the_last_round_does_not_where_there_is_none(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    """Nobody else speaks, so that no picture follows but the one of the answer's own millisecond."""
    bench = Bench(tmp_path, mosquitto.url, mode="plain", codec="dense")
    config = bench.folders["operator"] / "config.toml"
    config.write_text('fleet = "bench"\n', encoding="utf-8")
    async with bench.coordinator():
        async with bench.operator() as operator:
            await operator.until(idle, 20)
        for _ in range(4):
            # Until the board may show a picture at once.
            await asyncio.sleep(0.7)
            async with asyncio.timeout(10):
                await send_command(config, mosquitto.url, "rounds.stop", {"abort": False}, wait=True)
