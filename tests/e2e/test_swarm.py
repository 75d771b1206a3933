"""Twenty virtual devices with a real coordinator and broker: they learn, one fails alone, Ctrl-C ends all."""

import asyncio
import os
import signal
from pathlib import Path

from local_fleet import FleetPlan, local_fleet

from shoal_coordinator.config import shipped

DEVICES = 20


def children_of(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(child) for task in tasks for child in (task / "children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_twenty_devices_learn_one_fails_alone_and_all_end(tmp_path: Path) -> None:
    plan = FleetPlan(
        folder=tmp_path,
        devices=DEVICES,
        data=shipped("digits.npz"),
        partition="dirichlet:0.3",
        held_out=0.2,
        workers=2,
        rounds={"mode": "plain", "evaluation_s": 10.0, "kept_share": 0.5},
        damaged=("device-007",),
    )
    async with local_fleet(plan) as fleet:
        await fleet.run_rounds(8)
        view = fleet.operator.view
        assert view is not None
        # Everybody but the one whose key is open to all.
        assert {row.devices for row in view.rounds} == {DEVICES - 1}
        assert view.accuracy > 0.85
        assert {row.name for row in view.devices if not row.online} <= {"device-007"}
        log = (tmp_path / "swarm.log").read_text()
        assert "19 devices connected, 1 failed" in log
        assert "BadKeyFileError" in log

        swarm = fleet.pid("swarm")
        workers = children_of(swarm)
        assert 1 <= len(workers) <= 2
        os.kill(swarm, signal.SIGINT)
        async with asyncio.timeout(10):
            while any(map(is_alive, (swarm, *workers))):
                await asyncio.sleep(0.05)
        await fleet.operator.until(lambda view: not any(row.online for row in view.devices), 10)
