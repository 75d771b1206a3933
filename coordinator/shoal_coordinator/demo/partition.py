"""Splits the digits among devices the way fields are: each sees its own mix of labels."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MIN_EXAMPLES = 40


def dirichlet_split(
    labels: NDArray[np.uint8], devices: int, concentration: float, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Return the indices each device gets, split by Dirichlet(``concentration``) per label (Hsu et al. 2019).

    A draw that leaves a device with fewer than ``MIN_EXAMPLES`` (or a fair share, if that is less) is
    mended by giving it examples of the largest shards, so that every device has something to learn from.
    """
    shards: list[list[NDArray[np.int64]]] = [[] for _ in range(devices)]
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        cuts = np.cumsum(rng.dirichlet(np.full(devices, concentration)))[:-1] * len(members)
        for shard, part in zip(shards, np.split(members, cuts.astype(np.int64)), strict=True):
            shard.append(part)
    split = [rng.permutation(np.concatenate(parts)) for parts in shards]
    floor = min(MIN_EXAMPLES, len(labels) // (2 * devices))
    for index in range(devices):
        while len(split[index]) < floor:
            largest = max(range(devices), key=lambda i: len(split[i]))
            missing = min(floor - len(split[index]), len(split[largest]) - floor)
            split[index] = np.concatenate([split[index], split[largest][:missing]])
            split[largest] = split[largest][missing:]
    return split


def write_shards(source: Path, targets: list[Path], seed: int, concentration: float = 0.3) -> list[int]:
    """Write one ``.npz`` (x, y) per device and return how many examples each holds.

    A shard that is there already is kept: a device's data stays on the device over runs.
    """
    with np.load(source) as digits:
        x, y = digits["x"], digits["y"]
    split = dirichlet_split(y, len(targets), concentration, np.random.default_rng(seed))
    counts = []
    for target, indices in zip(targets, split, strict=True):
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            np.savez_compressed(target, x=x[indices], y=y[indices])
        with np.load(target) as shard:
            counts.append(len(shard["y"]))
    return counts
