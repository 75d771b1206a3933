"""Model steps: the same bits on every device, in few bytes."""

import struct

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal_codecs.updates.errors import (
    CoordinateError,
    NonFiniteUpdateError,
    VectorShapeError,
)
from shoal_codecs.updates.ring import RingSpec, RingSum
from shoal_codecs.updates.step import Step, apply_step, quantise, step_from_sum

QUICK = settings(deadline=None, max_examples=150)


@QUICK
@given(
    hnp.arrays(np.float64, st.integers(1, 60), elements=st.floats(-1e30, 1e30)),
    st.floats(0.05, 1.0),
)
def test_a_move_is_met_to_half_a_level(move: npt.NDArray[np.float64], level_rms: float) -> None:
    if not move.any():
        with pytest.raises(NonFiniteUpdateError):
            quantise(move, level_rms)
        return
    step = quantise(move, level_rms)
    assert step.q.dtype == np.int32
    assert np.float32(step.scale) == step.scale
    assert (np.abs(step.q * step.scale - move) <= 0.5001 * step.scale).all()
    if np.abs(move).max() > 1e-20:
        rms = np.sqrt(np.mean((move[move != 0] / np.abs(move).max()) ** 2)) * np.abs(move).max()
        assert step.scale == pytest.approx(level_rms * rms, rel=1e-5)
        assert step.q.any()


def test_applied_in_float32_with_two_roundings() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=300).astype(np.float32)
    indices = np.arange(0, 300, 3)
    q = rng.integers(-1270, 1270, 100).astype(np.int32)
    scale = float(np.float32(0.00123))
    moved = apply_step(base, indices, Step(q, scale))
    for at, level in zip(indices.tolist(), q.tolist(), strict=True):
        # Products and sums of two float32 are exact or correctly rounded in double: one rounding
        # to float32 after each operation is what float32 arithmetic does.
        product = struct.unpack("<f", struct.pack("<f", scale * level))[0]
        total = struct.unpack("<f", struct.pack("<f", product + float(base[at])))[0]
        assert float(moved[at]) == total
    untouched = np.setdiff1d(np.arange(300), indices)
    assert np.array_equal(moved[untouched], base[untouched])


def test_all_coordinates_need_no_list() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=300).astype(np.float32)
    step = Step(rng.integers(-9, 9, 300).astype(np.int32), 0.25)
    assert apply_step(base, None, step).tobytes() == apply_step(base, np.arange(300), step).tobytes()


def test_a_sum_is_its_own_step() -> None:
    spec = RingSpec(300, 40, 2.0, 127, 12, 10, 150, bytes(32))
    total = RingSum(np.random.default_rng(1).integers(-1270, 1271, 40).astype(np.int32), 777)
    step = step_from_sum(total, spec, server_lr=0.7)
    assert step.q is total.q
    expected = 0.7 * 150 / (spec.levels_per_unit * 777)
    assert step.scale == float(np.float32(expected))


def test_bad_steps_are_named() -> None:
    q = np.array([1, -2, 3], dtype=np.int32)
    base, indices = np.zeros(9, dtype=np.float32), np.array([0, 4, 8])
    for bad in (np.array([1.0, np.nan]), np.array([1e60, 1.0]), np.array([-np.inf])):
        with pytest.raises(NonFiniteUpdateError):
            quantise(bad, 0.5)
    with pytest.raises(VectorShapeError):
        apply_step(base[:2], None, Step(q, 1.0))
    with pytest.raises(VectorShapeError):
        apply_step(base, indices[:2], Step(q, 1.0))
    with pytest.raises(CoordinateError):
        apply_step(base[:8], indices, Step(q, 1.0))
    with pytest.raises(NonFiniteUpdateError):
        apply_step(base, indices, Step(q, 3e38))
    with pytest.raises(NonFiniteUpdateError):
        apply_step(base + np.float32(np.nan), indices, Step(q, 1.0))
