"""The device's data: a good shard loads, every fault has its own name, the split is fair."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.wire.task import InputDescription
from shoal_edge.data import Examples, check_examples, load_shard, split_held_out
from shoal_edge.trainers.errors import (
    DataError,
    ExampleRangeError,
    ExampleShapeError,
    ExampleTypeError,
    LabelRangeError,
    MissingLabelsError,
    TooFewExamplesError,
    UnreadableDataError,
)

ABOUT = InputDescription(shape=(4,), dtype="uint8", minimum=0, maximum=16)
X = np.arange(40, dtype=np.uint8).reshape(10, 4) % 17
Y = np.arange(10, dtype=np.uint8) % 3


def test_a_good_shard_loads_with_labels_the_trainer_takes(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "shard.npz", x=X, y=Y, source=np.array("a field"))
    shard = load_shard(tmp_path / "shard.npz", ABOUT, 3)
    assert np.array_equal(shard.x, X)
    assert np.array_equal(shard.y, Y)
    assert shard.y.dtype == np.int32


FAULTS: list[tuple[type[DataError], dict[str, npt.NDArray[Any]]]] = [
    (MissingLabelsError, {"x": X}),
    (MissingLabelsError, {"y": Y}),
    (MissingLabelsError, {"x": X, "y": Y[:-1]}),
    (MissingLabelsError, {"x": X, "y": Y[:, None]}),
    (ExampleShapeError, {"x": X[:, :3], "y": Y}),
    (ExampleShapeError, {"x": X[:, :, None], "y": Y}),
    (ExampleShapeError, {"x": X[0], "y": Y}),
    (ExampleTypeError, {"x": X.astype(np.float32), "y": Y}),
    (ExampleTypeError, {"x": X, "y": Y.astype(np.float64)}),
    (ExampleRangeError, {"x": X + 1, "y": Y}),
    (LabelRangeError, {"x": X, "y": Y + 1}),
    (LabelRangeError, {"x": X, "y": Y.astype(np.int8) - 1}),
    (TooFewExamplesError, {"x": X[:4], "y": Y[:4]}),
    (TooFewExamplesError, {"x": X[:0], "y": Y[:0]}),
    (UnreadableDataError, {"x": np.array([{}]), "y": Y}),
]


@pytest.mark.parametrize(("error", "arrays"), FAULTS)
def test_each_fault_of_a_shard_has_its_name(
    tmp_path: Path, error: type[DataError], arrays: dict[str, npt.NDArray[Any]]
) -> None:
    np.savez(tmp_path / "shard.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(error):
        load_shard(tmp_path / "shard.npz", ABOUT, 3)


def test_strange_labels_are_counted_and_the_first_is_found_by_its_row_alone(tmp_path: Path) -> None:
    """The label itself is data, and the text may leave the device."""
    labels = Y.astype(np.int64).copy()
    labels[[2, 4]] = 777, -5
    np.savez(tmp_path / "shard.npz", x=X, y=labels)
    with pytest.raises(
        LabelRangeError, match=rf"2 of {len(Y)} labels .* 0 to 2; .*example 2, counted"
    ) as caught:
        load_shard(tmp_path / "shard.npz", ABOUT, 3)
    assert "777" not in str(caught.value)
    assert "-5" not in str(caught.value)


def no_file(path: Path) -> None:
    path.unlink(missing_ok=True)


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, X)


def half_archive(path: Path) -> None:
    np.savez_compressed(path, x=X, y=Y)
    path.write_bytes(path.read_bytes()[:100])


def flipped_archive(path: Path) -> None:
    np.savez_compressed(path, x=X, y=Y)
    damaged = bytearray(path.read_bytes())
    damaged[60:120] = bytes(60)
    path.write_bytes(damaged)


def some_text(path: Path) -> None:
    path.write_text("x,y\n1,2\n")


@pytest.mark.parametrize(
    "make", [no_file, single_array, half_archive, flipped_archive, some_text, Path.touch, Path.mkdir]
)
def test_a_file_that_is_no_archive_is_unreadable(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "shard.npz"
    make(path)
    with pytest.raises(UnreadableDataError):
        load_shard(path, ABOUT, 3)


def test_nan_is_outside_every_range() -> None:
    about = InputDescription(shape=(1,), dtype="float32", minimum=-1, maximum=1)
    with pytest.raises(ExampleRangeError):
        check_examples(np.array([[np.nan]], np.float32), np.array([0]), about, 2)


@given(count=st.integers(0, 400))
def test_the_split_is_fair_complete_and_always_the_same(count: int) -> None:
    examples = Examples(np.arange(count)[:, None], np.arange(count, dtype=np.int32))
    train, held_out = split_held_out(examples)
    assert len(held_out) == (max(round(0.2 * count), 1) if count >= 5 else round(0.2 * count))
    assert sorted([*train.y, *held_out.y]) == list(range(count))
    assert np.array_equal(train.x[:, 0], train.y)
    again = split_held_out(examples)
    assert np.array_equal(again[1].y, held_out.y)


def test_a_small_fraction_of_enough_examples_still_holds_one_out() -> None:
    examples = Examples(X, Y.astype(np.int32))
    assert [len(part) for part in split_held_out(examples, 0.01)] == [9, 1]
    few = Examples(X[:4], Y[:4].astype(np.int32))
    assert [len(part) for part in split_held_out(few, 0.01)] == [4, 0]
