"""A whole fleet on this machine for benchmarks: broker, hubs, coordinator and a swarm, all real processes.

A folder that was used before goes on where it was: the coordinator's store and every device's are durable.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.blob import BlobRef
from shoal_coordinator.demo.broker import free_port, loopback_configuration, start_mosquitto
from shoal_coordinator.demo.processes import Children, Command
from shoal_coordinator.fleet_init import COORDINATOR, OPERATOR, init_fleet, write_settings
from shoal_coordinator.operator import Operator, operator_session

FLEET = "bench"
HUBS = ("hub-1", "hub-2")
START_S = 120.0
ROUND_S = 600.0
# Bytes cost nothing on this machine, messages do: large chunks, and the whole model at once.
_COORDINATOR = {"stop_on_stdin_eof": True, "status_s": 0.2, "chunk_kib": 512}
_ROUNDS = {"window_s": ROUND_S, "evaluation_s": 0.0, "longest_chain": 1}


@dataclass(frozen=True, kw_only=True)
class FleetPlan:
    """What the fleet shall be; ``rounds`` and ``device`` are settings of coordinator and devices.

    ``seed`` draws the split of the data and the weights to begin with.
    The keys of ``damaged`` devices are open to all, which no agent accepts.
    """

    folder: Path
    devices: int
    data: Path
    partition: str
    seed: int = 1
    held_out: float = 0.0
    workers: int = 0
    task: Path | None = None
    rounds: dict[str, Any] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)
    damaged: tuple[str, ...] = ()

    @property
    def mode(self) -> str:
        """The mode of its rounds."""
        return str(self.rounds.get("mode", "plain"))


@dataclass
class Fleet:
    """The running fleet."""

    plan: FleetPlan
    children: Children
    operator: Operator
    folders: dict[str, Path]

    @property
    def version(self) -> int:
        """The newest version."""
        return self.operator.view.version if self.operator.view else 0

    def pid(self, name: str) -> int:
        """Return the process id of a child."""
        return self.children.pid(name)

    async def run_rounds(self, count: int, limit_s: float = ROUND_S) -> float:
        """Run ``count`` rounds and return the seconds they took."""
        began = time.perf_counter()
        answer = await self.operator.command("rounds.run", count=count)
        target: int = answer.fields["target"]
        changed = asyncio.Event()
        self.operator.on_view.append(lambda _: changed.set())
        async with asyncio.timeout(limit_s):
            while self.version < target:
                self.children.check()
                changed.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1):
                        await changed.wait()
        self.operator.on_view.pop()
        return time.perf_counter() - began


@contextlib.asynccontextmanager
async def local_fleet(plan: FleetPlan) -> AsyncIterator[Fleet]:
    """Start everybody; yields when all devices are connected and known to the coordinator."""
    hubs = HUBS if plan.mode == "hubs" else ()
    names = [f"device-{number:03}" for number in range(1, plan.devices + 1)]
    folders = init_fleet(plan.folder / "fleet", FLEET, devices=names, hubs=hubs)
    async with contextlib.AsyncExitStack() as stack:
        place = plan.folder / "broker"
        await asyncio.to_thread(place.mkdir, parents=True, exist_ok=True)
        broker = await _start_broker(place)
        stack.push_async_callback(broker.stop)
        link = {"url": broker.url, "backoff_max_s": 1.0}
        common = {"fleet": FLEET, "link": link, "log_level": "warning"}
        for name in names:
            settings = {"name": name, "modes": [plan.mode], "worker_idle_s": 3600.0} | plan.device | common
            write_settings(folders[name] / "config.toml", settings)
        for name in plan.damaged:
            (folders[name] / "identity.key").chmod(0o644)
        rounds = _ROUNDS | {"mode": plan.mode} | plan.rounds
        coordinator = common | _COORDINATOR | {"rounds": rounds, "initial_seed": plan.seed}
        if plan.task is not None:
            coordinator["task"] = str(plan.task.resolve())
        write_settings(folders[COORDINATOR] / "config.toml", coordinator)
        for hub in hubs:
            floors = {"n_min": rounds.get("minimum", 3)}
            write_settings(
                folders[hub] / "config.toml",
                common | {"name": hub, "stop_on_stdin_eof": True, "floors": floors},
            )
        children = Children()
        stack.push_async_callback(children.stop)
        for command in _commands(plan, folders, hubs):
            await children.start(command)
        operator = await stack.enter_async_context(
            operator_session(folders[OPERATOR], FLEET, LinkSettings(url=broker.url))
        )
        fleet = Fleet(plan, children, operator, folders)
        await _until_present(fleet)
        yield fleet


async def _start_broker(folder: Path) -> Any:
    port = free_port()
    # Without a database on disk: what is retained is put back by its writers after a start.
    text = loopback_configuration(folder, port).replace("persistence true", "persistence false")
    text = "\n".join(line for line in text.splitlines() if not line.startswith("autosave"))
    return await start_mosquitto(folder, port, configuration=text + "\n")


def _commands(plan: FleetPlan, folders: dict[str, Path], hubs: tuple[str, ...]) -> list[Command]:
    commands = []
    for name, word in ((COORDINATOR, "coordinator"), *((hub, "hub") for hub in hubs)):
        path = folders[name]
        arguments = ("-m", "shoal_coordinator", word, "run", "--config", str(path / "config.toml"))
        commands.append(Command(name, arguments, path / "log.jsonl"))
    swarm = (
        *("-m", "shoal_edge", "swarm", "--fleet", str(plan.folder / "fleet"), "--data", str(plan.data)),
        *("--devices", str(plan.devices), "--partition", plan.partition, "--seed", str(plan.seed)),
        *("--held-out", str(plan.held_out), "--workers", str(plan.workers), "--stop-on-stdin-eof"),
    )
    commands.append(Command("swarm", swarm, plan.folder / "swarm.log"))
    return commands


async def _until_present(fleet: Fleet) -> None:
    operator, plan = fleet.operator, fleet.plan
    async with asyncio.timeout(START_S):
        while True:
            fleet.children.check()
            view = operator.view
            if (
                view is not None
                and sum(row.online and row.examples != 0 for row in view.devices)
                == plan.devices - len(plan.damaged)
                and all(hub.online for hub in view.hubs)
            ):
                return
            await asyncio.sleep(0.05)


def version_vector(folder: Path, whole: BlobRef) -> bytes:
    """Return the bytes of a version's vector from the coordinator's store."""
    return (folder / "data" / "blobs" / whole.name).read_bytes()
