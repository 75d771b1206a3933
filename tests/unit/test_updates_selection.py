"""The coordinates of codec ``global_topk``: led by the last step, explored by the seed, and unbiased."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from shoal_codecs.updates.coordinates import rand_coordinates
from shoal_codecs.updates.errors import CoordinateError, PayloadLengthError, UnledRoundError, UpdateError
from shoal_codecs.updates.levels import pack_levels
from shoal_codecs.updates.model_step import (
    largest_moves,
    leading_coordinates,
    pack_leading,
    step_selection,
)
from shoal_codecs.updates.ring import RingSpec, decode_sum, encode_ring
from shoal_codecs.updates.selection import Selection, largest, leading_count, select_coordinates
from shoal_codecs.updates.step import step_from_sum
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.plan import CodecPlan
from shoal_codecs.wire.step import ModelStep, encode_step, initial_step

QUICK = settings(deadline=None, max_examples=150)
SEED = bytes(range(32))
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "updates.json").read_text(encoding="utf-8"))
Indices = npt.NDArray[np.int64]


def indices(*values: int) -> Indices:
    return np.array(values, dtype=np.int64)


@st.composite
def cases(draw: st.DrawFn) -> tuple[int, int, Indices]:
    dimension = draw(st.integers(2, 300))
    kept = draw(st.integers(1, dimension))
    led = draw(st.integers(0, kept - 1))
    leading = draw(st.sets(st.integers(0, dimension - 1), min_size=led, max_size=led))
    return dimension, kept, np.array(sorted(leading), dtype=np.int64)


@QUICK
@given(cases(), st.binary(min_size=32, max_size=32))
def test_leading_and_explored_are_disjoint_and_as_many_as_asked(
    case: tuple[int, int, Indices], seed: bytes
) -> None:
    dimension, kept, leading = case
    chosen = select_coordinates(seed, dimension, kept, leading)
    assert chosen.indices.dtype == np.int64
    assert chosen.indices.size == kept
    assert (np.diff(chosen.indices) > 0).all()
    assert 0 <= chosen.indices[0] <= chosen.indices[-1] < dimension
    assert set(leading) <= set(chosen.indices)
    marked = chosen.indices[chosen.is_leading] if chosen.is_leading is not None else indices()
    assert marked.tolist() == leading.tolist()
    assert (chosen.explored, chosen.unled) == (kept - leading.size, dimension - leading.size)


def test_explored_coordinates_are_the_seeds_ranks_among_the_rest() -> None:
    leading = indices(0, 3, 4, 9)
    rest = np.setdiff1d(np.arange(12), leading)
    chosen = select_coordinates(SEED, 12, 7, leading)
    expected = np.sort(np.concatenate((leading, rest[rand_coordinates(SEED, 8, 3)])))
    assert chosen.indices.tolist() == expected.tolist()


@pytest.mark.parametrize("given", VECTORS["selections"], ids=lambda v: str(v["dimension"]))
def test_committed_selections_are_still_chosen(given: dict[str, Any]) -> None:
    leading = indices(*given["leading"])
    chosen = select_coordinates(bytes.fromhex(given["seed"]), given["dimension"], given["kept"], leading)
    assert chosen.indices.tolist() == given["indices"]
    assert chosen.factor == given["factor"]
    assert pack_leading(chosen).hex() == given["packed"]


def test_without_leading_coordinates_it_is_rand_k() -> None:
    chosen = select_coordinates(SEED, 500, 50)
    assert np.array_equal(chosen.indices, rand_coordinates(SEED, 500, 50))
    values = np.ones(50)
    chosen.rescale(values)
    assert (values == 10).all()


@pytest.mark.parametrize("bad", [(3, 3), (4, 2), (-1, 2), (5, 20), (1, 2, 3, 4, 5)])
def test_leading_coordinates_that_do_not_fit_are_refused(bad: tuple[int, ...]) -> None:
    with pytest.raises(CoordinateError):
        select_coordinates(SEED, 20, 5, indices(*bad))


def test_the_rescaled_selection_is_unbiased_coordinate_by_coordinate() -> None:
    rng = np.random.default_rng(3)
    update = rng.normal(size=60)
    leading = np.sort(largest(np.abs(update), 8))
    draws, total = 2000, np.zeros(60)
    for _ in range(draws):
        chosen = select_coordinates(rng.bytes(32), 60, 20, leading)
        values = update[chosen.indices]
        chosen.rescale(values)
        total[chosen.indices] += values
    assert np.allclose(total[leading] / draws, update[leading])
    probability = 12 / 52
    deviation = np.abs(update) * np.sqrt(1 / probability - 1)
    assert (np.abs(total / draws - update) <= 6 * deviation / np.sqrt(draws) + 1e-12).all()
    # Rescaling every kept coordinate by D/k, as rand-k does, would triple the leading ones.
    assert np.abs(update[leading]).min() > 0.5


def test_devices_and_coordinator_of_one_ring_reach_the_weighted_mean_in_expectation() -> None:
    rng = np.random.default_rng(8)
    updates = [(rng.normal(scale=0.01, size=60).astype(np.float32), n) for n in (30, 150, 90)]
    leading = np.sort(rng.permutation(60)[:6]).astype(np.int64)
    draws, total = 1500, np.zeros(60)
    for _ in range(draws):
        spec = RingSpec(60, 12, 2.0, 127, 12, 3, 150, rng.bytes(32), leading=leading)
        words = sum(encode_ring(update, n, spec, rng).astype(np.uint32) for update, n in updates)
        step = step_from_sum(decode_sum((np.asarray(words) % 4096).astype(np.uint16), spec), spec)
        total[spec.coordinates] += step.q * np.float64(step.scale)
    mean = np.average([u for u, _ in updates], axis=0, weights=[n for _, n in updates])
    level = step.scale * 0.5 * np.sqrt(3)
    deviation = np.where(np.isin(np.arange(60), leading), level, 3 * np.abs(mean) + 3 * level)
    assert (np.abs(total / draws - mean) < 6 * deviation / np.sqrt(draws)).all()


def test_what_is_explored_counts_by_its_own_move_and_not_by_its_rescale() -> None:
    chosen = Selection(10, indices(1, 4, 6, 8), indices(1, 6), np.array([True, False, True, False]))
    assert chosen.factor == 4
    # In units before the rescale these are 5, 5, 3 and 0.
    levels = np.array([5, -20, 3, 0], dtype=np.int32)
    assert chosen.largest(levels, 2).tolist() == [1, 4]
    assert chosen.largest(levels, 1).tolist() == [1]
    assert chosen.largest(levels, 4).tolist() == [1, 4, 6]
    assert chosen.largest(np.array([5, -21, 3, 0], dtype=np.int32), 1).tolist() == [4]


def test_extreme_levels_are_compared_without_overflow() -> None:
    chosen = select_coordinates(SEED, 2**31 - 1, 3, indices(7))
    levels = np.full(3, -(2**31) + 1, dtype=np.int32)
    assert chosen.largest(levels, 1).tolist() == [7]


@QUICK
@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40), st.data())
def test_largest_takes_the_lower_of_equals(values: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(values)))
    expected = sorted(sorted(range(len(values)), key=lambda i: (-values[i], i))[:count])
    assert largest(np.array(values), count).tolist() == expected


def step_of(chosen: Selection, q: npt.NDArray[np.int32], child: bytes = b"c" * 32) -> ModelStep:
    return ModelStep(
        "randk",
        b"p" * 32,
        child,
        SEED,
        chosen.indices.size,
        0.5,
        pack_levels(q),
        chosen.leading.size,
        pack_leading(chosen),
    )


@QUICK
@given(cases())
def test_a_step_carries_its_own_coordinates(case: tuple[int, int, Indices]) -> None:
    dimension, kept, leading = case
    chosen = select_coordinates(SEED, dimension, kept, leading)
    step = step_of(chosen, np.arange(kept, dtype=np.int32))
    assert np.array_equal(step_selection(step, dimension).indices, chosen.indices)


def test_the_next_rounds_leaders_follow_from_the_encoded_step_alone() -> None:
    chosen = select_coordinates(SEED, 100, 20, indices(*range(0, 50, 5)))
    q = np.random.default_rng(2).integers(-900, 900, 20).astype(np.int32)
    step = step_of(chosen, q, b"b" * 32)
    source = encode_step(step)
    plan = CodecPlan("global_topk", 100, 20, 1.0, 7, 8, 1, source=digest_of(source))
    assert chosen.is_leading is not None
    moves = np.abs(q) * np.where(chosen.is_leading, 1.0, 10 / 90)
    expected = np.sort(chosen.indices[np.argsort(-moves, kind="stable")[:10]])
    assert leading_coordinates(source, plan, b"b" * 32).tolist() == expected.tolist()
    with pytest.raises(UnledRoundError, match="does not lead to its base"):
        leading_coordinates(source, plan, b"x" * 32)
    with pytest.raises(UnledRoundError, match="missing or another"):
        leading_coordinates(b"", plan, b"b" * 32)
    assert leading_coordinates(b"", replace(plan, source=b""), b"b" * 32).size == 0


def test_dense_and_initial_steps_lead_too() -> None:
    q = np.zeros(50, dtype=np.int32)
    q[[3, 9, 20, 44]] = (5, -20, 10, 1)
    dense = ModelStep("dense", b"p" * 32, b"c" * 32, b"", 50, 0.5, pack_levels(q))
    assert largest_moves(dense, 50, 2).tolist() == [9, 20]
    assert largest_moves(dense, 50, 9).tolist() == [3, 9, 20, 44]
    assert largest_moves(initial_step(1, b"c" * 32), 50, 5).size == 0
    with pytest.raises(CoordinateError, match="plan anew"):
        largest_moves(dense, 60, 2)


@QUICK
@given(st.integers(-3, 30), st.binary(max_size=12))
def test_foreign_leading_coordinates_are_sound_or_refused(led: int, leading: bytes) -> None:
    step = ModelStep("randk", b"p" * 32, b"c" * 32, SEED, 20, 0.5, b"", led, leading)
    try:
        chosen = step_selection(step, 40)
    except UpdateError:
        return
    assert chosen.indices.size == 20


def test_bad_step_parts_are_named() -> None:
    chosen = select_coordinates(SEED, 40, 10, indices(1, 2, 3))
    step = step_of(chosen, np.zeros(10, dtype=np.int32))
    for changed in ({"led": 10}, {"led": 0}, {"led": -1}, {"leading": b""}):
        with pytest.raises(CoordinateError):
            step_selection(replace(step, **changed), 40)
    with pytest.raises(PayloadLengthError):
        step_selection(replace(step, led=4), 40)


def test_half_of_the_kept_lead() -> None:
    assert [leading_count(kept) for kept in (1, 2, 5, 481)] == [0, 1, 2, 240]


@pytest.mark.parametrize("count", [1, 500, 40_000, 150_000])
@pytest.mark.parametrize("kind", ["normal", "coarse", "hidden", "constant"])
def test_the_largest_of_many_are_the_same_however_they_are_found(kind: str, count: int) -> None:
    rng = np.random.default_rng(6)
    values = rng.normal(size=300_000)
    if kind == "coarse":
        values = np.rint(values)
    elif kind == "hidden":
        # Large where no sample looks.
        values = np.zeros(300_000)
        values[1:20_000:18] = rng.random(values[1:20_000:18].size)
    elif kind == "constant":
        values = np.ones(300_000)
    found = largest(values, count)
    expected = np.sort(np.argsort(-values, kind="stable")[:count])
    assert np.array_equal(found, expected)
