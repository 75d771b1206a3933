"""Budgets of bytes: formulas against real payloads, the codec that fits, and days that are used up."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.updates.base import EncodeContext, kept_for
from shoal_codecs.updates.levels import pack_levels
from shoal_codecs.updates.registry import SPARSE, codec
from shoal_codecs.updates.ring import RingSpec, encode_ring, handy_bits, pack_ring, ring_bits_for
from shoal_codecs.updates.step import quantise
from shoal_codecs.wire.packing import pack, unpack
from shoal_coordinator.algorithms.robust import Median
from shoal_coordinator.byte_budget import DAY_MS, MOST_BYTES, ByteDays, DayRow, pick_codec, smallest_cost
from shoal_coordinator.byte_estimate import (
    PLAIN_CHOICES,
    SHARED_CHOICES,
    CodecChoice,
    round_bytes,
    share_bytes,
    step_bytes,
)
from shoal_coordinator.planning import PlanSettings
from shoal_coordinator.round_errors import NoCodecFitsError

HUBS, PLAIN = PlanSettings(fleet="f", mode="hubs"), PlanSettings(fleet="f", mode="plain")
NOW = 100 * DAY_MS + 5000


def update(dimension: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.random.default_rng(dimension).normal(scale=0.01, size=dimension).astype(np.float32)


@pytest.mark.parametrize("choice", SHARED_CHOICES, ids=lambda one: one.text)
@pytest.mark.parametrize(("dimension", "devices"), [(9610, 10), (200_000, 300)])
def test_shared_payloads_are_as_long_as_the_formula_says(
    choice: CodecChoice, dimension: int, devices: int
) -> None:
    settings = choice.applied(HUBS)
    kept = kept_for(dimension, settings.kept_share)
    bits = handy_bits(ring_bits_for(devices, settings.clamp), settings.mode)
    spec = RingSpec(dimension, kept, 4.0, settings.clamp, bits, devices, settings.weight_cap, bytes(32))
    words = encode_ring(update(dimension), 50, spec, np.random.default_rng(0))
    assert len(pack_ring(words, bits)) == share_bytes(settings, dimension, devices)
    moved = quantise(np.random.default_rng(1).normal(size=kept), 0.5)
    assert len(pack_levels(moved.q)) == pytest.approx(
        step_bytes(settings, dimension, devices), rel=0.06, abs=10
    )


@pytest.mark.parametrize("choice", [*PLAIN_CHOICES, CodecChoice("int8"), CodecChoice("int4"),
                                    CodecChoice("randk", 0.1), CodecChoice("randk4", 0.1)],
                         ids=lambda one: one.text)  # fmt: skip
@pytest.mark.parametrize("dimension", [9610, 200_000])
def test_plain_payloads_are_as_long_as_the_formula_says(choice: CodecChoice, dimension: int) -> None:
    settings = choice.applied(PLAIN)
    kept = kept_for(dimension, settings.kept_share) if settings.codec in SPARSE else dimension
    context = EncodeContext(dimension, kept, seed=bytes(32), rng=np.random.default_rng(0))
    payload = codec(settings.codec).encode(update(dimension), context).payload
    assert len(payload) == pytest.approx(share_bytes(settings, dimension, 10), rel=0.03)


def test_every_choice_is_smaller_than_the_one_before() -> None:
    for settings, choices in ((HUBS, SHARED_CHOICES), (PLAIN, PLAIN_CHOICES)):
        ups = [share_bytes(one.applied(settings), 100_000, 40) for one in choices]
        assert ups == sorted(ups, reverse=True)


@given(st.sampled_from([HUBS, PLAIN]), st.integers(1000, 3_000_000), st.integers(3, 400), st.floats(1e3, 1e8))
def test_what_is_picked_fits_and_nothing_better_would(
    settings: PlanSettings, dimension: int, devices: int, allowance: float
) -> None:
    choices = PLAIN_CHOICES if settings.mode == "plain" else SHARED_CHOICES
    costs = [round_bytes(one.applied(settings), dimension, devices).total for one in choices]
    first = round_bytes(settings, dimension, devices).total
    least = min([first, *costs])
    if least > allowance:
        with pytest.raises(NoCodecFitsError, match=rf"{least} bytes .*leaves {allowance:.0f}\b") as caught:
            pick_codec(settings, dimension, devices, allowance, hubs=2)
        assert caught.value.smallest.cost.total == least
        return
    picked = pick_codec(settings, dimension, devices, allowance, hubs=2)
    assert picked.cost.total == round_bytes(picked.settings, dimension, devices).total <= allowance
    if first > allowance:
        # The largest of those that fit.
        assert picked.cost.total == next(cost for cost in costs if cost <= min(allowance, first))
    else:
        assert picked.settings == settings


def test_with_noise_no_other_codec_is_taken() -> None:
    dense = CodecChoice("randk", 1.0, 8).applied(HUBS)
    assert pick_codec(dense, 9610, 10, 5000, hubs=2).settings.kept_share < 0.2
    with pytest.raises(NoCodecFitsError, match="100 %"):
        pick_codec(dense, 9610, 10, 5000, hubs=2, fixed=True)
    assert smallest_cost(dense, 9610, 10, hubs=2, fixed=True) == round_bytes(dense, 9610, 10)


def test_a_codec_that_the_algorithm_refuses_is_not_taken() -> None:
    settings = msgspec.structs.replace(PLAIN, refused_codecs=Median.refused_codecs)
    dense = round_bytes(settings, 100_000, 10, 2).total
    with pytest.raises(NoCodecFitsError) as caught:
        pick_codec(settings, 100_000, 10, 1000.0, hubs=2)
    assert caught.value.smallest.settings.codec not in {"topk", "topk4"}
    assert smallest_cost(settings, 100_000, 10, hubs=2).total <= dense
    assert (
        smallest_cost(settings, 100_000, 10, hubs=2).total > smallest_cost(PLAIN, 100_000, 10, hubs=2).total
    )


def test_the_tightest_budget_and_the_cadence_decide() -> None:
    days = ByteDays(100_000, {"buoy": 20_000, "mast": 0})
    days.declare("mill", 50_000)
    days.declare("buoy", 90_000)
    names = ("buoy", "mast", "mill", "other")
    assert [days.budget(name) for name in names] == [20_000, 0, 50_000, 100_000]
    # Before two rounds have begun nothing is known of the cadence but the pause.
    assert days.allowance(names, pause_ms=DAY_MS // 4) == 5_000
    assert days.allowance(("mast",), pause_ms=0) == math.inf
    for number in range(5):
        days.opened(NOW + number * DAY_MS // 10)
    assert days.rounds_per_day(0) == pytest.approx(10)
    assert days.allowance(names, pause_ms=0) == pytest.approx(2_000)
    days.declare("mill", 0)
    assert days.budget("mill") == 100_000


def test_a_day_is_counted_from_what_devices_count_and_begins_anew() -> None:
    days = ByteDays(1_000)
    days.counted("buoy", 700, 9_000, NOW)
    assert days.used("buoy", NOW) == 0
    days.counted("buoy", 900, 9_300, NOW + 1)
    days.counted("buoy", 900, 9_300, NOW + 2)
    assert days.used("buoy", NOW + 2) == 500
    # The agent started again and counts from nothing.
    days.counted("buoy", 30, 70, NOW + 3)
    assert days.used("buoy", NOW + 3) == 600
    assert days.over({"buoy", "other"}, 400, NOW + 3) == frozenset()
    assert days.over({"buoy", "other"}, 401, NOW + 3) == {"buoy"}
    again = ByteDays(1_000)
    again.restore(days.snapshot())
    again.counted("buoy", 40, 80, NOW + 4)
    assert again.used("buoy", NOW + 4) == 620
    tomorrow = NOW + DAY_MS
    assert again.used("buoy", tomorrow) == 0
    again.counted("buoy", 45, 80, tomorrow)
    assert again.used("buoy", tomorrow) == 5


def test_no_budget_leaves_nobody_out() -> None:
    days = ByteDays()
    days.declare("buoy", 0)
    found = [days.is_any]
    days.declare("mast", 5)
    assert [*found, days.is_any] == [False, True]
    days.counted("buoy", 0, 0, NOW)
    days.counted("buoy", 10**12, 0, NOW)
    assert days.over({"buoy"}, 10**9, NOW) == frozenset()


@given(st.lists(st.tuples(st.integers(), st.integers()), max_size=30))
def test_whatever_a_device_counts_can_be_stored(totals: list[tuple[int, int]]) -> None:
    """Heartbeats are not signed: anybody with the device's topic may send numbers of any size."""
    days = ByteDays(1_000)
    for place, (sent, received) in enumerate(totals):
        days.counted("buoy", sent, received, NOW + place)
    for _ in range(3):
        days.counted("buoy", 0, 0, NOW)
        days.counted("buoy", 1 << 80, -(1 << 80), NOW)
    assert 0 <= days.used("buoy", NOW) <= MOST_BYTES
    again = ByteDays(1_000)
    again.restore(unpack(pack(days.snapshot()), dict[str, DayRow]))
    assert again.used("buoy", NOW) == days.used("buoy", NOW)
