"""Additive sharing between two or more hubs: one share in full, a seed for each other hub.

All but one share, whichever they are, are uniform and independent of the update; all together add
up to it. Hubs never see words of each other: each adds what it got and releases one sum.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from shoal_codecs.secagg.errors import HubCountError, HubIndexError, SeedError
from shoal_codecs.secagg.prg import (
    check_ring_words,
    expand_add_into,
    expand_subtract_from,
    ring_dtype,
)
from shoal_codecs.updates.keystream import Words

MIN_HUBS = 2


def split(
    words: Words,
    bits: int,
    hubs: int,
    seeds: Sequence[bytes],
    plan_hash: bytes,
    device: str,
    whole: int = 1,
) -> Words:
    """Return the share of hub `whole`: `words` minus what the seeds of the other hubs expand to.

    `words`: uint[count] modulo 2**bits, unchanged; `split_in_place` needs no second vector. `seeds`:
    a `new_share_seed` for each other hub of 1..`hubs`, in their order, never used again. `plan_hash`: 32
    bytes. Raises HubCountError, HubIndexError, SeedError, PlanHashError, DeviceNameError or RingWidthError.
    """
    share = words.copy()
    split_in_place(share, bits, hubs, seeds, plan_hash, device, whole)
    return share


def split_in_place(
    words: Words,
    bits: int,
    hubs: int,
    seeds: Sequence[bytes],
    plan_hash: bytes,
    device: str,
    whole: int = 1,
) -> None:
    """Turn `words` (uint[count] modulo 2**bits) into the share of hub `whole`, as `split` makes it.

    Raises HubCountError, HubIndexError, SeedError, PlanHashError, DeviceNameError or RingWidthError.
    """
    if hubs < MIN_HUBS:
        raise HubCountError(f"{hubs} hub would see the update in clear; share among {MIN_HUBS}")
    if len(seeds) != hubs - 1:
        raise HubCountError(f"{hubs} hubs take {hubs - 1} seeds, got {len(seeds)}")
    if len(set(seeds)) != len(seeds):
        raise SeedError("two hubs got the same seed; draw each from the system's generator")
    if not 1 <= whole <= hubs:
        raise HubIndexError(f"there is no hub {whole} of {hubs}: count from 1")
    check_ring_words(words, words.size, bits)
    others = (index for index in range(1, hubs + 1) if index != whole)
    for hub_index, seed in zip(others, seeds, strict=True):
        expand_subtract_from(words, seed, plan_hash, device, hub_index, bits)


class HubSum(Protocol):
    """What a hub has added up so far.

    `words`: uint[count] modulo 2**bits, owned by the sum. `reports`: how many were added.
    """

    words: Words
    bits: int
    reports: int


class ShareSum:
    """The sum of a hub that gets shares in full."""

    def __init__(self, count: int, bits: int) -> None:
        """Start at zero for shares of `count` words of `bits`. Raises RingWidthError."""
        self.words: Words = np.zeros(count, dtype=ring_dtype(bits))
        self.bits = bits
        self.reports = 0

    def add(self, share: Words) -> None:
        """Add one device's share, uint[count]. Raises ShareLengthError or RingWidthError."""
        check_ring_words(share, self.words.size, self.bits)
        _add_modulo(self.words, share, self.bits)
        self.reports += 1


class SeedSum:
    """The sum of a hub that gets a seed for each share."""

    def __init__(self, count: int, bits: int, plan_hash: bytes, hub_index: int) -> None:
        """Start at zero. `plan_hash`: 32 bytes. `hub_index`: from 1. Raises RingWidthError."""
        self.words: Words = np.zeros(count, dtype=ring_dtype(bits))
        self.bits = bits
        self.plan_hash = plan_hash
        self.hub_index = hub_index
        self.reports = 0

    def add(self, device: str, seed: bytes) -> None:
        """Add the share that `device`'s seed stands for.

        Raises SeedError, PlanHashError or DeviceNameError.
        """
        expand_add_into(self.words, seed, self.plan_hash, device, self.hub_index, self.bits)
        self.reports += 1


def combine(sums: Sequence[Words], bits: int) -> Words:
    """Return the sum of the updates, uint[count], from the sums of all hubs.

    Raises HubCountError, ShareLengthError or RingWidthError.
    """
    if len(sums) < MIN_HUBS:
        raise HubCountError(f"a sum needs the words of every hub, got {len(sums)}")
    total = check_ring_words(sums[0], sums[0].size, bits).copy()
    for words in sums[1:]:
        _add_modulo(total, check_ring_words(words, total.size, bits), bits)
    return total


def _add_modulo(acc: Words, words: Words, bits: int) -> None:
    np.add(acc, words, out=acc)
    if bits < acc.dtype.itemsize * 8:
        np.bitwise_and(acc, acc.dtype.type((1 << bits) - 1), out=acc)
