"""A convolutional model from the rounds onto devices: int8, judged by each on what it kept aside."""

import asyncio
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import vibration

from fleet_bench import change_settings, live_fleet
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]
DEVICES = ("device-01", "device-02", "device-03")


async def test_a_fleet_runs_the_int8_model_of_a_convolutional_task(tmp_path: Path) -> None:
    machines = vibration.windows(machines=4, each=120)
    calibration = tmp_path / "calibration.npz"

    def prepare(layout: DemoFleet) -> None:
        for number, device in enumerate(DEVICES):
            mine = machines.groups == number
            np.savez(layout.folders[device] / "examples.npz", x=machines.x[mine], y=machines.y[mine])
        # The fourth machine is nobody's: its windows may be seen by all.
        np.savez(calibration, x=machines.x[machines.groups == len(DEVICES)])
        releases = {"floor_accuracy": 0.6}
        change_settings(
            layout.config_of("coordinator"),
            task="vibration-cnn",
            rounds={"learning_rate": 0.0, "epochs": 4, "kept_share": 1.0, "codec": "dense"},
            releases=releases,
        )

    options = DemoOptions(devices=3, mode="plain", calm=True)
    async with live_fleet(tmp_path / "fleet", options, prepare=prepare) as fleet:
        await fleet.rounds(3, devices=3)
        config = fleet.layout.config_of("operator")

        async def release(name: str) -> str:
            words = ("release", "create", "--name", name, "--wait", "--config", str(config))
            return await said("shoal_coordinator", *words)

        # Without calibration examples nothing is released, and the operator is told what to do.
        assert "calibration" in await release("too-early")
        await fleet.children.kill("coordinator")
        change_settings(fleet.layout.config_of("coordinator"), calibration=str(calibration))
        began = fleet.view.taken_ms
        await fleet.children.restart("coordinator")
        await fleet.until(
            lambda: fleet.view.taken_ms > began and all(one.examples for one in fleet.view.devices)
        )
        assert "runs on 3 of 3 devices" in await release("turning")
        await fleet.until(lambda: fleet.view.releases and fleet.view.releases[-1].confirmed == len(DEVICES))
        device = fleet.layout.config_of(DEVICES[0])
        told = await said("shoal_edge", "predict", "--index", "2", "--config", str(device))
        assert "release turning, model version 3, int8" in told
        assert "prediction:" in told


async def said(module: str, *words: str) -> str:
    command = (sys.executable, "-m", module, *words)
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=asyncio.subprocess.STDOUT)
    out, _ = await process.communicate()
    return out.decode()
