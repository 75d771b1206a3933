"""The accountant against published figures, exact integrals and a library that shares nothing with it."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ive, logsumexp

from shoal_codecs.privacy.accountant import (
    ORDERS,
    analytic_gaussian_epsilon,
    epsilon_of,
    gaussian_rdp,
    laplace_rdp,
    sampled_gaussian_rdp,
    skellam_rdp,
)
from shoal_codecs.privacy.errors import PrivacyNumberError
from shoal_codecs.privacy.sensitivity import Sensitivity

# sigma, sampled, rounds, delta, RDP, PLD, and the upper bound of PRV (Opacus)
REFERENCE = [
    (1.0, 0.01, 1000, 1e-5, 2.1014, 1.8282, 1.8384),
    (4.0, 0.01, 10000, 1e-5, 1.0355, 0.9470, 0.9569),
    (1.3, 250 / 60000, 3600, 1e-5, 0.9422, 0.8530, 0.8630),
    (1.1, 250 / 60000, 14400, 1e-5, 2.5617, 2.3496, 2.3597),
    (2.0, 0.1, 500, 1e-6, 6.6793, 6.2167, 6.2270),
    (5.0, 0.2, 200, 1e-5, 2.5715, 2.3609, 2.3710),
    (1.0, 1.0, 1, 1e-5, 4.7285, 4.3772, 4.3874),
]
SIGMAS = st.floats(0.5, 50)


def sampled_epsilon(sigma: float, sampled: float, rounds: int, delta: float) -> float:
    return epsilon_of([rounds * sampled_gaussian_rdp(sigma, sampled, order) for order in ORDERS], delta)


@pytest.mark.parametrize(("sigma", "sampled", "rounds", "delta", "rdp", "pld", "prv"), REFERENCE)
def test_reference_values(
    sigma: float, sampled: float, rounds: int, delta: float, rdp: float, pld: float, prv: float
) -> None:
    ours = sampled_epsilon(sigma, sampled, rounds, delta)
    assert ours == pytest.approx(rdp, abs=1e-3)
    event = SelfComposedDpEvent(PoissonSampledDpEvent(sampled, GaussianDpEvent(sigma)), rounds)
    tight = PLDAccountant(value_discretization_interval=1e-3).compose(event).get_epsilon(delta)
    assert tight == pytest.approx(pld, abs=0.02)
    assert tight == pytest.approx(prv, abs=0.02)
    # Closed form may cost more than the numerical bound, never less.
    assert ours > tight


@settings(max_examples=20, deadline=None)
@given(SIGMAS, st.floats(1e-3, 0.5), st.integers(1, 2000), st.floats(1e-9, 1e-3))
def test_an_independent_accountant_finds_the_same_price(
    sigma: float, sampled: float, rounds: int, delta: float
) -> None:
    event = SelfComposedDpEvent(PoissonSampledDpEvent(sampled, GaussianDpEvent(sigma)), rounds)
    # Between whole orders their series gives up where its terms fall slowly; ours goes on.
    shared = [order for order in ORDERS if order == int(order)]
    theirs = RdpAccountant(orders=shared).compose(event).get_epsilon(delta)
    ours = [
        rounds * sampled_gaussian_rdp(sigma, sampled, order) if order in shared else math.inf
        for order in ORDERS
    ]
    assert epsilon_of(ours, delta) == pytest.approx(theirs, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("sigma", "epsilon"), [(1.0, 4.37718), (2.0, 1.99309), (4.0, 0.92634)])
def test_the_exact_price_of_one_gaussian_release(sigma: float, epsilon: float) -> None:
    assert analytic_gaussian_epsilon(sigma, 1e-5) == pytest.approx(epsilon, abs=1e-5)


@given(SIGMAS, st.floats(1e-9, 1e-2))
def test_the_closed_form_never_beats_the_exact_price(sigma: float, delta: float) -> None:
    closed = epsilon_of([gaussian_rdp(sigma, order) for order in ORDERS], delta)
    assert closed >= analytic_gaussian_epsilon(sigma, delta) - 1e-9


@given(st.floats(4, 15))
def test_skellam_noise_of_large_variance_is_gaussian_noise(sigma: float) -> None:
    levels = 1e6
    bounds = Sensitivity(levels**2, levels)
    for order in (2.0, 3.0, 8.0, 32.0):
        found = skellam_rdp((sigma * levels) ** 2, bounds, order)
        assert found == pytest.approx(gaussian_rdp(sigma, order), rel=1e-4)


@pytest.mark.parametrize(
    ("variance", "order", "price"),
    [
        # 2 * 1 / 8, and (3 * 1 + 6 * 1) / 64 of the two bounds on what integers cost more than a Gaussian.
        (4.0, 2.0, 0.25 + 0.140625),
        # 2 * 1 / 0.5, and 3 * 1 / 0.5: at this variance the other bound would be 36.
        (0.25, 2.0, 4.0 + 6.0),
    ],
)
def test_skellam_noise_is_charged_by_the_published_formula(
    variance: float, order: float, price: float
) -> None:
    assert skellam_rdp(variance, Sensitivity(1.0, 1.0), order) == pytest.approx(price)


@pytest.mark.parametrize("variance", [4.0, 9.0, 30.0, 200.0])
@pytest.mark.parametrize("shift", [1, 2, 3])
@pytest.mark.parametrize("order", [1.1, 1.5, 2.0, 3.0, 3.3, 5.0])
def test_skellam_noise_of_small_variance_costs_no_more_than_charged(
    variance: float, shift: int, order: float
) -> None:
    # The distribution itself: P(k) = exp(-v) I_k(v), summed over all that matters.
    support = np.arange(-400, 401)
    here, there = ive(np.abs(support), variance), ive(np.abs(support - shift), variance)
    held = (here > 1e-290) & (there > 1e-290)
    moment = logsumexp(order * np.log(here[held]) + (1 - order) * np.log(there[held]))
    bounds = Sensitivity(shift**2, shift)
    assert moment / (order - 1) <= skellam_rdp(variance, bounds, order) + 1e-12


@given(st.floats(1e-2, 1e9), st.integers(1, 40), st.floats(0.01, 0.99), st.integers(1, 10**4))
def test_between_whole_orders_skellam_noise_costs_what_convexity_gives(
    variance: float, whole: int, share: float, levels: int
) -> None:
    """The theorem is for whole orders: between two of them only the chord of (order - 1) RDP is proven."""
    bounds = Sensitivity(levels**2, levels)
    at = [order and order * skellam_rdp(variance, bounds, order + 1.0) for order in (whole - 1, whole)]
    chord = (at[0] + share * (at[1] - at[0])) / (whole - 1 + share)
    assert skellam_rdp(variance, bounds, whole + share) == pytest.approx(chord, rel=1e-9)


@given(st.floats(0.2, 5), st.lists(st.floats(0, 3), min_size=2, max_size=5), st.sampled_from(ORDERS))
def test_laplace_noise_hides_a_vector_at_the_price_of_its_whole_l1_norm(
    scale: float, shifts: list[float], order: float
) -> None:
    """One coordinate that moves by the whole norm costs the most: the price is charged for that."""
    moved = [shift for shift in shifts if shift > 1e-6]
    apart = sum(laplace_rdp(scale / shift, order) for shift in moved)
    assert apart <= (laplace_rdp(scale / sum(moved), order) if moved else 0.0) + 1e-9


@given(st.floats(0.2, 20), st.sampled_from(ORDERS))
def test_laplace_noise_costs_at_most_its_pure_price(scale: float, order: float) -> None:
    assert 0 <= laplace_rdp(scale, order) <= 1 / scale + 1e-12


def test_laplace_noise_costs_its_pure_price_in_the_limit() -> None:
    assert laplace_rdp(2.0, 1024.0) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize("bad", [0.0, -1.0, math.inf, math.nan])
def test_noise_that_is_none_has_no_price(bad: float) -> None:
    for price in (gaussian_rdp, laplace_rdp):
        with pytest.raises(PrivacyNumberError, match="positive"):
            price(bad, 2.0)
    with pytest.raises(PrivacyNumberError, match="positive"):
        skellam_rdp(bad, Sensitivity(1, 1), 2.0)
    with pytest.raises(PrivacyNumberError):
        epsilon_of([0.0] * len(ORDERS), bad)


@pytest.mark.parametrize("sampled", [-0.1, 1.1, math.nan])
def test_a_sampling_probability_that_is_none(sampled: float) -> None:
    with pytest.raises(PrivacyNumberError, match="sampling"):
        sampled_gaussian_rdp(1.0, sampled, 2.0)
