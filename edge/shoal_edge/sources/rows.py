"""Examples that are made when a batch asks for them: bounded memory whatever the source holds.

An object of rows stands where an array (n, ...) does, wherever rows are taken by an index array or a slice:
in the trainers' batches. Who wants all of it at once calls ``numpy.asarray``.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.intp]
CHUNK = 1024
"""Rows that are looked at together where all are."""


class Rows(ABC):
    """What an array of examples can do that a trainer needs; ``shape`` (n, ...) and ``dtype`` are known."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @abstractmethod
    def take(self, chosen: Indices) -> Array:
        """Return the rows ``chosen`` as a new array."""

    @property
    def ndim(self) -> int:
        """Count of axes."""
        return len(self.shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, chosen: Indices | slice) -> Array:
        if isinstance(chosen, slice):
            chosen = np.arange(*chosen.indices(len(self)))
        return self.take(np.asarray(chosen))

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:  # noqa: FBT001
        """Return all rows; numpy asks for them here."""
        del copy
        whole = self[:]
        return whole if dtype is None else whole.astype(dtype)

    def astype(self, dtype: npt.DTypeLike) -> Array:
        """Return all rows in ``dtype``, as arrays do."""
        return self[:].astype(dtype)

    def as_array(self) -> Array:
        """Return itself, typed as the array it stands for."""
        return cast("Array", self)


class Chosen(Rows):
    """Some rows of others, without a copy of them."""

    def __init__(self, rows: Array, chosen: Indices) -> None:
        self._rows, self._chosen = rows, chosen
        self.shape = (len(chosen), *rows.shape[1:])
        self.dtype = rows.dtype

    def take(self, chosen: Indices) -> Array:
        """Return the rows ``chosen`` of those that were chosen."""
        return self._rows[self._chosen[chosen]]


class Windows(Rows):
    """Stretches of ``length`` steps of a series (steps, ...), beginning at ``starts`` (n,)."""

    def __init__(self, series: Array, starts: Indices, length: int) -> None:
        self._series, self._starts = series, starts
        self._steps = np.arange(length)
        self.shape = (len(starts), length, *series.shape[1:])
        self.dtype = series.dtype

    def take(self, chosen: Indices) -> Array:
        """Return the windows ``chosen``."""
        return cast("Array", self._series[self._starts[chosen][:, None] + self._steps])


class Growing:
    """An array (n, ...) whose rows come in parts; it grows in place, so that no row is in memory twice."""

    def __init__(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self._array: Array = np.empty((0, *shape), dtype)
        self._count = 0

    def add(self, part: Array) -> None:
        """Append the rows of ``part``."""
        end = self._count + len(part)
        if end > len(self._array):
            # The system moves large blocks without copying them; nobody else holds the array yet.
            self._array.resize((max(end, end + end // 8), *self._array.shape[1:]), refcheck=False)
        self._array[self._count : end] = part
        self._count = end

    @property
    def nbytes(self) -> int:
        """Of the rows that are there."""
        return self._array[: self._count].nbytes

    def done(self) -> Array:
        """Return the array; nothing is added after this."""
        self._array.resize((self._count, *self._array.shape[1:]), refcheck=False)
        return self._array


def choose(rows: Array, chosen: Indices) -> Array:
    """Return the rows ``chosen`` (k,) of ``rows`` without copying them."""
    return Chosen(rows, chosen).as_array()


def chunks(count: int) -> Iterator[slice]:
    """Yield slices that cover ``count`` rows."""
    for start in range(0, count, CHUNK):
        yield slice(start, min(start + CHUNK, count))
