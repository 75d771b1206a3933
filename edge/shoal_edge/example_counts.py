"""How many examples the device has, for heartbeats: the worker counts, again when the source changed."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import structlog

from shoal_codecs.errors import ShoalError
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import fault_name
from shoal_edge.files import shard_counts
from shoal_edge.worker_client import Worker

RECOUNT_S = 600.0
"""A buffer changes all the time; a worker that starts to count it takes a second of a small processor."""
NO_EXAMPLES = (
    "no examples that can be read lie where the settings say, so that this device takes no part in rounds: "
    "put them there, or name another place with `examples` or [data]; `shoal-edge data check` says more"
)

log = structlog.get_logger()


class ExampleCounts:
    """Counts of (training, held-out) examples, (0, 0) before anybody looked; ``on_change`` hears of new ones.

    An archive's are in its header, read here. For all other sources the worker is asked, in the background.
    """

    def __init__(
        self,
        settings: EdgeSettings,
        worker: Worker,
        on_change: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._worker = worker
        self._on_change = on_change
        self._clock = clock
        self._looks: Any = None
        self._counts = (0, 0)
        self._counted_at = 0.0
        self._told = False
        self._task: asyncio.Task[None] | None = None

    def now(self) -> tuple[int, int]:
        """Return the counts; where the source changed, those of before until it is counted again."""
        if (share := self._settings.data.share) is not None:
            return share.training, share.testing
        path = self._settings.examples_path
        looks = looks_of(path)
        if looks is None:
            self._looks, self._counts = None, (0, 0)
            self._tell()
            return self._counts
        if looks != self._looks:
            if self._settings.data.kind == "npz":
                self._looks, self._counts = looks, shard_counts(path)
                self._tell()
            elif self._is_due():
                self._looks, self._counted_at, self._told = looks, self._clock(), False
                self._task = asyncio.get_running_loop().create_task(self._count(path))
        return self._counts

    def _tell(self) -> None:
        """Log, once while it lasts, that there is nothing: such a device is seen and never invited."""
        if (nothing := self._counts == (0, 0)) and not self._told:
            log.warning("no_examples", remedy=NO_EXAMPLES)
        self._told = nothing

    def _is_due(self) -> bool:
        if self._task is not None and not self._task.done():
            return False
        return self._counts == (0, 0) or self._clock() - self._counted_at >= RECOUNT_S

    async def _count(self, path: Path) -> None:
        settings = self._settings
        try:
            answer = await self._worker.request(
                "count_examples",
                settings.evaluate_time_limit_s,
                data_path=str(path),
                data=settings.data.packed,
            )
            counts = (int(answer["examples"]), int(answer["held_out"]))
        except ShoalError as error:
            log.warning("examples_not_counted", fault=fault_name(error), remedy=str(error))
            counts = (0, 0)
        if counts != self._counts:
            self._counts = counts
            self._on_change()

    async def close(self) -> None:
        """Wait for nothing more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


def looks_of(path: Path) -> Any:
    """Return what is different when the file or folder at ``path`` changed; None where there is none.

    Of a folder its own entries; adding to a folder in it changes that one's time.
    """
    try:
        about = path.stat()
        if not path.is_dir():
            return (about.st_size, about.st_mtime_ns)
        with os.scandir(path) as entries:
            return sorted((one.name, one.stat().st_size, one.stat().st_mtime_ns) for one in entries)
    except OSError:
        return None
