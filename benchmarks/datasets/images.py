"""MNIST as it was published, and a version of it in colour that is 32 by 32."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np

from datasets.base import Dataset
from datasets.packages import FOLDER
from shoal_edge.sources.idx import read_mnist

Part = Literal["train", "test", "all"]
MNIST = FOLDER / "mnist"
"""Where ``scripts/fetch-mnist`` puts the files."""


def mnist(part: Part = "train", folder: Path = MNIST) -> Dataset:
    """Return images (n, 28, 28, 1) uint8 with their digits; all in one group, for they name no writers."""
    found = read_mnist(folder, part)
    return Dataset(found.x[..., None], found.y, np.zeros(len(found), np.int32))


def coloured(part: Part = "train", folder: Path = MNIST, *, count: int = 10_000, seed: int = 1) -> Dataset:
    """Return digits (n, 32, 32, 3) uint8 in a random colour on a patch of another with a gradient and grain.

    Made of MNIST's first ``count`` images; made, not photographed: colour says nothing about the digit, so
    that a model has to look at shapes in three channels. Digits are shifted by up to two pixels.
    """
    plain = mnist(part, folder)
    rng = np.random.default_rng(seed)
    count = min(count, len(plain))
    images = np.empty((count, 32, 32, 3), np.uint8)
    ramp = np.linspace(-1, 1, 32)
    for number in range(count):
        ink = np.zeros((32, 32))
        down, right = rng.integers(0, 5, 2)
        ink[down : down + 28, right : right + 28] = plain.x[number, :, :, 0] / 255
        back, front = _two_colours(rng)
        slope = rng.normal(0, 20, 2)
        ground = back + (slope[0] * ramp[:, None] + slope[1] * ramp)[:, :, None]
        mixed = ground * (1 - ink[..., None]) + front * ink[..., None] + rng.normal(0, 10, (32, 32, 3))
        images[number] = np.clip(mixed, 0, 255).astype(np.uint8)
    return Dataset(images, plain.y[:count], np.zeros(count, np.int32))


def _two_colours(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw two colours that the eye can tell apart."""
    while True:
        back, front = rng.uniform(30, 225, 3), rng.uniform(30, 225, 3)
        if np.abs(back - front).sum() > 150:
            return back, front
