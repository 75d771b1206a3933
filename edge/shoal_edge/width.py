"""How wide a model this device takes: what its owner says, or what was measured of a task, and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.wire.packing import pack
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import fault_name
from shoal_edge.files import read_record, write_durably
from shoal_edge.probe import Probe

FULL, UNMEASURED, NONE = 100, 0, 1
"""Per cent of a model's width; 1 is less than any variant has."""
LIMIT_S = 300.0

log = structlog.get_logger()


class _Measured(msgspec.Struct, frozen=True):
    """``percent`` for the task with this digest."""

    task: bytes = b""
    percent: int = UNMEASURED


def widest(probes: Sequence[Probe], fit_s: float, memory_bytes: int) -> int:
    """Return the widest per cent of ``probes`` within ``fit_s`` seconds and ``memory_bytes`` (0: any)."""
    fit = [
        one.percent
        for one in probes
        if one.fit_s <= fit_s and (not memory_bytes or one.memory_bytes <= memory_bytes)
    ]
    return max(fit, default=NONE)


class Width:
    """``percent`` is what heartbeats say; measuring begins with ``measure``, once a task."""

    def __init__(
        self, settings: EdgeSettings, folder: Path, ask: Callable[..., Awaitable[dict[str, Any]]]
    ) -> None:
        self._settings = settings
        self._path = folder / "width.bin"
        self._ask = ask
        self._measured = read_record(self._path, _Measured) or _Measured()
        self._measuring: asyncio.Task[None] | None = None

    def percent(self, task: bytes | None) -> int:
        """Return the per cent of a model's width that this device takes; 0: it has yet to measure."""
        if self._settings.width:
            return round(FULL * self._settings.width)
        return self._measured.percent if task is not None and task == self._measured.task else UNMEASURED

    async def measure(self, task: bytes, task_path: Path) -> None:
        """Try the models of ``task`` out, from the narrowest up, unless that is done or not wanted.

        A fault is told in the log; the narrowest model is the device's until it can measure. It goes on when
        the caller's round is over: on a small board it may take longer than rounds do.
        """
        while not self._settings.width and self._measured.task != task:
            running = self._measuring
            if running is not None and not running.done():
                # Perhaps of another task: one looks again.
                await asyncio.shield(running)
                continue
            self._measuring = asyncio.create_task(self._measure(task, task_path))
            await asyncio.shield(self._measuring)
            return

    def close(self) -> None:
        """Measure no longer: the agent ends."""
        if self._measuring is not None:
            self._measuring.cancel()

    async def _measure(self, task: bytes, task_path: Path) -> None:
        settings = self._settings
        try:
            answer = await self._ask(
                "measure",
                LIMIT_S,
                task=task,
                task_path=str(task_path),
                data_path=str(settings.examples_path),
                data=settings.data.packed,
                fit_s=settings.width_fit_s,
            )
            probes = msgspec.convert(answer["probes"], list[Probe])
            found = widest(probes, settings.width_fit_s, settings.fit_memory_limit_bytes)
            write_durably(self._path, pack(_Measured(task, found)))
        except (ShoalError, msgspec.ValidationError) as error:
            name = fault_name(error) if isinstance(error, ShoalError) else type(error).__name__
            log.warning("width_not_measured", fault=name, remedy=str(error))
            return
        self._measured = _Measured(task, found)
        log.info("width_measured", percent=found, probes=answer["probes"])
