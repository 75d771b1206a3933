"""A sensor's process appends windows while the agent beside it trains on them, round after round."""

import asyncio
import sys
from pathlib import Path

from fleet_bench import change_settings, live_fleet
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions
from shoal_edge.buffer import read_snapshot

EXAMPLE = Path(__file__).parents[2] / "examples" / "sensor.py"
DEVICE = "device-01"


async def test_a_device_trains_on_what_its_sensor_appends_meanwhile(tmp_path: Path) -> None:
    buffer = tmp_path / "buffer"

    def prepare(layout: DemoFleet) -> None:
        change_settings(
            layout.folders[DEVICE] / "config.toml", data={"kind": "buffer", "path": str(buffer.resolve())}
        )
        (layout.folders[DEVICE] / "examples.npz").unlink(missing_ok=True)

    sensor = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLE), str(buffer), "--windows", "100000"),
        *("--pause", "0.03", "--capacity", "9000"),
    )
    try:
        async with asyncio.timeout(20):
            while not (buffer / "buffer.json").exists() or len(read_snapshot(buffer)) < 30:
                await asyncio.sleep(0.05)
        options = DemoOptions(devices=3, mode="plain", calm=True)
        async with live_fleet(tmp_path / "fleet", options, prepare=prepare) as fleet:
            row = next(row for row in fleet.view.devices if row.name == DEVICE)
            assert row.examples + row.held_out >= 30
            await fleet.rounds(3, devices=3)
            fits = [line for line in fleet.log(DEVICE) if line["event"] == "trained"]
            counts = [line["examples"] for line in fits]
            assert len(counts) >= 3
            assert counts == sorted(counts)
            assert counts[-1] > counts[0]
            log = (fleet.layout.folders[DEVICE] / "log.jsonl").read_text()
            assert "label" not in log
        assert sensor.returncode is None
    finally:
        if sensor.returncode is None:
            sensor.kill()
        await sensor.wait()
