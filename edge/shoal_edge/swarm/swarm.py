"""Runs the agents of a swarm: each has its own identity, state, connection and rounds."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import structlog

from shoal_codecs.errors import ShoalError
from shoal_edge.agent import EdgeAgent
from shoal_edge.config import EdgeSettings
from shoal_edge.swarm.errors import SwarmFailedError
from shoal_edge.swarm.part import Part, write_part
from shoal_edge.swarm.pool import PooledWorker, WorkerPool

LOAD_LIMIT_S = 600.0
"""For reading a data set and splitting it."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedData:
    """One data set for all: ``source`` split by ``partition`` and ``seed``; each holds out ``held_out``."""

    source: Path
    partition: str
    seed: int = 1
    held_out: float = 0.2


class Swarm:
    """The devices of ``settings`` on the data set ``data``, with ``workers`` processes to train in."""

    def __init__(self, settings: Sequence[EdgeSettings], data: SharedData, workers: int) -> None:
        self._settings = settings
        self._data = data
        self._pool = WorkerPool(workers, settings[0].worker_idle_s, settings[0].worker.command)
        self._agents: dict[str, EdgeAgent] = {}
        self._connected: set[str] = set()
        self._faults: dict[str, str] = {}
        self._ready = asyncio.Event()

    async def ready(self) -> tuple[int, int]:
        """Wait until every device has connected once or failed; return how many did the one and the other."""
        await self._ready.wait()
        return len(self._connected), len(self._faults)

    async def run(self) -> None:
        """Serve until cancelled.

        Raises:
            WorkerError: the data set cannot be read or split; no device was started.
            SwarmFailedError: no device is left.
        """
        try:
            await self._deal()
            async with asyncio.TaskGroup() as group:
                for settings in self._settings:
                    group.create_task(self._serve(settings), name=settings.name)
        finally:
            await self._pool.close()
        name, fault = next(iter(self._faults.items()))
        raise SwarmFailedError(f"all {len(self._faults)} devices have failed; {name}: {fault}")

    async def farewell(self) -> None:
        """Let every device say that it goes."""
        await asyncio.gather(*(agent.farewell() for agent in self._agents.values()), return_exceptions=True)

    async def _deal(self) -> None:
        """Give every device its part of the data set, and let the workers load meanwhile."""
        data = self._data
        first = Part(
            source=str(data.source.resolve()),
            partition=data.partition,
            parts=len(self._settings),
            index=0,
            seed=data.seed,
            held_out=data.held_out,
        )
        answer = await PooledWorker(self._pool).request(
            "count_parts", LOAD_LIMIT_S, part=msgspec.json.encode(first)
        )
        for index, (settings, (training, testing)) in enumerate(
            zip(self._settings, answer["counts"], strict=True)
        ):
            part = msgspec.structs.replace(first, index=index, training=training, testing=testing)
            write_part(settings.examples_path, part)

    async def _serve(self, settings: EdgeSettings) -> None:
        """Run one device; its end is its own."""
        structlog.contextvars.bind_contextvars(device=settings.name)
        try:
            # Reads and writes files that must be on the disk before it goes on: others start meanwhile.
            agent = await asyncio.to_thread(EdgeAgent, settings, worker=PooledWorker(self._pool))
            self._agents[settings.name] = agent
            agent.link.on_connected(partial(self._count_in, settings.name))
            await agent.run()
            fault = "its connection was closed"
        except ShoalError as error:
            fault = f"{type(error).__name__}: {error}"
            log.error("device_failed", fault=type(error).__name__, remedy=str(error))  # noqa: TRY400
        except Exception as error:  # a defect of one device must not end the others
            fault = f"a defect: {type(error).__name__}"
            log.exception("device_failed", fault=type(error).__name__)
        self._faults[settings.name] = fault
        self._look()

    async def _count_in(self, name: str, _session_present: bool) -> None:  # noqa: FBT001 - the callback's shape
        self._connected.add(name)
        self._look()

    def _look(self) -> None:
        if len(self._connected | set(self._faults)) == len(self._settings):
            self._ready.set()
