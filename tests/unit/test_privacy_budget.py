"""Charges of plans, budgets over rounds, and the wrong ways that cost too much."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.privacy import budget
from shoal_codecs.privacy.accountant import ORDERS, gaussian_rdp, skellam_rdp
from shoal_codecs.privacy.charge import Charge, charge_of, sensitivity_of
from shoal_codecs.privacy.errors import (
    BudgetExceededError,
    BudgetUnreachableError,
    FleetTooSmallError,
    PrivacyNumberError,
    UnprivatePlanError,
)
from shoal_codecs.privacy.ledger import FOLDED, HEADER, Entry, Ledger, decode_ledger, encode_ledger
from shoal_codecs.privacy.sensitivity import Sensitivity, ring_sensitivity, rounded_l2_squared
from shoal_codecs.updates.ring import RingSpec, decode_sum, encode_ring
from wire_parts import codec_plan, plain_plan, plan, private_plan

DELTA, ROUNDS = 1e-5, 50


def gaussian(sigma: float) -> Charge:
    return Charge(tuple(gaussian_rdp(sigma, order) for order in ORDERS))


def skellam(sigma: float) -> Charge:
    """Return the price of Skellam noise of ``sigma`` times a clip norm of a million levels."""
    bounds = Sensitivity(1e12, 1e6)
    return Charge(tuple(skellam_rdp((sigma * 1e6) ** 2, bounds, order) for order in ORDERS))


def price_of(sigma: float) -> float:
    return gaussian(sigma).times(ROUNDS).epsilon(DELTA)


@pytest.mark.parametrize(("epsilon", "sigma"), [(8.0, 4.55), (4.0, 8.2), (2.0, 15.2)])
def test_the_noise_of_fifty_rounds(epsilon: float, sigma: float) -> None:
    found = budget.noise_for(gaussian, epsilon, DELTA, ROUNDS)
    assert found == pytest.approx(sigma, rel=0.01)
    assert price_of(found) <= epsilon
    assert price_of(found * 0.999) > epsilon


@pytest.mark.parametrize(("share", "worst"), [(0.2, 69), (0.1, 250), (0.05, 977)])
def test_wrong_way_clipping_before_the_rescale(share: float, worst: float) -> None:
    """One device then moves the sum by 1/p: the budget of 8 is worth nothing."""
    sigma = budget.noise_for(skellam, 8.0, DELTA, ROUNDS)
    assert skellam(sigma * share).times(ROUNDS).epsilon(DELTA) == pytest.approx(worst, rel=0.04)


def test_wrong_way_levels_too_coarse_for_so_many_coordinates() -> None:
    """A million roundings outweigh 127 levels: noise for these alone made 26 of 8 in a trial, 51 at most."""
    sigma = budget.noise_for(skellam, 8.0, DELTA, ROUNDS)
    for levels, least, most in ((127.0, 26, 51), (4000.0, 8, 8.2)):
        bounds = ring_sensitivity(levels, 10**6)
        priced = Charge(tuple(skellam_rdp((sigma * levels) ** 2, bounds, order) for order in ORDERS))
        assert least < priced.times(ROUNDS).epsilon(DELTA) < most


@pytest.mark.parametrize("share", [0.2, 0.1, 0.05])
def test_the_ring_clips_after_the_rescale(share: float) -> None:
    kept = int(1000 * share)
    spec = RingSpec(1000, kept, 4.0, 127, 16, 3, 1, b"s" * 32)
    update = np.zeros(1000, dtype=np.float32)
    update[:] = 50.0
    levels = decode_sum(encode_ring(update, 1, spec, np.random.default_rng(1)), spec).q
    reach = spec.clip_norm * spec.levels_per_unit
    assert np.linalg.norm(levels) <= reach + math.sqrt(kept)


def test_wrong_way_counting_the_noise_of_corrupt_devices() -> None:
    sigma = budget.noise_for(skellam, 8.0, DELTA, ROUNDS)
    assert skellam(sigma * math.sqrt(0.8)).times(ROUNDS).epsilon(DELTA) == pytest.approx(9.2, abs=0.05)


def test_wrong_way_a_retry_for_nothing() -> None:
    """Another plan is charged again, also on the same base; the same plan is not."""
    charge, ledger = gaussian(10.0), Ledger()
    first = Entry(b"m" * 32, b"t" * 32, 1, 0, charge)
    assert ledger.book(first)
    assert not ledger.book(first)
    once = ledger.spent(DELTA)
    assert ledger.book(Entry(b"n" * 32, b"t" * 32, 2, 0, charge))
    assert ledger.spent(DELTA) == pytest.approx(charge.times(2).epsilon(DELTA))
    assert ledger.spent(DELTA) > once


def test_wrong_way_a_retry_that_reuses_its_noise() -> None:
    """Two sums whose cohorts differ by one device: what differs is its update and its own part of the noise.

    With 80 parts one such pair costs more than the 50 rounds. ``encode_ring`` cannot: it stores no noise and
    draws anew at each call.
    """
    sigma = budget.noise_for(skellam, 8.0, DELTA, ROUNDS)
    assert skellam(sigma / math.sqrt(80)).epsilon(DELTA) == pytest.approx(10.7, abs=0.05)


@given(st.integers(1, 400), st.sampled_from(["one", "halves", "random"]), st.integers(0, 2**32))
def test_rounding_keeps_its_bound_for_vectors_made_to_break_it(kept: int, kind: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    spec = RingSpec(kept, kept, 1.0, 127, 16, 3, 1, b"s" * 32, noise=1.0)
    vector = {
        "one": np.eye(1, kept, dtype=np.float32)[0],
        # Half a level everywhere: rounding moves it the furthest.
        "halves": np.full(kept, 0.5 / spec.levels_per_unit, dtype=np.float32),
        "random": rng.normal(size=kept).astype(np.float32),
    }[kind]
    with mock.patch("shoal_codecs.updates.ring.add_noise"):
        levels = decode_sum(encode_ring(vector, 1, spec, rng), spec).q.astype(np.float64)
    bounds = ring_sensitivity(spec.clip_norm * spec.levels_per_unit, kept)
    assert levels @ levels <= bounds.l2_squared
    assert np.abs(levels).sum() <= bounds.l1 + 1e-9


def test_the_bound_is_the_published_one() -> None:
    reach, kept = 1000.0, 10_000
    assert rounded_l2_squared(reach, kept) == pytest.approx(reach**2 + kept / 4 + 1.0 * (reach + 50.0))
    with pytest.raises(PrivacyNumberError, match="reach"):
        ring_sensitivity(0.0, 10)


def test_a_plan_without_noise_has_no_price() -> None:
    with pytest.raises(UnprivatePlanError, match="adds no noise"):
        charge_of(plan())


@pytest.mark.parametrize(
    ("mechanism", "noise", "range_factor"),
    [
        ("skellam", 1e6, 1e-300),
        ("skellam", 1e300, 6.0),
        ("skellam", 1e-300, 6.0),
        ("local-gaussian", 1e-200, 6.0),
        ("local-gaussian", 1e200, 6.0),
        ("local-laplace", 1e-308, 6.0),
    ],
)
def test_numbers_that_cannot_be_counted_with_are_named(
    mechanism: str, noise: float, range_factor: float
) -> None:
    kind = plan if mechanism == "skellam" else plain_plan
    made = kind(
        privacy=private_plan(mechanism=mechanism, noise=noise), codec=codec_plan(range_factor=range_factor)
    )
    with pytest.raises(PrivacyNumberError):
        charge_of(made)


def test_every_coordinate_that_travels_is_charged() -> None:
    bare, bit = plan(privacy=private_plan()), plan(privacy=private_plan(clip_bit=20))
    full = plan(privacy=private_plan(clip_bit=20, metric_levels=30))
    base = sensitivity_of(bare).l2_squared
    assert sensitivity_of(bit).l2_squared == pytest.approx(base + 400)
    assert sensitivity_of(full).l2_squared == pytest.approx(base + 400 + 2 * 900)
    prices = [charge_of(one).epsilon(DELTA) for one in (bare, bit, full)]
    assert prices == sorted(prices)
    assert len(set(prices)) == 3


def test_the_clip_norm_itself_costs_nothing() -> None:
    """Noise is counted in levels, and the levels of the clip norm do not hang on the norm."""
    one, other = (plan(privacy=private_plan(), codec=codec_plan(clip_norm=c)) for c in (1.0, 8.0))
    assert charge_of(one) == charge_of(other)


def test_more_noise_costs_less_whatever_the_mechanism() -> None:
    for mechanism in ("skellam", "central", "local-gaussian", "local-laplace"):
        kind = plan if mechanism == "skellam" else plain_plan
        little, much = (
            charge_of(kind(privacy=private_plan(mechanism=mechanism, noise=noise))).epsilon(DELTA)
            for noise in (1e6, 4e6)
        )
        assert much < little, mechanism


@given(st.floats(1.0, 40.0), st.floats(0.5, 10.0), st.integers(1, 300))
def test_the_largest_number_of_rounds_is_the_one_that_is_named(
    sigma: float, epsilon: float, rounds: int
) -> None:
    charge = gaussian(sigma)
    fit = budget.rounds_within(charge, epsilon, DELTA)
    if fit:
        assert charge.times(fit).epsilon(DELTA) <= epsilon
    assert charge.times(fit + 1).epsilon(DELTA) > epsilon
    if rounds <= fit:
        budget.refuse_unless_kept(charge, rounds, epsilon, DELTA)
    else:
        with pytest.raises(BudgetExceededError, match=f": {fit} rounds would fit"):
            budget.refuse_unless_kept(charge, rounds, epsilon, DELTA)


def test_what_was_spent_leaves_fewer_rounds() -> None:
    charge = gaussian(10.0)
    whole = budget.rounds_within(charge, 4.0, DELTA)
    assert budget.rounds_within(charge, 4.0, DELTA, spent=charge.times(3)) == whole - 3


def test_budgets_that_are_none() -> None:
    for epsilon, rounds in ((0.0, 1), (math.nan, 1), (1.0, 0)):
        with pytest.raises(PrivacyNumberError, match="no budget"):
            budget.noise_for(gaussian, epsilon, DELTA, rounds)
    with pytest.raises(BudgetUnreachableError, match="raise epsilon"):
        budget.noise_for(lambda _noise: gaussian(0.1), 1.0, DELTA, 1)


@pytest.mark.parametrize(("fleet", "delta"), [(10, 1e-5), (10_000, 1e-5), (1_000_000, 1e-7)])
def test_delta_follows_the_fleet(fleet: int, delta: float) -> None:
    assert budget.default_delta(fleet) == pytest.approx(delta)


def test_small_fleets_are_refused_or_warned() -> None:
    with pytest.raises(FleetTooSmallError, match="50 or more"):
        budget.judge_fleet(49, 8.0)
    assert "learn little" in budget.judge_fleet(49, 8.0, allow_small=True)
    assert "learn slowly" in budget.judge_fleet(99, 8.0)
    assert budget.judge_fleet(100, 8.0) == ""
    assert budget.judge_fleet(10, 30.0) == ""


# --- the ledger ---------------------------------------------------------------------------------


def entries(count: int) -> list[Entry]:
    return [
        Entry(bytes([n]) * 32, b"t" * 32, n, 1_700_000_000_000 + n, gaussian(20.0 + n)) for n in range(count)
    ]


def test_a_ledger_comes_back_from_its_file() -> None:
    written = encode_ledger(Ledger(entries(5)))
    ledger = decode_ledger(written)
    assert ledger.exhausted == ""
    assert list(ledger.entries.values()) == entries(5)
    assert ledger.spent(DELTA) == Ledger(entries(5)).spent(DELTA)
    assert decode_ledger(HEADER).spent(DELTA) == 0.0
    # A file that lost what it held is no new one.
    assert "damaged" in decode_ledger(b"").exhausted


def test_old_entries_are_summed_and_nothing_is_forgiven() -> None:
    whole = Ledger(entries(7))
    folded = decode_ledger(encode_ledger(whole.folded(3)))
    assert len(folded.entries) == 4
    assert folded.total.rdp == pytest.approx(whole.total.rdp)
    assert [entry.round for entry in folded.entries.values()] == [3, 4, 5, 6]
    assert FOLDED in folded.folded(1).entries
    assert folded.folded(1).total.rdp == pytest.approx(whole.total.rdp)
    assert whole.folded(7) is whole


def test_a_missing_ledger_is_a_spent_one() -> None:
    ledger = decode_ledger(None)
    assert ledger.spent(DELTA) == math.inf
    with pytest.raises(BudgetExceededError, match="missing"):
        ledger.check(b"m" * 32, gaussian(100.0), 8.0, DELTA)


def test_a_cut_anywhere_never_lowers_what_was_spent() -> None:
    written = encode_ledger(Ledger(entries(3)))
    ends = {len(encode_ledger(Ledger(entries(count)))) for count in range(4)}
    for size in range(len(written)):
        ledger = decode_ledger(written[:size])
        # Only a cut between two records cannot be seen; it is the state before the later debit was answered.
        assert bool(ledger.exhausted) == (size not in ends)


@given(st.data())
def test_a_changed_byte_is_seen(data: st.DataObject) -> None:
    written = bytearray(encode_ledger(Ledger(entries(2))))
    place = data.draw(st.integers(0, len(written) - 1))
    written[place] ^= data.draw(st.integers(1, 255))
    assert "damaged" in decode_ledger(bytes(written)).exhausted


def test_a_charge_beyond_the_budget_is_refused_and_a_known_plan_is_not() -> None:
    ledger = Ledger(entries(2))
    with pytest.raises(BudgetExceededError, match=r"the device allows 0\.2"):
        ledger.check(b"m" * 32, gaussian(20.0), 0.2, DELTA)
    ledger.check(entries(2)[0].plan_hash, gaussian(20.0), 0.2, DELTA)
    ledger.check(b"m" * 32, gaussian(20.0), 8.0, DELTA)


@pytest.mark.parametrize("rdp", [(), (1.0,) * 3, (-1.0,) * len(ORDERS), (math.inf,) * len(ORDERS)])
def test_what_is_no_price_is_refused(rdp: tuple[float, ...]) -> None:
    with pytest.raises(PrivacyNumberError, match="finite numbers"):
        Charge(rdp)
