"""Runs the agents of a swarm: each has its own identity, state, connection and rounds."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec
import structlog

from shoal_codecs.errors import ShoalError
from shoal_edge.agent import EdgeAgent
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import fault_name
from shoal_edge.folder_lock import held_folder
from shoal_edge.sources.settings import DataSettings, ShareSettings
from shoal_edge.swarm.errors import SwarmFailedError
from shoal_edge.swarm.pool import PooledWorker, WorkerPool

LOAD_LIMIT_S = 600.0
"""For reading a data set and splitting it."""

log = structlog.get_logger()


class Swarm:
    """The devices of ``settings`` on the set ``data``, with ``workers`` processes to train in.

    ``share`` says how the set is split; ``data`` has an absolute path, and stands for every device's own.
    """

    def __init__(
        self, settings: Sequence[EdgeSettings], data: DataSettings, share: ShareSettings, workers: int
    ) -> None:
        self._settings = settings
        self._data, self._share = data, share
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
            dealt = await self._deal()
            async with asyncio.TaskGroup() as group:
                for settings in dealt:
                    group.create_task(self._serve(settings), name=settings.name)
        finally:
            await self._pool.close()
        name, fault = next(iter(self._faults.items()))
        raise SwarmFailedError(f"all {len(self._faults)} devices have failed; {name}: {fault}")

    async def farewell(self) -> None:
        """Let every device say that it goes."""
        await asyncio.gather(*(agent.farewell() for agent in self._agents.values()), return_exceptions=True)

    async def _deal(self) -> list[EdgeSettings]:
        """Return everybody's settings, with a part of the set that is read and split meanwhile."""
        share = msgspec.structs.replace(self._share, parts=len(self._settings))
        data = msgspec.structs.replace(self._data, share=share)
        place = str(data.place(Path(), ""))
        answer = await PooledWorker(self._pool).request(
            "count_parts", LOAD_LIMIT_S, data_path=place, data=data.packed
        )
        # Not known before the task is: a device that turns out to have too few examples declines.
        counts = answer["counts"] or [(1, 0)] * len(self._settings)
        return [
            msgspec.structs.replace(
                settings,
                data=msgspec.structs.replace(
                    data,
                    share=msgspec.structs.replace(share, index=index, training=training, testing=testing),
                ),
            )
            for index, (settings, (training, testing)) in enumerate(zip(self._settings, counts, strict=True))
        ]

    async def _serve(self, settings: EdgeSettings) -> None:
        """Run one device; its end is its own."""
        structlog.contextvars.bind_contextvars(device=settings.name)
        try:
            with held_folder(settings.state):
                # Reads and writes files that must be on the disk before it goes on: others start meanwhile.
                agent = await asyncio.to_thread(EdgeAgent, settings, worker=PooledWorker(self._pool))
                self._agents[settings.name] = agent
                agent.link.on_connected(partial(self._count_in, settings.name))
                await agent.run()
            fault = "its connection was closed"
        except ShoalError as error:
            fault = f"{fault_name(error)}: {error}"
            log.error("device_failed", fault=fault_name(error), remedy=str(error))  # noqa: TRY400
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
