"""Ring encoding: order of operations, exact sums at the bounds, refused overflow."""

import math
from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.updates.base import Float32Vector
from shoal_codecs.updates.errors import (
    ExampleCountError,
    NonFiniteUpdateError,
    RingOverflowError,
    RingSpecError,
    RingSumRangeError,
    VectorShapeError,
    WordWidthError,
)
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.ring import (
    RingSpec,
    decode_sum,
    encode_ring,
    handy_bits,
    pack_ring,
    ring_bits_for,
    unpack_ring,
)
from shoal_codecs.updates.ring_levels import Chosen, write_levels
from shoal_codecs.updates.rounding import Draws
from shoal_codecs.updates.short_levels import write_short_levels
from shoal_codecs.updates.step import step_from_sum

SPEC = RingSpec(
    dimension=200,
    kept=50,
    clip_norm=2.0,
    clamp=127,
    ring_bits=12,
    n_max=10,
    weight_cap=150,
    seed=bytes(range(32)),
)


def add(encoded: list[Words], bits: int) -> Words:
    total = np.zeros(encoded[0].shape, dtype=np.uint64)
    for words in encoded:
        total += words
    summed: Words = (total % 2**bits).astype(encoded[0].dtype)
    return summed


def vector(number: int, scale: float = 0.01) -> Float32Vector:
    return np.random.default_rng(number).normal(scale=scale, size=200).astype(np.float32)


@pytest.mark.parametrize(
    ("n_max", "clamp", "bits"), [(10, 127, 12), (258, 127, 16), (259, 127, 17), (1, 1, 2)]
)
def test_the_narrowest_ring_that_holds_the_sum(n_max: int, clamp: int, bits: int) -> None:
    assert ring_bits_for(n_max, clamp) == bits
    wide = replace(SPEC, n_max=n_max, clamp=clamp, ring_bits=bits)
    assert wide.n_max * wide.clamp < 2 ** (bits - 1)
    if bits > 2:
        with pytest.raises(RingOverflowError):
            replace(wide, ring_bits=bits - 1)


def test_an_overflow_is_refused_with_its_numbers() -> None:
    assert replace(SPEC, n_max=16).n_max == 16
    with pytest.raises(RingOverflowError, match=r"17 devices .* 127 .* 2159.* 12 bits .* 2048"):
        replace(SPEC, n_max=17)
    # Exactly half the ring: +2048 and -2048 would be one word.
    with pytest.raises(RingOverflowError):
        replace(SPEC, n_max=16, clamp=128)
    assert ring_bits_for(16, 128) == 13
    with pytest.raises(RingOverflowError, match="33 bits"):
        ring_bits_for(2**24, 255)


@pytest.mark.parametrize("bits", [2, 3, 7, 8, 9, 12, 16, 17, 31, 32])
@pytest.mark.parametrize("sign", [1, -1])
def test_every_device_at_the_clamp_with_maximal_weight_sums_exactly(bits: int, sign: int) -> None:
    clamp = min(127, 2 ** (bits - 1) - 1)
    n_max = min((2 ** (bits - 1) - 1) // clamp, 300)
    spec = replace(
        SPEC, clamp=clamp, ring_bits=bits, n_max=n_max, weight_cap=10**6, clip_norm=1e9,
        range_factor=1e-6,
    )  # fmt: skip
    # Weighted, rescaled and scaled, this is far over the clamp.
    update = np.full(200, sign * 1e12, dtype=np.float32)
    rng = np.random.default_rng(0)
    encoded = [encode_ring(update, 10**7, spec, rng) for _ in range(n_max)]
    total = decode_sum(add(encoded, bits), spec)
    assert (total.q == sign * n_max * clamp).all()
    assert total.weight == n_max * 10**6


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([(8, 127), (8, 1), (12, 7), (12, 127), (16, 127), (16, 7), (17, 127), (24, 7), (31, 127)])
)
def test_as_many_devices_as_the_ring_holds_sum_exactly_and_one_more_is_refused(ring: tuple[int, int]) -> None:
    bits, clamp = ring
    most = (2 ** (bits - 1) - 1) // clamp
    assert ring_bits_for(most, clamp) == bits
    assert ring_bits_for(most + 1, clamp) == bits + 1
    spec = replace(
        SPEC, clamp=clamp, ring_bits=bits, n_max=most, weight_cap=1, clip_norm=1e9, range_factor=1e-6
    )
    for sign in (1, -1):
        word = encode_ring(np.full(200, sign * 1e12, np.float32), 1, spec, np.random.default_rng(0))
        # n equal words add up to n times the word; the packed sum is what a hub sends.
        total = (word.astype(np.uint64) * most % 2**bits).astype(word.dtype)
        total = unpack_ring(pack_ring(total, bits), total.size, bits)
        summed = decode_sum(total, spec)
        assert (summed.q == sign * most * clamp).all()
        assert summed.weight == most
    with pytest.raises(RingOverflowError, match=rf"{most + 1} devices .*{clamp}"):
        replace(spec, n_max=most + 1)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 32), st.data())
def test_sums_of_weights_never_carry(bits: int, data: st.DataObject) -> None:
    n_max = data.draw(st.integers(1, min(2 ** (bits - 1) - 1, 40)))
    cap = data.draw(st.integers(1, 2**20))
    spec = replace(SPEC, clamp=1, ring_bits=bits, n_max=n_max, weight_cap=cap)
    counts = data.draw(st.lists(st.integers(1, 2**21), min_size=1, max_size=n_max))
    rng = np.random.default_rng(0)
    zero = np.zeros(200, dtype=np.float32)
    encoded = [encode_ring(zero, count, spec, rng) for count in counts]
    assert spec.limb_base**spec.limbs > cap
    total = decode_sum(add(encoded, bits), spec)
    assert total.weight == sum(min(count, cap) for count in counts)
    assert not total.q.any()


def test_the_digits_round_takes_one_limb() -> None:
    assert (SPEC.limb_base, SPEC.limbs, SPEC.words) == (410, 1, 51)


def test_the_step_is_the_weighted_mean_without_bias() -> None:
    updates = [(vector(1), 30), (vector(2), 150), (vector(3), 400)]
    rng = np.random.default_rng(4)
    draws = 3000
    mean = np.zeros(50)
    for _ in range(draws):
        encoded = [encode_ring(update, examples, SPEC, rng) for update, examples in updates]
        step = step_from_sum(decode_sum(add(encoded, 12), SPEC), SPEC)
        mean += step.q * np.float64(step.scale)
    weights = np.array([30, 150, 150])
    expected = sum(
        weight / weights.sum() * update[SPEC.coordinates].astype(np.float64) * 4
        for weight, (update, _) in zip(weights, updates, strict=True)
    )
    # Three roundings of half a level each at most.
    deviation = step.scale * 0.5 * math.sqrt(3 / draws)
    assert (np.abs(mean / draws - expected) < 6 * deviation).all()


def test_clipping_follows_weight_and_rescale() -> None:
    # Rescaled by 4, this norm of 1 is over the clip of 2; a light device stays under it.
    update = np.zeros(200, dtype=np.float32)
    update[SPEC.coordinates[0]] = 1.0
    spec = replace(SPEC, clamp=2**20, ring_bits=32, n_max=1, range_factor=8.0)
    rng = np.random.default_rng(0)
    full = decode_sum(encode_ring(update, 150, spec, rng), spec)
    light = decode_sum(encode_ring(update, 15, spec, rng), spec)
    assert full.q[0] / spec.levels_per_unit == pytest.approx(2.0, rel=1e-4)
    assert light.q[0] / spec.levels_per_unit == pytest.approx(0.4, rel=1e-4)


def test_scale_follows_the_range() -> None:
    # r = 6 C / sqrt(k) stands for level L.
    assert pytest.approx(127 / (6 * 2.0 / math.sqrt(50))) == SPEC.levels_per_unit


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32), st.floats(0.001, 1.0), st.integers(1, 1000))
def test_one_update_is_within_one_level_of_what_was_meant(number: int, scale: float, examples: int) -> None:
    update = vector(number, scale)
    words = encode_ring(update, examples, SPEC, np.random.default_rng(number))
    total = decode_sum(words, SPEC)
    meant = update[SPEC.coordinates].astype(np.float64) * min(examples, 150) / 150 * 4
    meant *= min(1.0, SPEC.clip_norm / float(np.linalg.norm(meant)))
    meant = np.clip(meant * SPEC.levels_per_unit, -127, 127)
    assert (np.abs(total.q - meant) < 1).all()


def test_rounding_under_noise_keeps_the_norm_bound() -> None:
    # Every value lies halfway between two levels at the clip norm: one draw in six is too long.
    spec = replace(SPEC, clip_norm=1.0, clamp=3, range_factor=2.0)
    reach, root = spec.clip_norm * spec.levels_per_unit, math.sqrt(50)
    bound = min((reach + root) ** 2, reach**2 + 50 / 4 + reach + root / 2)
    update = np.full(200, 1.0, dtype=np.float32)
    for noise, kept in ((1.0, True), (0.0, False)):
        chosen = replace(spec, noise=noise)
        rng = np.random.default_rng(0)
        with mock.patch("shoal_codecs.updates.ring.add_noise"):
            norms = [
                float((decode_sum(encode_ring(update, 150, chosen, rng), chosen).q ** 2).sum())
                for _ in range(500)
            ]
        assert (max(norms) <= bound) is kept


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_diverged_update_is_refused_wherever_it_shows(bad: float) -> None:
    update = vector(1)
    update[np.setdiff1d(np.arange(200), SPEC.coordinates)[0]] = bad
    with pytest.raises(NonFiniteUpdateError):
        encode_ring(update, 10, SPEC, np.random.default_rng(0))


def test_the_largest_finite_update_is_clipped_not_broken() -> None:
    update = np.full(200, np.finfo(np.float32).max)
    total = decode_sum(encode_ring(update, 150, SPEC, np.random.default_rng(0)), SPEC)
    norm = np.linalg.norm(total.q / SPEC.levels_per_unit)
    assert norm == pytest.approx(SPEC.clip_norm, rel=0.05)


def test_bad_arguments_are_named() -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(ExampleCountError):
        encode_ring(vector(1), 0, SPEC, rng)
    with pytest.raises(VectorShapeError):
        encode_ring(vector(1)[:-1], 5, SPEC, rng)
    for change in (
        {"kept": 0},
        {"kept": 201},
        {"clip_norm": 0.0},
        {"clip_norm": math.nan},
        {"range_factor": math.inf},
        {"clamp": 0},
        {"n_max": 0},
        {"weight_cap": 0},
        {"seed": bytes(31)},
        {"ring_bits": 1},
        {"ring_bits": 33},
    ):
        with pytest.raises(RingSpecError):
            replace(SPEC, **change)
    with pytest.raises(RingSpecError):
        ring_bits_for(0, 127)


def test_sums_no_cohort_can_reach_are_refused() -> None:
    words = encode_ring(vector(1), 10, SPEC, np.random.default_rng(0))
    decode_sum(words, SPEC)
    with pytest.raises(VectorShapeError):
        decode_sum(words[:-1], SPEC)
    with pytest.raises(VectorShapeError):
        decode_sum(words.astype(np.uint32), SPEC)
    for position, value, error in (
        (0, 1271, RingSumRangeError),
        (0, 4096 - 1271, RingSumRangeError),
        (50, 0, RingSumRangeError),
        (50, 1501, RingSumRangeError),
        (3, 4096, WordWidthError),
    ):
        damaged = words.copy()
        damaged[position] = value
        with pytest.raises(error):
            decode_sum(damaged, SPEC)


@pytest.mark.parametrize("clamp", [127, 1 << 20])
def test_rounding_has_no_bias_and_leaves_whole_levels_alone(clamp: int) -> None:
    spec = RingSpec(
        dimension=200_000, kept=200_000, clip_norm=1e6, clamp=clamp, ring_bits=24, n_max=4,
        weight_cap=1, seed=bytes(32), range_factor=1.0,
    )  # fmt: skip
    unit = np.float32(1 / spec.levels_per_unit)
    rng = np.random.default_rng(5)
    for level in (0.0, 0.25, 3.0, -0.75, -5.5, 100.125):
        update = np.full(spec.dimension, level * unit, np.float32)
        words = encode_ring(update, 1, spec, rng)[: spec.kept]
        levels = (words.astype(np.int32) << 8) >> 8
        # Six standard errors; a whole level may miss by what float32 rounded off.
        share = level - math.floor(level)
        slack = 6 * math.sqrt(max(share * (1 - share), 1e-5) / spec.dimension)
        assert levels.mean() == pytest.approx(level, abs=slack)
        assert set(np.unique(levels)) <= {math.floor(level), math.floor(level) + 1, round(level)}


def is_short(update: Float32Vector, factor: float, bound: float) -> bool:
    words, draws = np.empty(update.size, np.uint16), Draws(np.random.default_rng(0))
    return write_short_levels(words, update, factor, draws, clamp=127, bits=16, bound=bound)


@settings(deadline=None, max_examples=60)
@given(st.floats(-4e-3, 4e-3), st.integers(0, 2**16), st.integers(0, 1))
def test_a_norm_is_only_skipped_where_it_is_surely_short(off: float, seed: int, exponent: int) -> None:
    # Norms this close to the bound are what the quick look in float32 must leave to the exact one.
    update = np.random.default_rng(seed).normal(size=20_000).astype(np.float32) * np.float32(1e-8**exponent)
    exact = float(np.linalg.norm(update.astype(np.float64))) * 1e-3
    bound = exact * (1 + off)
    if is_short(update, 1e-3, bound):
        assert exact < bound
    assert not is_short(update, 1e-3, exact * 0.9999)
    assert is_short(update, 1e-3, exact * 1.01)


@pytest.mark.parametrize("value", [3e38, np.inf, np.nan])
@pytest.mark.parametrize("place", [0, 69_999])
def test_what_is_too_long_or_no_number_is_left_to_the_exact_way(value: float, place: int) -> None:
    update = np.zeros(70_000, np.float32)
    update[place] = value
    assert not is_short(update, 1.0, 1e37)
    assert not is_short(update, 1e-3, 1e30)
    assert not is_short(update, 1e300, 1e307)


def test_a_lone_value_beyond_the_clamp_is_cut_wherever_it_lies() -> None:
    spec = replace(SPEC, dimension=70_000, kept=70_000, clip_norm=2.0)
    for place in (0, 32_767, 32_768, 69_999):
        for sign in (-1.0, 1.0):
            update = np.zeros(70_000, np.float32)
            update[place] = sign * 1.9
            words = encode_ring(update, 150, spec, np.random.default_rng(1))
            level = int(words[place])
            assert (level - 4096 if level >= 2048 else level) == sign * 127


def test_a_ring_takes_whole_words_where_they_cost_less_than_an_eighth() -> None:
    widened = {bits: found for bits in range(2, 33) if (found := handy_bits(bits, "hubs")) != bits}
    assert widened == {15: 16, 29: 32, 30: 32, 31: 32}
    assert handy_bits(15, "single") == 15


@pytest.mark.parametrize("level", [1.0, -1.0, 3.0, -31.0, 60.0])
def test_what_float32_puts_beside_a_whole_level_is_still_that_level(level: float) -> None:
    for side in (-np.inf, np.inf):
        update = np.full(300_000, np.nextafter(np.float32(level), np.float32(side)))
        words: Words = np.empty(update.size, np.uint16)
        draws = Draws(np.random.default_rng(2))
        assert write_short_levels(words, update, 1.0, draws, clamp=127, bits=16, bound=1e5)
        assert (words.view(np.int16) == level).all()


@pytest.mark.parametrize("place", [0, 65_535, 69_999])
@pytest.mark.parametrize("value", [-65_539.0, 65_539.0, -127.5, 127.5])
def test_a_short_update_far_beyond_the_clamp_is_cut(value: float, place: int) -> None:
    # Ten million coordinates at the clip norm have room for a level that 16 bits do not hold.
    update = np.zeros(70_000, np.float32)
    update[place] = value
    for dtype, bits in ((np.uint8, 8), (np.uint16, 12), (np.uint16, 16), (np.uint32, 24)):
        words: Words = np.empty(update.size, dtype)
        draws = Draws(np.random.default_rng(0))
        assert write_short_levels(words, update, 1.0, draws, clamp=127, bits=bits, bound=2e6)
        assert int(words[place]) == math.copysign(127, value) % 2**bits
        assert np.count_nonzero(words) == 1


@given(st.integers(0, 2**32 - 1), st.sampled_from([3, 63, 127]), st.sampled_from([12, 16, 24]), st.booleans())
def test_short_updates_round_like_others(seed: int, clamp: int, bits: int, aes: bool) -> None:  # noqa: FBT001
    """Up to 2**-17 of a level from the exact value: so near the same draws give neighbours at most."""
    rng = np.random.default_rng(seed)
    update = rng.standard_normal(3000).astype(np.float32) * np.float32(rng.uniform(1e-6, 2))
    factor = float(rng.uniform(0.1, 3) * clamp)
    bound = float(np.linalg.norm(update.astype(np.float64))) * factor * 1.01
    exact, short = np.empty((2, 3000), np.uint32 if bits > 16 else np.uint16)
    with mock.patch("shoal_codecs.security.stream_cipher.has_aes", return_value=aes):
        write_levels(exact, Chosen(update, None), factor, np.random.default_rng(seed), clamp=clamp, bits=bits)
        draws = Draws(np.random.default_rng(seed))
        assert write_short_levels(short, update, factor, draws, clamp=clamp, bits=bits, bound=bound)
    levels = [(words.astype(np.int64) << 64 - bits) >> 64 - bits for words in (exact, short)]
    apart = np.abs(levels[0] - levels[1])
    assert apart.max() <= 1
    assert np.count_nonzero(apart) <= 10
    assert np.abs(levels[1]).max() <= clamp
