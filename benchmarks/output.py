"""One form for every benchmark's result: JSON for machines, a table for people."""

import json
import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from shoal_codecs import __version__


@dataclass(frozen=True)
class Figure:
    """One measured figure; ``value`` is the median of ``runs``, ``ratio`` is value / peer_value.

    Without a peer in the same run, ``peer`` says why there is none.
    """

    figure: str
    runs: list[float]
    unit: str
    peer: str = "no peer ran in this process run"
    peer_value: float | None = None
    value: float = field(init=False)
    ratio: float | None = field(init=False)

    def __post_init__(self) -> None:
        """Derive median and ratio."""
        object.__setattr__(self, "value", round(median(self.runs), 6))
        ratio = self.value / self.peer_value if self.peer_value else None
        object.__setattr__(self, "ratio", ratio)


def write(benchmark: str, settings: dict[str, Any], figures: list[Figure], path: Path | None) -> None:
    """Print the figures as a table and write them to ``path`` where one is given."""
    result = {
        "benchmark": benchmark,
        "version": __version__,
        "machine": machine(),
        "settings": settings,
        "figures": [asdict(figure) for figure in figures],
    }
    width = max(len(figure.figure) for figure in figures)
    for figure in figures:
        runs = ", ".join(f"{run:g}" for run in figure.runs)
        print(f"{figure.figure:<{width}}  {figure.value:>12g} {figure.unit:<10} runs: {runs}")
    if path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what the benchmark ran on."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "python": platform.python_version()}


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
