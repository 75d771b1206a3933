"""What a reader of one kind of source gives, before it is made the task's."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import InputDescription, TargetDescription, TaskBundle
from shoal_edge.sources.settings import DataSettings

Version = tuple[Any, ...]


class Wanted(NamedTuple):
    """What a task takes: its input, and either the names of its labels or the shape of its values."""

    input: InputDescription
    labels: tuple[str, ...] = ()
    target: TargetDescription = TargetDescription()

    @classmethod
    def any(cls) -> "Wanted":
        """Return what a source is given that reads alike for every task."""
        return cls(InputDescription(shape=(), dtype="float32", minimum=0.0, maximum=0.0))

    @classmethod
    def by(cls, bundle: TaskBundle) -> "Wanted":
        """Return what ``bundle``'s task takes."""
        return cls(bundle.input, bundle.labels, bundle.target)


@dataclass(frozen=True)
class Found:
    """Examples as the source has them.

    ``x`` (n, ...) is an array or an object of rows; ``y`` (n,) label indices, or indices into ``names``, or
    (n, ...) float values. ``aside`` (n,) tells which are held out, where the source knows better than chance:
    overlapping windows, or a buffer whose examples come and go. ``image`` rows may lose or gain axes of one,
    or be laid flat, without being asked; ``lazy`` ones cost too much to be looked at before a batch needs
    them.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    names: tuple[str, ...] | None = None
    aside: npt.NDArray[np.bool_] | None = None
    image: bool = False
    lazy: bool = False

    def __len__(self) -> int:
        return len(self.x)


class Source(Protocol):
    """One place that examples come from; ``needs_task``: what it reads depends on what is wanted."""

    needs_task: bool

    def version(self) -> Version:
        """Return what changes when the examples do; cheap.

        Raises:
            UnreadableDataError: there is nothing at its place.
        """
        ...

    def count(self) -> int:
        """Count the examples with labels, roughly where that hangs on a task that is not here yet.

        Raises:
            DataError: they cannot be read.
        """
        ...

    def read(self, wanted: Wanted) -> Found:
        """Read the examples for a task that takes ``wanted``.

        Raises:
            DataError: in which way they cannot be used.
        """
        ...


class MakeSource(Protocol):
    """Makes the source of one kind."""

    def __call__(self, settings: DataSettings, place: Path) -> Source:
        """Return the source at ``place``; nothing is read yet."""
        ...
