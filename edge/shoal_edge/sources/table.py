"""A CSV table (RFC 4180) with a head line: features and a label or values in columns, single or windowed."""

import csv
from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from shoal_edge.sources.conform import cast_exactly
from shoal_edge.sources.errors import DamagedDataError, DataSettingsError
from shoal_edge.sources.files import check_size, file_version, opened
from shoal_edge.sources.holding_out import last_aside, window_starts
from shoal_edge.sources.rows import Growing, Indices, Windows
from shoal_edge.sources.settings import DataSettings
from shoal_edge.sources.source import Found, Version, Wanted
from shoal_edge.trainers.errors import ExampleTypeError, MissingLabelsError

MOST_LINE_BYTES = 1 << 20
MOST_NAMES = 1 << 16
_BATCH_CELLS = 1 << 15
_NAMED = 20
_BATCH_CHARACTERS = 1 << 20


_Batch = list[tuple[int, list[str]]]


class _Reader(Protocol):
    """What ``csv.reader`` returns."""

    @property
    def line_num(self) -> int:
        """The line that was read last."""
        ...

    def __iter__(self) -> Iterator[list[str]]: ...

    def __next__(self) -> list[str]: ...


class _Columns(NamedTuple):
    """Where in a row is what; -1 for nothing."""

    features: tuple[int, ...]
    targets: tuple[int, ...]
    label: int
    group: int
    cells: int


class _Names:
    """Texts of a column as numbers, in the order in which they come."""

    def __init__(self, path: Path, what: str) -> None:
        self._path, self._what = path, what
        self.index: dict[str, int] = {}
        self.codes = array("i")
        self._characters = 0

    def add(self, text: str) -> None:
        known = len(self.index)
        code = self.index.setdefault(text, known)
        if code >= MOST_NAMES:
            raise DataSettingsError(
                f"{self._path} has over {MOST_NAMES} different entries in the column of its {self._what}: "
                "name another column"
            )
        if code == known:
            self._characters += len(text)
        self.codes.append(code)

    @property
    def nbytes(self) -> int:
        """Roughly what the column takes."""
        return self.codes.itemsize * len(self.codes) + self._characters


class TableSource:
    """The CSV file at ``place``, which may be packed with gzip (``.gz``)."""

    needs_task = True

    def __init__(self, settings: DataSettings, place: Path) -> None:
        self._settings, self._path = settings, place

    def version(self) -> Version:
        """Return the file's size and time."""
        return file_version(self._path)

    def count(self) -> int:
        """Count the examples with labels."""
        return len(self.read(Wanted.any()))

    def read(self, wanted: Wanted) -> Found:
        """Read the table in parts; only numbers in the task's type, or float32 to be scaled, are kept."""
        settings = self._settings
        if bool(settings.label_column) == bool(settings.target_columns):
            raise DataSettingsError(
                "a table needs its `label_column` or its `target_columns` named in [data], one of them"
            )
        scaled = settings.scale != 1.0 or settings.offset != 0.0
        dtype = np.dtype("float32" if scaled else wanted.input.dtype)
        with opened(self._path) as file:
            x, y, labels, groups = self._parsed(file, dtype)
        names = tuple(labels.index) if settings.label_column else None
        if not settings.window:
            return Found(x, y, names)
        return self._windowed(x, y, np.asarray(groups.codes), names)

    def _parsed(
        self, file: BinaryIO, dtype: np.dtype[np.generic]
    ) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic], _Names, _Names]:
        rows = csv.reader(self._lines(file), delimiter=self._settings.delimiter, strict=True)
        labels, groups = _Names(self._path, "labels"), _Names(self._path, "groups")
        try:
            columns = self._columns(next(rows, []))
            x = Growing((len(columns.features),), dtype)
            targets = Growing((len(columns.targets),), np.float32)
            while batch := self._batch(rows, columns):
                x.add(self._numbers(batch, columns.features, dtype))
                targets.add(self._numbers(batch, columns.targets, np.dtype(np.float32)))
                for line, row in batch:
                    if columns.label >= 0:
                        self._label(row[columns.label], labels, line)
                    if columns.group >= 0:
                        groups.add(row[columns.group])
                held = x.nbytes + targets.nbytes + labels.nbytes + groups.nbytes
                check_size(held, self._settings.most_bytes, self._path)
        except (csv.Error, UnicodeDecodeError) as error:
            raise DamagedDataError(
                f"{self._path} is no CSV in UTF-8 ({type(error).__name__}): save the table again"
            ) from error
        y = targets.done() if columns.targets else np.asarray(labels.codes, np.int32)
        return x.done(), y, labels, groups

    def _lines(self, file: BinaryIO) -> Iterator[str]:
        first = True
        while line := file.readline(MOST_LINE_BYTES + 1):
            if len(line) > MOST_LINE_BYTES:
                raise DamagedDataError(
                    f"{self._path} has a line over {MOST_LINE_BYTES} bytes: save the table again"
                )
            text = line.decode("utf-8-sig" if first else "utf-8")
            first = False
            yield text

    def _columns(self, head: list[str]) -> _Columns:
        settings = self._settings
        place = {name.strip(): number for number, name in enumerate(head)}
        if len(place) != len(head) or not head:
            raise DamagedDataError(
                f"{self._path} has no head line of different names: write the columns' names into it first"
            )

        def found(name: str) -> int:
            if name not in place:
                fault = DataSettingsError(
                    f"{self._path} has no column {name!r}: name one of its head line in [data]"
                )
                # For the owner's terminal alone.
                fault.add_note(f"its columns are {_named(place)}")
                raise fault
            return place[name]

        targets = tuple(found(name) for name in settings.target_columns)
        label = found(settings.label_column) if settings.label_column else -1
        group = found(settings.group_column) if settings.group_column else -1
        taken = {label, group, *targets}
        features = tuple(found(name) for name in settings.columns) or tuple(
            number for number in range(len(head)) if number not in taken
        )
        return _Columns(features, targets, label, group, len(head))

    def _batch(self, rows: _Reader, columns: _Columns) -> _Batch:
        """Return some rows, each with its line; few enough that cells as texts take little memory."""
        batch: _Batch = []
        characters = 0
        for row in rows:
            if not row:
                continue
            if len(row) != columns.cells:
                error = DamagedDataError(
                    f"{self._path} has a row of {len(row)} cells under a head of {columns.cells}: mend it"
                )
                error.add_note(f"line {rows.line_num}")
                raise error
            batch.append((rows.line_num, row))
            characters += sum(map(len, row))
            if len(batch) * columns.cells >= _BATCH_CELLS or characters >= _BATCH_CHARACTERS:
                break
        return batch

    def _numbers(
        self, batch: _Batch, columns: Sequence[int], dtype: np.dtype[np.generic]
    ) -> npt.NDArray[np.generic]:
        values = np.empty((len(batch), len(columns)))
        for out, (line, row) in zip(values, batch, strict=True):
            try:
                out[:] = [float(row[column]) for column in columns]
            except ValueError as error:
                fault = ExampleTypeError(
                    f"{self._path} has cells that are no numbers: name the columns to use in `columns`, or "
                    "mend the table"
                )
                # For the owner's eyes only, as all notes.
                fault.add_note(f"line {line}")
                raise fault from error
        with np.errstate(over="ignore"):
            return cast_exactly(values, dtype)

    def _label(self, cell: str, labels: _Names, line: int) -> None:
        text = cell.strip()
        if not text:
            error = MissingLabelsError(
                f"{self._path} has rows without a label: leave them out until their labels are known"
            )
            error.add_note(f"line {line}")
            raise error
        labels.add(text)

    def _windowed(
        self,
        x: npt.NDArray[np.generic],
        y: npt.NDArray[np.generic],
        groups: npt.NDArray[np.int32],
        names: tuple[str, ...] | None,
    ) -> Found:
        length = self._settings.window
        starts = _starts(groups if len(groups) else np.zeros(len(x), np.int32), length, self._settings.stride)
        if self._settings.window_label == "whole" and names is not None and len(starts):
            # The same label from first to last: none changes within.
            changes = np.concatenate([[0], np.cumsum(y[1:] != y[:-1])])
            starts = starts[changes[starts] == changes[starts + length - 1]]
        kept, aside = last_aside(starts, length)
        starts = starts[kept]
        return Found(Windows(x, starts, length).as_array(), y[starts + length - 1], names, aside)


def _starts(groups: npt.NDArray[np.int32], length: int, stride: int) -> Indices:
    """Return where windows begin, none of which spans two of the ``groups`` (steps,)."""
    edges = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
    found = [first + window_starts(end - first, length, stride or length) for first, end in pairwise(edges)]
    return np.concatenate(found) if found else np.empty(0, np.intp)


def _named(columns: Iterable[str]) -> str:
    """Return the first few of ``columns`` for a message to the owner of the file."""
    names = list(columns)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
