"""Train and test files of the curves, made once: the MNIST files as published, and ``datasets``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from datasets.base import Dataset

ROOT = Path(__file__).resolve().parents[1]
TASKS = ROOT / "coordinator" / "shoal_coordinator" / "tasks"
CHARACTER_STRIDE = 29
"""Every so many characters one window of text: 600 for each of 100 roles."""
_MOST_TEST = 10_000

Halves = tuple[Dataset, Dataset]


def _mnist() -> Halves:
    from datasets.images import mnist  # noqa: PLC0415 - each set has readers of its own

    train, test = mnist("train"), mnist("test")
    return _flat(train), _flat(test)


def _flat(images: Dataset) -> Dataset:
    return Dataset(images.x.reshape(len(images), -1), images.y, images.groups)


def _mnist_images() -> Halves:
    from datasets.images import mnist  # noqa: PLC0415

    return mnist("train"), mnist("test")


def _ecg() -> Halves:
    from datasets.ecg import beats  # noqa: PLC0415

    return beats().split(0.2)


def _characters() -> Halves:
    from datasets.shakespeare import next_characters  # noqa: PLC0415

    return next_characters(roles=100, stride=CHARACTER_STRIDE).split(0.1)


def _vibration() -> Halves:
    from datasets.vibration import windows  # noqa: PLC0415

    return windows(machines=20).split(0.2)


SETS: dict[str, Callable[[], Halves]] = {
    "mnist": _mnist,
    "mnist-images": _mnist_images,
    "ecg": _ecg,
    "characters": _characters,
    "vibration": _vibration,
}


def files_of(name: str, folder: Path) -> tuple[Path, Path]:
    """Return the (train, test) .npz files of the set ``name`` in ``folder``, made where they lack.

    Training examples stand by group: machine, role or time. Of a larger test set, a draw of 10,000 is taken.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}-train.npz", folder / f"{name}-test.npz"
    if not all(path.is_file() for path in paths):
        train, test = SETS[name]()
        chosen = np.random.default_rng(1).permutation(len(test))[:_MOST_TEST]
        _save(paths[0], train.take(np.argsort(train.groups, kind="stable")))
        _save(paths[1], test.take(np.sort(chosen)))
    return paths


def _save(path: Path, data: Dataset) -> None:
    beside = path.with_suffix(".new.npz")
    np.savez(beside, x=data.x, y=data.y)
    beside.replace(path)
