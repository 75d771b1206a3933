"""Splits the digits among devices the way fields are: each sees its own mix of labels."""

from pathlib import Path

import numpy as np

from shoal_codecs.partition import dirichlet_split


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
