"""The device's own examples: loading a shard, checking it, and holding a part of it out."""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_codecs.pcg64 import permutation
from shoal_codecs.wire.task import InputDescription, TargetDescription
from shoal_edge.sources.errors import DataTooLargeError
from shoal_edge.sources.settings import DEFAULT_MOST_BYTES, HELD_OUT_FRACTION
from shoal_edge.trainers.errors import (
    ExampleRangeError,
    ExampleShapeError,
    ExampleTypeError,
    LabelRangeError,
    MissingLabelsError,
    TooFewExamplesError,
    UnreadableDataError,
)

MINIMUM_EXAMPLES = 5
_SPLIT_SEED = 0
LABEL = TargetDescription()
_UNREADABLE = (
    *(ValueError, EOFError, KeyError, IndexError, TypeError, SyntaxError, NotImplementedError, RuntimeError),
    *(MemoryError, OverflowError, RecursionError, struct.error, zlib.error, zipfile.BadZipFile),
)
"""What a damaged archive makes its readers raise."""


@dataclass(frozen=True)
class Examples:
    """Raw examples ``x`` (n, ...) in the task's dtype and labels ``y`` (n,) int32 or values (n, ...) float32.

    ``aside`` (n,) tells which are held out, where chance shall not decide it.
    """

    x: npt.NDArray[Any]
    y: npt.NDArray[Any]
    aside: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.y)


def load_shard(
    path: Path, about: InputDescription, labels: int, *, minimum: int = MINIMUM_EXAMPLES
) -> Examples:
    """Load the arrays x and y of the .npz file at ``path`` and check them against the task.

    ``labels`` is how many labels the task has, ``minimum`` the fewest examples accepted.

    Raises:
        UnreadableDataError, MissingLabelsError, TooFewExamplesError, ExampleShapeError,
        ExampleTypeError, ExampleRangeError, LabelRangeError: what is wrong with the file.
    """
    arrays = read_arrays(path)
    absent = [name for name in ("x", "y") if name not in arrays]
    if absent:
        raise MissingLabelsError(
            f"{path} has no array {absent[0]}: save examples as x and labels as y (numpy.savez)"
        )
    x, y = arrays["x"], arrays["y"]
    check_examples(x, y, about, labels)
    if len(x) < minimum:
        raise TooFewExamplesError(
            f"{path} has {len(x)} examples, at least {minimum} are needed: let the device collect more"
        )
    return Examples(x, y.astype(np.int32))


def check_examples(
    x: npt.NDArray[Any],
    y: npt.NDArray[Any],
    about: InputDescription,
    labels: int,
    target: TargetDescription = LABEL,
) -> None:
    """Raise the DataError that says in which way ``x`` and ``y`` do not fit the task, if any.

    Rows that are made when a batch asks for them check their values then.
    """
    check_shape(x, about)
    if isinstance(x, np.ndarray):
        check_values(x, about)
    check_targets(x, y, labels, target)


def check_shape(x: npt.NDArray[Any], about: InputDescription) -> None:
    """Raise ExampleShapeError or ExampleTypeError unless ``x`` has the task's shape and dtype."""
    if x.ndim != len(about.shape) + 1 or x.shape[1:] != about.shape:
        raise ExampleShapeError(
            f"examples of shape {x.shape}, the task takes (n, {', '.join(map(str, about.shape))}): "
            "bring the data into the task's shape"
        )
    if x.dtype != np.dtype(about.dtype):
        raise ExampleTypeError(f"examples are {x.dtype}, the task takes {about.dtype}: convert them")


def check_values(x: npt.NDArray[Any], about: InputDescription) -> None:
    """Raise ExampleRangeError where a value of ``x`` is outside the task's range, or NaN."""
    # The least and the greatest are NaN where one value is; no array as long as the data is made.
    if x.size and not about.minimum <= x.min() <= x.max() <= about.maximum:
        inside = (x >= about.minimum) & (x <= about.maximum)
        raise ExampleRangeError(
            f"{np.count_nonzero(~inside)} values outside {about.minimum:g} to {about.maximum:g} "
            "(or NaN): give raw values in the task's range"
        )


def check_targets(x: npt.NDArray[Any], y: npt.NDArray[Any], labels: int, target: TargetDescription) -> None:
    """Raise the DataError that says in which way ``y`` is not what a task learns of ``x``, if any."""
    if target.kind == "values":
        _check_learnt_values(x, y, target)
    else:
        _check_labels(x, y, labels)


def _check_learnt_values(x: npt.NDArray[Any], y: npt.NDArray[Any], target: TargetDescription) -> None:
    wanted = (len(x), *target.shape)
    if y.shape != wanted:
        raise MissingLabelsError(
            f"targets of shape {y.shape}, the task learns {wanted}: give each example its values"
        )
    if y.dtype != np.float32:
        raise ExampleTypeError(f"targets are {y.dtype}, the task learns float32: convert them")
    if not np.isfinite(y).all():
        raise ExampleRangeError("targets hold NaN or infinity: leave such examples out")


def _check_labels(x: npt.NDArray[Any], y: npt.NDArray[Any], labels: int) -> None:
    if y.shape != (len(x),):
        raise MissingLabelsError(
            f"labels of shape {y.shape} for {len(x)} examples: give each example exactly one label"
        )
    if y.dtype.kind not in "iu":
        raise ExampleTypeError(f"labels are {y.dtype}, not integers: store label indices")
    refuse_strange_labels(y, labels, "relabel the data")


def refuse_strange_labels(y: npt.NDArray[Any], labels: int, remedy: str) -> None:
    """Raise LabelRangeError where one of ``y`` (integers) is not among the task's ``labels`` indices.

    The error says how many and where the first is, for a person to look it up; the label itself is data.
    """
    strange = np.flatnonzero((y < 0) | (y >= labels))
    if strange.size:
        raise LabelRangeError(
            f"{strange.size} of {len(y)} labels are none of the task's, which are 0 to {labels - 1}; the "
            f"first is that of example {strange[0]}, counted from 0: {remedy}"
        )


def held_count(count: int, fraction: float) -> int:
    """Return how many of ``count`` examples are held out."""
    return max(round(count * fraction), int(count >= MINIMUM_EXAMPLES)) if fraction else 0


def split_held_out(examples: Examples, fraction: float = HELD_OUT_FRACTION) -> tuple[Examples, Examples]:
    """Return (training part, held-out part); the same examples always split the same way.

    The held-out part is ``fraction`` of the examples, rounded; at least one of five or more, none where the
    fraction is 0. It is what the examples' source set aside, where it did.
    """
    rest, aside = held_out_indices(examples, fraction)
    return (
        Examples(examples.x[rest], examples.y[rest]),
        Examples(examples.x[aside], examples.y[aside]),
    )


def held_out_indices(
    examples: Examples, fraction: float = HELD_OUT_FRACTION
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the indices of (training part, held-out part), each ascending, as ``split_held_out`` splits."""
    if examples.aside is not None:
        return np.flatnonzero(~examples.aside), np.flatnonzero(examples.aside)
    count = len(examples)
    held = held_count(count, fraction)
    order = permutation(count, _SPLIT_SEED)
    return np.sort(order[held:]), np.sort(order[:held])


def read_arrays(path: Path, most_bytes: int = DEFAULT_MOST_BYTES) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays x and y of the .npz archive at ``path``, those of them that are there.

    Raises:
        UnreadableDataError: no such file, or no archive of plain arrays.
        DataTooLargeError: an array of more than ``most_bytes``, or one that claims so.
    """
    try:
        with path.open("rb") as file, zipfile.ZipFile(file) as archive:
            return {
                name: _read_array(archive, f"{name}.npy", most_bytes)
                for name in ("x", "y")
                if f"{name}.npy" in archive.namelist()
            }
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read {path} ({error.strerror or error}): check the path and its permissions"
        ) from error
    except _UNREADABLE as error:
        raise UnreadableDataError(
            f"{path} is no .npz archive of plain arrays ({type(error).__name__}): save it with numpy.savez"
        ) from error


def _read_array(archive: zipfile.ZipFile, name: str, most_bytes: int) -> npt.NDArray[Any]:
    """Read one array whose header was looked at before memory is taken for it."""
    with archive.open(name) as member:
        wide = np.lib.format.read_magic(member) != (1, 0)
        read_header = np.lib.format.read_array_header_2_0 if wide else np.lib.format.read_array_header_1_0
        shape, _, dtype = read_header(member)
    count = math.prod(shape) * dtype.itemsize
    if count > most_bytes:
        raise DataTooLargeError(
            f"an array {name} of {count} bytes, {most_bytes} are allowed: give less, or raise `most_bytes`"
        )
    with archive.open(name) as member:
        found: npt.NDArray[Any] = np.lib.format.read_array(member, allow_pickle=False)
    return found
