"""How one data set is split among devices, repeatably by a seed: evenly, by shards of labels, or unevenly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import numpy.typing as npt

from shoal_codecs.errors import ShoalError

MIN_EXAMPLES = 40
Labels = npt.NDArray[np.integer[Any]]
Indices = npt.NDArray[np.int64]


class PartitionError(ShoalError):
    """Words that name no partition, or data that cannot be split that way."""


@dataclass(frozen=True, slots=True)
class Partition:
    """``iid``, ``blocks``, ``shards`` (``amount`` of them for each device) or ``dirichlet`` (its alpha)."""

    kind: Literal["iid", "blocks", "shards", "dirichlet"]
    amount: float = 0.0

    @classmethod
    def parse(cls, words: str) -> Self:
        """Read ``iid``, ``blocks``, ``shards:2`` or ``dirichlet:0.3``.

        Raises:
            PartitionError: something else.
        """
        kind, _, text = words.partition(":")
        try:
            amount = float(text) if text else 0.0
        except ValueError:
            amount = math.nan
        if kind in {"iid", "blocks"} and not text:
            return cls("iid" if kind == "iid" else "blocks")
        if kind == "shards" and 1 <= amount < math.inf and amount == int(amount):
            return cls("shards", amount)
        if kind == "dirichlet" and 0 < amount < math.inf:
            return cls("dirichlet", amount)
        raise PartitionError(f"{words[:40]!r} is no partition: take iid, blocks, shards:2 or dirichlet:0.3")

    def split(self, labels: Labels, devices: int, seed: int) -> list[Indices]:
        """Return the indices that each of ``devices`` gets of ``labels`` (n,); every index goes to one.

        Raises:
            PartitionError: fewer examples than devices or shards, or labels that are not one integer each.
        """
        if len(labels) < devices:
            raise PartitionError(
                f"{len(labels)} examples are too few for {devices} devices: take fewer, or more data"
            )
        rng = np.random.default_rng(seed)
        if self.kind == "iid":
            return iid_split(len(labels), devices, rng)
        if self.kind == "blocks":
            return np.array_split(np.arange(len(labels)), devices)
        if labels.ndim != 1 or labels.dtype.kind not in "iu":
            raise PartitionError(f"these examples have no labels to split by {self.kind}: take iid")
        if self.kind == "shards":
            return shard_split(labels, devices, int(self.amount), rng)
        return dirichlet_split(labels, devices, self.amount, rng)


def iid_split(examples: int, devices: int, rng: np.random.Generator) -> list[Indices]:
    """Return equal parts (to one example) of ``examples``, shuffled."""
    return np.array_split(rng.permutation(examples), devices)


def shard_split(labels: Labels, devices: int, each: int, rng: np.random.Generator) -> list[Indices]:
    """Return ``each`` shards for every device (McMahan et al. 2017, section 3).

    The examples are sorted by label and cut into ``each * devices`` shards, which are dealt out. Within a
    label the order is drawn, so that a device's shard says nothing of the order in the file.

    Raises:
        PartitionError: fewer examples than shards.
    """
    shards = each * devices
    if len(labels) < shards:
        raise PartitionError(f"{len(labels)} examples make no {shards} shards: take fewer devices or shards")
    drawn = rng.permutation(len(labels))
    cuts = np.array_split(drawn[np.argsort(labels[drawn], kind="stable")], shards)
    dealt = rng.permutation(shards).reshape(devices, each)
    return [np.concatenate([cuts[shard] for shard in hand]) for hand in dealt]


def dirichlet_split(
    labels: Labels, devices: int, concentration: float, rng: np.random.Generator
) -> list[Indices]:
    """Return the indices each device gets, split by Dirichlet(``concentration``) per label (Hsu et al. 2019).

    A draw that leaves a device with fewer than ``MIN_EXAMPLES`` (or a fair share, if that is less) is
    mended by giving it examples of the largest shards, so that every device has something to learn from.
    """
    shards: list[list[Indices]] = [[] for _ in range(devices)]
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
