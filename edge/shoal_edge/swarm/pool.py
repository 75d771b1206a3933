"""A few worker processes for many agents: interpreter and data set are loaded once in each."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shoal_edge.trainers.base import OnProgress, unheard
from shoal_edge.worker_client import COMMAND, Worker, WorkerClient


class WorkerPool:
    """``size`` workers; who asks waits for a free one, the one used last before others.

    A worker without work for ``idle_s`` seconds ends, like that of a single agent.
    """

    def __init__(self, size: int, idle_s: float, command: tuple[str, ...] = COMMAND) -> None:
        self._clients = [WorkerClient(idle_s, command) for _ in range(size)]
        # Last in, first out: a warm worker with the task loaded before a cold one.
        self._free: asyncio.LifoQueue[WorkerClient] = asyncio.LifoQueue()
        for client in reversed(self._clients):
            self._free.put_nowait(client)

    @property
    def pids(self) -> list[int]:
        """The worker processes there are now."""
        return [client.pid for client in self._clients if client.pid is not None]

    @asynccontextmanager
    async def lend(self) -> AsyncIterator[WorkerClient]:
        """Give a free worker for one request."""
        client = await self._free.get()
        try:
            yield client
        finally:
            self._free.put_nowait(client)

    async def warm(self) -> None:
        """Start the worker that is next, if one is free."""
        if not self._free.empty():
            async with self.lend() as client:
                await client.warm()

    async def warm_all(self) -> None:
        """Start every worker."""
        await asyncio.gather(*(client.warm() for client in self._clients))

    async def close(self) -> None:
        """End every worker."""
        await asyncio.gather(*(client.close() for client in self._clients))


class PooledWorker(Worker):
    """One agent's face of a pool: one request at a time, on whichever worker is free."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._turn = asyncio.Lock()
        self._lent: WorkerClient | None = None

    @property
    def pid(self) -> int | None:
        """The process that works for this agent now, if one does."""
        return self._lent.pid if self._lent else None

    async def request(
        self, do: str, limit_s: float, on_progress: OnProgress = unheard, /, **arguments: Any
    ) -> dict[str, Any]:
        """Ask a worker of the pool; ``limit_s`` counts from when one is free.

        Raises:
            WorkerError: as ``Worker.request``.
        """
        async with self._turn, self._pool.lend() as client:
            self._lent = client
            try:
                return await client.request(do, limit_s, on_progress, **arguments)
            finally:
                self._lent = None

    async def warm(self) -> None:
        """See that a worker loads meanwhile."""
        await self._pool.warm()

    async def close(self) -> None:
        """Leave the workers to the others: the pool ends them."""
