"""From what a source has to what the task takes: shape, type, scale, labels, each only as the settings say.

What a message says of a fault goes to the coordinator: never a value, a label or an example.
"""

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from shoal_codecs.wire.task import InputDescription
from shoal_edge.data import Examples, check_values, refuse_strange_labels
from shoal_edge.sources.errors import DataSettingsError
from shoal_edge.sources.rows import Array, Indices, Rows, chunks
from shoal_edge.sources.settings import DataSettings
from shoal_edge.sources.source import Found, Wanted
from shoal_edge.trainers.errors import (
    ExampleRangeError,
    ExampleShapeError,
    ExampleTypeError,
    MissingLabelsError,
    TooFewExamplesError,
)


class Converted(Rows):
    """Rows in a task's shape and type, converted when they are read: 60,000 images stay bytes until then."""

    def __init__(self, rows: Array, about: InputDescription, settings: DataSettings) -> None:
        self._rows, self._about = rows, about
        self._scale, self._offset = settings.scale, settings.offset
        self.shape = (len(rows), *about.shape)
        self.dtype = np.dtype(about.dtype)

    def take(self, chosen: Indices) -> Array:
        """Return the rows ``chosen``.

        Raises:
            ExampleTypeError: a value that the task's type cannot hold.
            ExampleRangeError: a value outside the task's range.
        """
        values = self._rows[chosen].reshape(len(chosen), *self._about.shape)
        if self._scale != 1.0 or self._offset != 0.0:
            values = values * self._scale + self._offset
        values = cast_exactly(values, self.dtype)
        check_values(values, self._about)
        return values


def conform(found: Found, wanted: Wanted, settings: DataSettings) -> Examples:
    """Return ``found`` as examples that a task which takes ``wanted`` can be trained with.

    Raises:
        ExampleShapeError, ExampleTypeError, ExampleRangeError: values that do not become the task's.
        MissingLabelsError, LabelRangeError, DataSettingsError: labels that do not.
        TooFewExamplesError: fewer than ``min_examples``.
    """
    if found.y.shape[:1] != found.x.shape[:1]:
        raise MissingLabelsError(
            f"labels of shape {found.y.shape} for {len(found)} examples: give each example exactly one label"
        )
    x = _inputs(found, wanted.input, settings)
    y = _targets(found, wanted, settings)
    if len(x) < settings.min_examples:
        raise TooFewExamplesError(
            f"{len(x)} examples with labels, at least {settings.min_examples} are needed: let the device "
            "collect more"
        )
    return Examples(x, y, found.aside)


def cast_exactly(values: Array, dtype: np.dtype[Any]) -> Array:
    """Return ``values`` in ``dtype``, whole numbers unchanged and fractions in float32's precision.

    Raises:
        ExampleTypeError: one of them cannot become an integer, or is too large.
    """
    if values.dtype == dtype:
        return values
    if dtype.kind == "f":
        return values.astype(dtype)
    limits = np.iinfo(dtype)
    fitting = (values >= limits.min) & (values <= limits.max)
    if values.dtype.kind == "f":
        fitting &= np.trunc(values) == values
    if not fitting.all():
        raise ExampleTypeError(
            f"{np.count_nonzero(~fitting)} values are no whole numbers that {dtype} holds: scale them, or "
            "take a task with another input"
        )
    return values.astype(dtype)


def _inputs(found: Found, about: InputDescription, settings: DataSettings) -> Array:
    x = found.x
    same = x.shape[1:] == about.shape
    if not same and not _may_reshape(found, about, settings):
        remedy = "bring the data into the task's shape"
        if math.prod(x.shape[1:]) == math.prod(about.shape):
            remedy += ", or set `reshape` if the values lie in its order"
        raise ExampleShapeError(
            f"examples of shape {x.shape}, the task takes (n, {', '.join(map(str, about.shape))}): {remedy}"
        )
    scaled = settings.scale != 1.0 or settings.offset != 0.0
    if x.dtype.kind not in "uif" or (x.dtype.name != about.dtype and not settings.cast and not scaled):
        raise ExampleTypeError(
            f"examples are {x.dtype}, the task takes {about.dtype}: convert them, or set `cast`, or `scale`"
        )
    if not same or scaled or found.lazy or x.dtype.name != about.dtype:
        x = Converted(x, about, settings).as_array()
    for part in () if found.lazy else chunks(len(x)):
        check_values(x[part], about)
    return x


def _may_reshape(found: Found, about: InputDescription, settings: DataSettings) -> bool:
    own = found.x.shape[1:]
    if math.prod(own) != math.prod(about.shape):
        return False
    plain = [side for side in own if side != 1] == [side for side in about.shape if side != 1]
    return settings.reshape or (found.image and (plain or len(about.shape) == 1))


def _targets(found: Found, wanted: Wanted, settings: DataSettings) -> npt.NDArray[Any]:
    y = found.y
    if wanted.target.kind == "values":
        return _values(y, wanted.target.shape)
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise ExampleTypeError(
            f"labels are {y.dtype} of shape {y.shape}, the task takes one integer each: give label indices, "
            "or for a table the name of its `label_column`"
        )
    if found.names is not None:
        table = _label_table(found.names, wanted.labels, settings)
        y = table[y]
    elif settings.labels and len(y):
        distinct, codes = np.unique(y, return_inverse=True)
        table = _label_table(tuple(map(str, distinct.tolist())), wanted.labels, settings)
        y = table[codes]
    refuse_strange_labels(y, len(wanted.labels), "map the source's to them in the table [data.labels]")
    return y.astype(np.int32)


def _values(y: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    if y.dtype.kind not in "uif" or math.prod(y.shape[1:]) != math.prod(shape):
        raise MissingLabelsError(
            f"targets are {y.dtype} of shape {y.shape}, the task predicts values (n, "
            f"{', '.join(map(str, shape))}): name as many `target_columns`"
        )
    values = y.reshape(len(y), *shape).astype(np.float32)
    if not np.isfinite(values).all():
        raise ExampleRangeError("targets hold NaN, infinity or more than float32 does: leave those rows out")
    return values


def _label_table(
    names: tuple[str, ...], labels: tuple[str, ...], settings: DataSettings
) -> npt.NDArray[np.int32]:
    """Return for each of the source's ``names`` the index of the task's label, -1 where there is none."""
    index = {label: number for number, label in enumerate(labels)}

    def meant(label: str) -> int:
        if label in index:
            return index[label]
        return int(label) if label.isascii() and label.isdigit() and len(label) < 10 else -1

    for target in settings.labels.values():
        if not 0 <= meant(target) < len(labels):
            raise DataSettingsError(
                f"the table [data.labels] leads to {target!r}, which the task does not have: it has "
                f"{', '.join(labels[:20])}"
            )
    found = [meant(settings.labels.get(name, name)) for name in names]
    return cast("npt.NDArray[np.int32]", np.array(found, np.int32))
