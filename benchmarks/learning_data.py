"""Train and test files of the curves, made once from the sets as they were published."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from shoal_edge.sources.idx import read_mnist

ROOT = Path(__file__).resolve().parents[1]
MNIST = ROOT / ".data" / "mnist"
TASKS = ROOT / "coordinator" / "shoal_coordinator" / "tasks"


def files_of(name: str, folder: Path) -> tuple[Path, Path]:
    """Return the (train, test) .npz files of the data set ``name`` in ``folder``, made where they lack."""
    folder.mkdir(parents=True, exist_ok=True)
    train, test = folder / f"{name}-train.npz", folder / f"{name}-test.npz"
    for path, part in ((train, "train"), (test, "test")):
        if not path.is_file():
            found = read_mnist(MNIST, "train" if part == "train" else "test")
            beside = path.with_suffix(".new.npz")
            np.savez(beside, x=found.x.reshape(len(found), -1), y=found.y)
            beside.replace(path)
    return train, test
