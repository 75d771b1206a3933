"""Which coordinates the fleet shares, and which of them a narrower model has."""

import hypothesis.strategies as st
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from numpy.testing import assert_array_equal

from shoal_codecs.updates.errors import LocalParameterError, SliceShapeError, VectorShapeError
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.updates.slices import ModelSlice
from shoal_codecs.wire.task import Parameter, dimension, split_weights

Vector = npt.NDArray[np.float32]


@st.composite
def layouts(draw: st.DrawFn) -> tuple[Parameter, ...]:
    shapes = draw(st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=6))
    return tuple(Parameter(f"p{place}", tuple(shape)) for place, shape in enumerate(shapes))


def numbered(parameters: tuple[Parameter, ...]) -> Vector:
    """A vector whose every entry tells its own place."""
    return np.arange(dimension(parameters), dtype=np.float32)


@given(layouts(), st.data())
def test_shared_and_own_make_the_whole_again(parameters: tuple[Parameter, ...], data: st.DataObject) -> None:
    names = [one.name for one in parameters]
    local = tuple(data.draw(st.lists(st.sampled_from(names), unique=True, max_size=len(names) - 1)))
    part, weights = SharedPart(parameters, local), numbered(parameters)
    own = part.own_of(weights)
    assert set(own) == set(local)
    assert part.of(weights).size == part.dimension == weights.size - sum(one.size for one in own.values())
    assert_array_equal(part.joined(part.of(weights), own), weights)
    # What the fleet moves does not move what is the device's, and the other way round.
    moved = part.joined(part.of(weights) + 1, own)
    for name, tensor in split_weights(moved - weights, parameters).items():
        assert (tensor == (0 if name in local else 1)).all()


def test_own_tensors_are_copies() -> None:
    part = SharedPart((Parameter("body", (2,)), Parameter("head", (3,))), ("head",))
    weights = numbered(part.parameters)
    own = part.own_of(weights)
    weights += 10
    assert_array_equal(own["head"], [2, 3, 4])


@pytest.mark.parametrize("local", [("nobody",), ("head", "head"), ("body", "head")])
def test_names_that_leave_nothing_sensible_are_refused(local: tuple[str, ...]) -> None:
    with pytest.raises(LocalParameterError, match=r"name each parameter|leave at least one"):
        SharedPart((Parameter("body", (2,)), Parameter("head", (3,))), local)


def test_vectors_of_another_length_are_refused() -> None:
    part = SharedPart((Parameter("body", (2,)), Parameter("head", (3,))), ("head",))
    with pytest.raises(VectorShapeError):
        part.of(np.zeros(4, np.float32))
    with pytest.raises(VectorShapeError):
        part.joined(np.zeros(5, np.float32), {"head": np.zeros(3, np.float32)})
    for own in ({}, {"head": np.zeros((3, 1), np.float32)}):
        with pytest.raises(VectorShapeError, match="own head"):
            part.joined(np.zeros(2, np.float32), own)


@given(layouts(), st.data())
def test_a_slice_has_the_prefix_of_every_tensor(
    parameters: tuple[Parameter, ...], data: st.DataObject
) -> None:
    part = tuple(
        Parameter(one.name, tuple(data.draw(st.integers(1, side)) for side in one.shape))
        for one in parameters
    )
    cut, weights = ModelSlice(parameters, part), numbered(parameters)
    narrow = split_weights(cut.cut(weights), part)
    for one, whole in zip(part, split_weights(weights, parameters).values(), strict=True):
        assert_array_equal(narrow[one.name], whole[tuple(slice(side) for side in one.shape)])
    assert (np.diff(cut.positions) > 0).all()
    spread = cut.spread(cut.cut(weights) + 1)
    assert_array_equal(cut.cut(spread), cut.cut(weights) + 1)
    assert np.count_nonzero(spread) == cut.dimension == dimension(part)


@pytest.mark.parametrize(
    "part",
    [
        (Parameter("w", (2, 3)),),
        (Parameter("b", (3,)), Parameter("w", (2, 3))),
        (Parameter("w", (2, 4)), Parameter("b", (3,))),
        (Parameter("w", (6,)), Parameter("b", (3,))),
    ],
)
def test_what_is_no_prefix_is_refused(part: tuple[Parameter, ...]) -> None:
    with pytest.raises(SliceShapeError, match="author it again"):
        ModelSlice((Parameter("w", (2, 3)), Parameter("b", (3,))), part)
