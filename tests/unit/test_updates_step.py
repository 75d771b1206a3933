"""Model steps: the same bits on every device, in few bytes."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal_codecs.updates.errors import (
    CoordinateError,
    NonFiniteUpdateError,
    PayloadContentError,
    PayloadLengthError,
    UpdateError,
    VectorShapeError,
)
from shoal_codecs.updates.ring import RingSpec, RingSum
from shoal_codecs.updates.step import Step, apply_step, decode_step, encode_step, step_from_sum

QUICK = settings(deadline=None, max_examples=150)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "updates.json").read_text(encoding="utf-8"))
Levels = np.ndarray[tuple[int], np.dtype[np.int32]]
BOUND = 2**31 - 1
LEVELS = hnp.arrays(
    np.int32,
    st.integers(1, 60),
    elements=st.integers(-3, 3) | st.integers(-1270, 1270) | st.integers(-BOUND, BOUND),
)


@QUICK
@given(LEVELS, st.floats(-(2.0**100), 2.0**100, width=32))
def test_steps_round_trip(q: Levels, scale: float) -> None:
    payload = encode_step(q, scale, BOUND)
    step = decode_step(payload, q.size, BOUND)
    assert step.q.dtype == np.int32
    assert step.q.tolist() == q.tolist()
    assert step.scale == scale
    narrower = max(2, int(np.abs(q.astype(np.int64)).max()).bit_length() + 1)
    assert len(payload) == 5 + (q.size * narrower + 7) // 8


@pytest.mark.parametrize("vector", VECTORS["steps"], ids=lambda v: str(v["scale"]))
def test_steps_are_the_committed_bytes(vector: dict[str, float | str | list[int]]) -> None:
    q, scale = vector["q"], vector["scale"]
    assert isinstance(q, list)
    assert isinstance(scale, float)
    payload = bytes.fromhex(str(vector["payload"]))
    assert encode_step(np.array(q, dtype=np.int32), scale, 1270) == payload
    step = decode_step(payload, len(q), 1270)
    assert (step.q.tolist(), step.scale) == (q, scale)


@QUICK
@given(st.binary(max_size=60), st.integers(1, 20), st.integers(0, 2000))
def test_foreign_bytes_are_a_sound_step_or_refused(data: bytes, count: int, bound: int) -> None:
    try:
        step = decode_step(data, count, bound)
    except UpdateError:
        return
    assert np.abs(step.q.astype(np.int64)).max() <= bound
    assert np.isfinite(step.scale)


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


def test_coordinator_and_device_reach_the_same_bits() -> None:
    spec = RingSpec(300, 40, 2.0, 127, 12, 10, 150, bytes(32))
    rng = np.random.default_rng(1)
    base = rng.normal(size=300).astype(np.float32)
    total = RingSum(rng.integers(-1270, 1271, 40).astype(np.int32), 777)
    step = step_from_sum(total, spec, server_lr=0.7)
    received = decode_step(encode_step(step.q, step.scale, 1270), 40, 1270)
    ours = apply_step(base, spec.coordinates, step)
    theirs = apply_step(base, spec.coordinates, received)
    assert ours.tobytes() == theirs.tobytes()
    expected = 0.7 * 150 / (spec.levels_per_unit * 777)
    assert step.scale == float(np.float32(expected))


def test_bad_steps_are_named() -> None:
    q = np.array([1, -2, 3], dtype=np.int32)
    base, indices = np.zeros(9, dtype=np.float32), np.array([0, 4, 8])
    with pytest.raises(PayloadContentError):
        encode_step(q, 1.0, 2)
    with pytest.raises(PayloadContentError):
        encode_step(np.array([-(2**31)], dtype=np.int32), 1.0, 2**40)
    with pytest.raises(VectorShapeError):
        encode_step(q.astype(np.int64), 1.0, 10)
    with pytest.raises(NonFiniteUpdateError):
        encode_step(q, 1e60, 10)
    payload = encode_step(q, 1.0, 10)
    with pytest.raises(PayloadLengthError):
        decode_step(payload[:4], 3, 10)
    with pytest.raises(PayloadLengthError):
        decode_step(payload, 30, 10)
    with pytest.raises(PayloadContentError):
        decode_step(payload, 3, 2)
    with pytest.raises(PayloadContentError):
        decode_step(struct.pack("<fB", float("nan"), 8) + bytes(3), 3, 10)
    with pytest.raises(PayloadContentError):
        decode_step(struct.pack("<fB", 1.0, 33) + bytes(3), 3, 10)
    with pytest.raises(VectorShapeError):
        apply_step(base, indices[:2], Step(q, 1.0))
    with pytest.raises(CoordinateError):
        apply_step(base[:8], indices, Step(q, 1.0))
    with pytest.raises(NonFiniteUpdateError):
        apply_step(base, indices, Step(q, 3e38))
    with pytest.raises(NonFiniteUpdateError):
        apply_step(base + np.float32(np.nan), indices, Step(q, 1.0))
