"""Loads parts of data sets; worker only. The data set stays in memory, a part is indices into it."""

from pathlib import Path
from typing import Any

from shoal_codecs.partition import Indices, Partition
from shoal_codecs.wire.task import InputDescription
from shoal_edge.data import Examples, check_examples, held_count, read_arrays, split_held_out
from shoal_edge.swarm.part import Part, read_part
from shoal_edge.trainers.errors import MissingLabelsError, UnreadableDataError


class PartSource:
    """The one data set read last, and how it was split last."""

    def __init__(self) -> None:
        self._data: tuple[tuple[Any, ...], dict[str, Any]] = ((), {})
        self._split: tuple[tuple[Any, ...], list[Indices]] = ((), [])

    def counts(self, part: Part) -> list[tuple[int, int]]:
        """Return how many (training, held-out) examples each part has.

        Raises:
            DataError: the data set cannot be read.
            PartitionError: it cannot be split that way.
        """
        counts = []
        for own in self._indices(part):
            held = held_count(len(own), part.held_out)
            counts.append((len(own) - held, held))
        return counts

    def shard(self, path: Path, about: InputDescription, labels: int) -> tuple[Examples, Examples]:
        """Return the (training, held-out) examples of the part that the file at ``path`` describes.

        Raises:
            PartFileError: it describes none.
            DataError: the data set cannot be read, or does not fit the task.
            PartitionError: it cannot be split that way.
        """
        part = read_part(path)
        own = self._indices(part)[part.index]
        arrays = self._arrays(part)
        x, y = arrays["x"][own], arrays["y"][own]
        check_examples(x, y, about, labels)
        return split_held_out(Examples(x, y.astype("int32")), part.held_out)

    def _indices(self, part: Part) -> list[Indices]:
        y = self._arrays(part)["y"]
        key = (self._data[0], part.partition, part.parts, part.seed)
        if self._split[0] != key:
            self._split = (key, Partition.parse(part.partition).split(y, part.parts, part.seed))
        return self._split[1]

    def _arrays(self, part: Part) -> dict[str, Any]:
        path = Path(part.source)
        try:
            about = path.stat()
        except OSError as error:
            raise UnreadableDataError(f"cannot read {path} ({error.strerror}): check --data") from error
        key = (part.source, about.st_mtime_ns, about.st_size)
        if self._data[0] != key:
            arrays = read_arrays(path)
            if {"x", "y"} - set(arrays):
                raise MissingLabelsError(f"{path} needs arrays x and y: save them with numpy.savez")
            self._data = (key, arrays)
        return self._data[1]
