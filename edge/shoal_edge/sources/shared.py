"""Shares of one set that many virtual devices have: the set is in memory once, a share is places in it."""

from pathlib import Path
from typing import Any

import msgspec

from shoal_codecs.partition import Indices, Partition
from shoal_edge.data import Examples, held_count
from shoal_edge.sources.conform import conform
from shoal_edge.sources.rows import Rows, choose
from shoal_edge.sources.settings import DataSettings, ShareSettings
from shoal_edge.sources.source import Source, Wanted
from shoal_edge.trainers.errors import TooFewExamplesError

_ANY = Wanted.any()


class SharedSet:
    """The set that was read last, and how it was split last."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._whole: Examples | None = None
        self._split: tuple[tuple[object, ...], list[Indices]] = ((), [])

    def share(
        self, source: Source, settings: DataSettings, share: ShareSettings, place: Path, wanted: Wanted
    ) -> Examples:
        """Return the examples of ``share``.

        Raises:
            DataError: in which way the set cannot be used.
            PartitionError: it cannot be split that way.
        """
        settings = msgspec.structs.replace(settings, share=None)
        key = (settings, place, wanted, source.version())
        if self._whole is None or self._key != key:
            # The earlier set goes first: two need not fit into memory.
            self._whole = None
            self._whole, self._key = conform(source.read(wanted), wanted, settings), key
        whole = self._whole
        own = self._parts(whole, share)[share.index]
        if len(own) < settings.min_examples:
            raise TooFewExamplesError(
                f"part {share.index} has {len(own)} examples, at least {settings.min_examples} are needed: "
                "take fewer devices, or another partition"
            )
        # Rows that are made when asked for stay so; others are copied once, and not looked up in each batch.
        rows: Any = whole.x
        x = choose(whole.x, own) if isinstance(rows, Rows) else rows[own]
        return Examples(x, whole.y[own], None if whole.aside is None else whole.aside[own])

    def _parts(self, whole: Examples, share: ShareSettings) -> list[Indices]:
        key = (self._key, share.partition, share.parts, share.seed)
        if self._split[0] != key:
            self._split = (key, Partition.parse(share.partition).split(whole.y, share.parts, share.seed))
        return self._split[1]


SHARED = SharedSet()
"""Of this process: one worker reads a set once, for all the devices that it trains for."""


def share_counts(source: Source, share: ShareSettings) -> list[tuple[int, int]]:
    """Return how many (training, held-out) examples each share has, as far as one knows without a task.

    Empty where the source needs the task to say what an example is.

    Raises:
        DataError: the set cannot be read.
        PartitionError: it cannot be split that way.
    """
    if source.needs_task:
        return []
    counts = []
    for own in Partition.parse(share.partition).split(source.read(_ANY).y, share.parts, share.seed):
        held = held_count(len(own), share.held_out)
        counts.append((len(own) - held, held))
    return counts
