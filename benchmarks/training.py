"""What a step of training costs: every shipped task in LiteRT, beside PyTorch on the same step.

benchmarks/peers/torch.sh
python benchmarks/training.py --json benchmarks/results/training.json
python benchmarks/training.py --batch 32 --json benchmarks/results/training-batch-32.json

One thread each, every run in a process of its own, LiteRT and PyTorch by turns. Time is that of a whole step:
cutting and converting the batch, forward, backward, optimiser, reading the loss. Memory is the process's
peak. PyTorch is written as one writes it (``peers/torch_step.py``), in its own environment.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from output import Figure, write

from shoal_codecs.wire.task import TaskBundle, decode_task
from shoal_coordinator.tasks import FOLDER

HERE = Path(__file__).parent
EXAMPLES = 480
LEARNING_RATE = 0.001
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Measured:
    """Of one process: median wall and mean CPU of a step in ms, peak memory in MiB."""

    wall: float
    cpu: float
    rss: float
    runtime: str


def examples(bundle: TaskBundle) -> dict[str, Any]:
    """Draw examples that fit the task."""
    rng, about = np.random.default_rng(1), bundle.input
    shape = (EXAMPLES, *about.shape)
    x: Any = (
        rng.uniform(about.minimum, about.maximum, shape)
        if about.dtype == "float32"
        else rng.integers(int(about.minimum), int(about.maximum) + 1, shape)
    )
    if bundle.target.kind == "label":
        y: Any = rng.integers(0, len(bundle.labels), EXAMPLES)
    else:
        y = rng.normal(size=(EXAMPLES, *bundle.target.shape)).astype(np.float32)
    return {"x": x.astype(about.dtype), "y": y}


def describe(path: Path, bundle: TaskBundle, batch: int, steps: int, folder: Path) -> Path:
    """Write what both sides need to know and return its path."""
    data = folder / f"{path.stem}.npz"
    np.savez(data, **examples(bundle))
    plain: Any = msgspec.to_builtins(bundle.architecture) or {"layers": [], "optimiser": {}}
    about = {
        "task": str(path),
        "data": str(data),
        "shape": bundle.input.shape,
        "tokens": bundle.input.dtype == "int32",
        "target": bundle.target.kind,
        "dimension": bundle.dimension,
        "layers": plain["layers"],
        "optimiser": plain["optimiser"],
        "mean": plain.get("mean", 0.0),
        "deviation": plain.get("deviation", 1.0),
        "learning_rate": LEARNING_RATE,
        "batch": batch,
        "steps": steps,
    }
    described = folder / f"{path.stem}.json"
    described.write_text(json.dumps(about), encoding="utf-8")
    return described


def run(command: list[str], *, own: bool) -> Measured:
    """Run one process and return what it measured."""
    environment = os.environ | ONE_THREAD
    if own:
        environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    done = subprocess.run(command, capture_output=True, check=False, env=environment, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    wall = 1000 * median(told["walls"])
    return Measured(wall, 1000 * told["cpu"], told["rss"], told["runtime"])


def measure(path: Path, torch: str, runs: int, steps: int, folder: Path, batch: int) -> list[Figure]:
    """Return the figures of one task, with ``batch`` examples a step, or as many as it says itself."""
    bundle = decode_task(path.read_bytes())
    batch = batch or bundle.defaults.batch_size
    described = describe(path, bundle, batch, steps, folder)
    mine, theirs = [], []
    for _ in range(runs):
        mine.append(run([sys.executable, str(HERE / "training_step.py"), str(described), "litert"], own=True))
        if torch and bundle.architecture is not None:
            theirs.append(run([torch, str(HERE / "peers" / "torch_step.py"), str(described)], own=False))
    why = "a part of this model is not described by layers" if torch else "PyTorch's environment is not there"
    peer = theirs[0].runtime if theirs else why
    figures = []
    for what, unit in (("wall", "ms"), ("cpu", "ms"), ("rss", "MiB")):
        values = [round(getattr(one, what), 4) for one in mine]
        other = [getattr(one, what) for one in theirs]
        value = round(median(other), 4) if other else None
        figures.append(Figure(f"{path.stem}_step_{what}", values, unit, peer, value))
    return figures


def main() -> None:
    """Measure every shipped task, or those named."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch", type=int, default=0, help="examples a step; default: the task's own")
    parser.add_argument("--torch", default=str(HERE.parent / ".peers" / "torch" / "bin" / "python"))
    parser.add_argument(
        "tasks", nargs="*", help="names of shipped tasks, or paths of task files; default: all"
    )
    options = parser.parse_args()
    torch = options.torch if Path(options.torch).exists() else ""
    paths = [Path(one) if "/" in one else FOLDER / f"{one}.task" for one in options.tasks]
    load = os.getloadavg()[0]
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory() as folder:
        for path in paths or sorted(FOLDER.glob("*.task")):
            figures += measure(path, torch, options.runs, options.steps, Path(folder), options.batch)
    settings = {
        "batch": options.batch or "the task's own",
        "steps": options.steps,
        "threads": 1,
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
    }
    write("training", settings, figures, options.json)


if __name__ == "__main__":
    main()
