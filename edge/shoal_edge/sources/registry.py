"""The kinds of source by name, and the one way to open any of them."""

import importlib
from pathlib import Path

from shoal_edge.data import Examples, held_out_indices
from shoal_edge.sources.conform import conform
from shoal_edge.sources.rows import choose
from shoal_edge.sources.settings import DataSettings, Kind, ShareSettings
from shoal_edge.sources.shared import SHARED, share_counts
from shoal_edge.sources.source import MakeSource, Source, Version, Wanted

KINDS: dict[Kind, str] = {
    "npz": "npz:NpzSource",
    "csv": "table:TableSource",
    "mnist": "idx:MnistSource",
    "cifar10": "cifar:CifarSource",
    "images": "images:ImagesSource",
    "text": "text:TextSource",
    "buffer": "buffered:BufferSource",
}
"""Module and class; a module is loaded when a device has that kind."""


class OpenSource:
    """The device's source, for one task."""

    def __init__(self, source: Source, settings: DataSettings, place: Path) -> None:
        self._source, self._settings, self._place = source, settings, place

    def version(self) -> Version:
        """Return what changes when the examples do; cheap.

        Raises:
            UnreadableDataError: there is nothing at the source's place.
        """
        return self._source.version()

    def examples(self, wanted: Wanted) -> Examples:
        """Read the examples and make them those of a task that takes ``wanted``.

        Raises:
            DataError: in which way they cannot be used.
        """
        if (share := self._settings.share) is not None:
            return SHARED.share(self._source, self._settings, share, self._place, wanted)
        return conform(self._source.read(wanted), wanted, self._settings)

    def share_counts(self, share: ShareSettings) -> list[tuple[int, int]]:
        """Return (training, judging) counts of every part that ``share`` is one of; empty: not known yet.

        Raises:
            DataError: the set cannot be read.
            PartitionError: it cannot be split that way.
        """
        return share_counts(self._source, share)

    def count(self) -> int:
        """Count the examples with labels; roughly where that hangs on the task.

        Raises:
            DataError: they cannot be read.
        """
        return self._source.count()


def open_source(settings: DataSettings, place: Path) -> OpenSource:
    """Return the source that ``settings`` describe, at ``place`` (``settings.place``); nothing is read yet.

    Raises:
        MissingReaderError: a package that this kind needs is not installed.
    """
    module, _, name = KINDS[settings.kind].partition(":")
    make: MakeSource = getattr(importlib.import_module(f"shoal_edge.sources.{module}"), name)
    return OpenSource(make(settings, place), settings, place)


def divide(examples: Examples, fraction: float) -> tuple[Examples, Examples]:
    """Return (training part, held-out part) as ``split_held_out`` does, but without copying any example."""
    rest, aside = held_out_indices(examples, fraction)
    if not len(aside):
        return examples, Examples(examples.x[:0], examples.y[:0])
    return (
        Examples(choose(examples.x, rest), examples.y[rest]),
        Examples(choose(examples.x, aside), examples.y[aside]),
    )


class Shards:
    """The device's examples as they were read last, for as long as their source stays as it was."""

    def __init__(self) -> None:
        self._key: tuple[object, ...] = ()
        self._parts: tuple[Examples, Examples] | None = None

    def read(self, settings: DataSettings, place: Path, wanted: Wanted) -> tuple[Examples, Examples]:
        """Return (training, held-out) examples for a task that takes ``wanted``.

        Raises:
            DataError: in which way they cannot be used.
        """
        source = open_source(settings, place)
        key = (settings, place, wanted, source.version())
        if self._parts is None or self._key != key:
            # The earlier ones go first: two need not fit into memory.
            self.forget()
            self._parts = divide(source.examples(wanted), settings.held_out)
            self._key = key
        return self._parts

    def forget(self) -> None:
        """Give the memory back."""
        self._key, self._parts = (), None
