"""What the device knows of itself, as numbered heartbeat readings; what it cannot tell is left out."""

import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from shoal_codecs.wire.heartbeat import Reading

MIB = 1 << 20
VOLATILE = frozenset({Reading.UPTIME, Reading.SENT, Reading.RECEIVED})
"""Readings that always differ: in full heartbeats only."""
_BOARD_FILES = (
    "/proc/device-tree/model",
    "/sys/firmware/devicetree/base/model",
    "/sys/class/dmi/id/product_name",
)


class Telemetry:
    """Reads the machine; coarse on purpose, so that noise costs no bytes."""

    def __init__(
        self,
        folder: Path,
        agent_version: str,
        clock: Callable[[], float] = time.monotonic,
        board_files: tuple[str, ...] = _BOARD_FILES,
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._started = clock()
        self._process = psutil.Process()
        self._fixed = {
            Reading.BOARD: _board(board_files),
            Reading.ARCHITECTURE: platform.machine() or None,
            Reading.AGENT: agent_version,
        }
        # The first call has nothing to compare with and returns 0.
        psutil.cpu_percent(None)

    def read(self) -> dict[int, Any]:
        """Return the readings of this moment."""
        memory = psutil.virtual_memory()
        found: dict[Reading, Any] = {
            **self._fixed,
            Reading.MEMORY_AVAILABLE: _coarse(memory.available / MIB, 32),
            Reading.MEMORY_TOTAL: int(memory.total / MIB),
            Reading.CPU: _coarse(psutil.cpu_percent(None), 10),
            Reading.LOAD: _load(),
            Reading.RSS: _coarse(self._process.memory_info().rss / MIB, 4),
            Reading.DISK_FREE: _disk_free(self._folder),
            Reading.TEMPERATURE: _hottest(),
            Reading.BATTERY: _battery(),
            Reading.UPTIME: int(self._clock() - self._started),
        }
        return {int(key): value for key, value in found.items() if value is not None}


def _coarse(value: float, step: int) -> int:
    return round(value / step) * step


def _load() -> int | None:
    try:
        return _coarse(os.getloadavg()[0] * 100, 25)
    except OSError:
        return None


def _disk_free(folder: Path) -> int | None:
    try:
        return _coarse(psutil.disk_usage(str(folder)).free / MIB, 64)
    except OSError:
        return None


def _hottest() -> int | None:
    try:
        sensors = psutil.sensors_temperatures()
    except (AttributeError, OSError, ValueError):
        return None
    degrees = [entry.current for entries in sensors.values() for entry in entries if entry.current]
    return round(max(degrees)) if degrees else None


def _battery() -> int | None:
    try:
        battery = psutil.sensors_battery()
    except (AttributeError, OSError, ValueError):
        return None
    return round(battery.percent) if battery is not None else None


def _board(files: tuple[str, ...]) -> str | None:
    for name in files:
        try:
            text = Path(name).read_text(encoding="utf-8", errors="replace").strip("\0 \n")
        except OSError:
            continue
        if text:
            return text[:64]
    return None
