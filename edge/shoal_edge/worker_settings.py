"""What the agent tells its worker when it starts it: which trainer, how many threads, how much memory."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import msgspec

from shoal_edge.trainers.base import TrainerKind

_COMMAND = (sys.executable, "-m", "shoal_edge.worker")


class WorkerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Of one worker: ``memory_limit_bytes`` bounds what its work allocates, 0 is no bound."""

    trainer: TrainerKind = "auto"
    threads: int = 1
    memory_limit_bytes: int = 0

    @property
    def command(self) -> tuple[str, ...]:
        """How such a worker is started."""
        return (*_COMMAND, msgspec.json.encode(self).decode())


DEFAULT_SETTINGS = WorkerSettings()


def settings_of(arguments: list[str]) -> WorkerSettings:
    """Return the settings in a worker's command line, the defaults where there are none."""
    return msgspec.json.decode(arguments[0], type=WorkerSettings) if arguments else DEFAULT_SETTINGS


def limit_memory(limit_bytes: int) -> None:
    """Let this process allocate at most ``limit_bytes`` more than it has (0: any).

    More is a MemoryError instead of a board that swaps or kills something else. Counted is memory to write
    to (RLIMIT_DATA), not libraries and files that are mapped.
    """
    if not limit_bytes:
        return
    import numpy as np  # noqa: PLC0415 - an agent names these settings without numpy

    # BLAS takes its own memory at the first product, and ends the process where there is none.
    square = np.ones((256, 256))
    square @ square
    with contextlib.suppress(OSError, ValueError):
        _, most = resource.getrlimit(resource.RLIMIT_DATA)
        bound = allocated_bytes() + limit_bytes
        bound = bound if most == resource.RLIM_INFINITY else min(bound, most)
        resource.setrlimit(resource.RLIMIT_DATA, (bound, most))


def allocated_bytes() -> int:
    """Return what this process has allocated, as ``limit_memory`` counts it; 0 where that is not known."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("VmData:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return 0
    return 0
