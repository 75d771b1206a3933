"""Shamir's sharing and the size of neighbourhoods, against arithmetic written another way."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from shoal_codecs.secagg.single.errors import NeighbourhoodError, ShamirError, ThresholdError
from shoal_codecs.secagg.single.fields import field_for
from shoal_codecs.secagg.single.parameters import Neighbourhood, neighbourhood
from shoal_codecs.secagg.single.shamir import join_secret, split_secret

SECRET = bytes(range(64))
POLYNOMIALS = {8: 0x11B, 16: 0x1100B}


def schoolbook(one: int, other: int, bits: int) -> int:
    """Multiply polynomials first, and divide by the field's afterwards."""
    product = 0
    for place in range(bits):
        if other >> place & 1:
            product ^= one << place
    for place in range(2 * bits, bits - 1, -1):
        if product >> place & 1:
            product ^= POLYNOMIALS[bits] << (place - bits)
    return product


@pytest.mark.parametrize("holders", [10, 300])
@given(data=st.data())
def test_products_are_those_of_the_schoolbook(holders: int, data: st.DataObject) -> None:
    field = field_for(holders)
    elements = st.integers(0, field.order)
    one, other = data.draw(elements), data.draw(elements)
    left, right = (np.array([value], dtype=field.dtype) for value in (one, other))
    product = field.multiply(left, right)
    assert int(product[0]) == schoolbook(one, other, field.bits)
    if other:
        assert int(field.divide(product, right)[0]) == one


def test_the_products_of_the_standard() -> None:
    # FIPS 197, section 4.2: {57} x {83} = {c1}, {57} x {13} = {fe}.
    field = field_for(3)
    found = field.multiply(np.array([0x57, 0x57], np.uint8), np.array([0x83, 0x13], np.uint8))
    assert found.tolist() == [0xC1, 0xFE]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_threshold_of_shares_gives_the_secret(data: st.DataObject) -> None:
    holders = data.draw(st.integers(1, 40) | st.integers(250, 300))
    threshold = data.draw(st.integers(1, min(holders, 40)))
    secret = data.draw(st.binary(min_size=2, max_size=64).filter(lambda one: len(one) % 2 == 0))
    shares = split_secret(secret, holders, threshold)
    assert {len(share) for share in shares} == {len(secret)}
    places = data.draw(st.lists(st.integers(1, holders), min_size=threshold, max_size=holders, unique=True))
    assert join_secret({place: shares[place - 1] for place in places}, holders, threshold) == secret


def test_a_share_is_the_polynomial_s_value() -> None:
    """Two coefficients per byte, worked out by hand: value = drawn * point + secret."""
    drawn = bytes([7, 200])
    shares = split_secret(b"\x05\x90", 3, 2, lambda count: drawn[:count])
    for point, share in enumerate(shares, start=1):
        expected = [schoolbook(drawn[place], point, 8) ^ b"\x05\x90"[place] for place in (0, 1)]
        assert list(share) == expected


def test_one_share_too_few_says_nothing() -> None:
    """With 2 of 3 missing, a share of zeros and one of anything else are equally likely to be any byte."""
    for secret in (bytes(64), bytes([255]) * 64):
        seen = Counter(byte for _ in range(400) for byte in split_secret(secret, 3, 3)[0])
        assert chisquare([seen[value] for value in range(256)]).pvalue > 1e-6
    shares = split_secret(SECRET, 5, 3)
    with pytest.raises(ThresholdError, match="3 are needed"):
        join_secret({1: shares[0], 2: shares[1]}, 5, 3)


def test_what_fits_no_polynomial_is_refused() -> None:
    for holders, threshold in ((3, 0), (3, 4), (0, 0), (65_536, 2)):
        with pytest.raises(ShamirError, match="no sharing"):
            split_secret(SECRET, holders, threshold)
    with pytest.raises(ShamirError, match="0 bytes"):
        split_secret(b"", 3, 2)
    with pytest.raises(ShamirError, match="even"):
        split_secret(b"odd", 300, 2)
    shares = split_secret(SECRET, 3, 2)
    with pytest.raises(ShamirError, match="one length"):
        join_secret({1: shares[0], 2: shares[1][:-2]}, 3, 2)
    for stranger in (0, 4):
        with pytest.raises(ShamirError, match="holders 1 to 3"):
            join_secret({stranger: shares[0], 2: shares[1]}, 3, 2)


@pytest.mark.parametrize(
    ("devices", "corrupt", "dropout", "honest_but_curious", "active"),
    [
        (50, 0.1, 0.1, (22, 6), (22, 14)),
        (50, 0.2, 0.1, (32, 11), (32, 22)),
        (50, 0.2, 0.3, (49, 11), (49, 30)),
        (100, 0.1, 0.1, (32, 11), (32, 22)),
        (100, 0.2, 0.1, (44, 21), (44, 33)),
        (100, 0.2, 0.3, (70, 21), (82, 52)),
        (1000, 0.1, 0.1, (48, 27), (96, 67)),
        (1000, 0.2, 0.1, (68, 44), (140, 104)),
        (1000, 0.2, 0.3, (140, 67), (644, 410)),
    ],
)
def test_neighbourhoods(
    devices: int,
    corrupt: float,
    dropout: float,
    honest_but_curious: tuple[int, int],
    active: tuple[int, int],
) -> None:
    assert neighbourhood(devices, corrupt, dropout, active=False) == Neighbourhood(*honest_but_curious)
    assert neighbourhood(devices, corrupt, dropout) == Neighbourhood(*active)


def test_two_sets_of_survivors_share_an_honest_neighbour() -> None:
    for devices in (10, 40, 100, 400):
        found = neighbourhood(devices, 0.1, 0.1)
        passive = neighbourhood(devices, 0.1, 0.1, active=False)
        corrupt_at_most = passive.threshold - 1
        assert 2 * found.threshold > found.neighbours + min(corrupt_at_most, round(0.1 * devices)) - 1


@pytest.mark.parametrize(("devices", "corrupt", "dropout"), [(10, 0.5, 0.5), (4, 0.0, 0.9), (1, 0.0, 0.0)])
def test_a_cohort_that_cannot_keep_a_secret_is_refused(devices: int, corrupt: float, dropout: float) -> None:
    with pytest.raises(NeighbourhoodError, match=r"mode 'hubs'|no cohort"):
        neighbourhood(devices, corrupt, dropout)
