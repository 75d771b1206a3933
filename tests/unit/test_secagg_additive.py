"""Additive sharing: exact sums, uniform views, refused misuse."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.secagg.additive import SeedSum, ShareSum, combine, split
from shoal_codecs.secagg.errors import (
    HubCountError,
    HubIndexError,
    RingWidthError,
    SeedError,
    ShareLengthError,
)
from shoal_codecs.secagg.prg import ring_dtype
from shoal_codecs.updates.keystream import Words

PLAN = bytes(range(32))
SEED = b"\x01" + bytes(32)
# Critical value of chi-square with 255 degrees of freedom: exceeded with probability 1e-6.
CHI_SQUARE_255 = 373.0


def chi_square(data: bytes) -> float:
    counts = np.bincount(np.frombuffer(data, dtype=np.uint8), minlength=256)
    expected = len(data) / 256
    return float(((counts - expected) ** 2 / expected).sum())


def seeds_from(rng: np.random.Generator, hubs: int) -> list[bytes]:
    return [bytes([rng.integers(1, 3)]) + rng.bytes(32) for _ in range(hubs - 1)]


@settings(deadline=None, max_examples=60)
@given(
    bits=st.integers(2, 32),
    hubs=st.integers(2, 4),
    devices=st.integers(1, 5),
    count=st.integers(1, 40),
    number=st.integers(0, 2**32),
)
def test_hubs_add_up_to_the_sum_of_updates(
    bits: int, hubs: int, devices: int, count: int, number: int
) -> None:
    rng = np.random.default_rng(number)
    wholes = [ShareSum(count, bits) for _ in range(hubs)]
    seeded = [SeedSum(count, bits, PLAN, index) for index in range(1, hubs + 1)]
    total = np.zeros(count, dtype=np.int64)
    for device in range(devices):
        words: Words = rng.integers(0, 2**bits, count).astype(ring_dtype(bits))
        total += words
        seeds = seeds_from(rng, hubs)
        whole = int(rng.integers(hubs))
        wholes[whole].add(split(words, bits, hubs, seeds, PLAN, f"d{device}", whole + 1))
        for hub, seed in zip([*seeded[:whole], *seeded[whole + 1 :]], seeds, strict=True):
            hub.add(f"d{device}", seed)
    assert sum(one.reports for one in wholes) == devices
    combined = combine([*(one.words for one in wholes), *(one.words for one in seeded)], bits)
    assert combined.tolist() == (total % 2**bits).tolist()


def test_split_leaves_its_input_alone() -> None:
    words: Words = np.arange(64, dtype=np.uint16)
    share = split(words, 12, 2, [SEED], PLAN, "a")
    assert words.tolist() == list(range(64))
    assert not np.array_equal(share, words)


@pytest.mark.parametrize("bits", [8, 16, 32])
def test_hub_one_sees_uniform_bytes(bits: int) -> None:
    rng = np.random.default_rng(7)
    zeros: Words = np.zeros(100_000, dtype=ring_dtype(bits))
    share = split(zeros, bits, 2, seeds_from(rng, 2), PLAN, "a")
    assert chi_square(share.tobytes()) < CHI_SQUARE_255
    assert chi_square(zeros.tobytes()) > CHI_SQUARE_255


def test_two_inputs_with_one_sum_give_indistinguishable_views() -> None:
    # Devices a and b swap their updates: the sum stays, and hub 1's view of a given round must not
    # tell which of the two it was. Both hypotheses are put to a test of the share's bytes.
    rng = np.random.default_rng(11)
    large: Words = np.full(60_000, 127, dtype=np.uint16)
    small: Words = np.full(60_000, 65_536 - 127, dtype=np.uint16)
    views = []
    for of_a, of_b in ((large, small), (small, large)):
        views.append(
            [
                split(of_a, 16, 2, seeds_from(rng, 2), PLAN, "a"),
                split(of_b, 16, 2, seeds_from(rng, 2), PLAN, "b"),
            ]
        )
    for share_of_a, share_of_b in views:
        # Subtracting either candidate leaves bytes that are just as uniform.
        for candidate in (large, small):
            assert chi_square((share_of_a - candidate).tobytes()) < CHI_SQUARE_255
            assert chi_square((share_of_b - candidate).tobytes()) < CHI_SQUARE_255
    counts = [np.bincount(view[0].view(np.uint8), minlength=256) for view in views]
    difference = counts[0] - counts[1]
    assert float((difference**2 / (counts[0] + counts[1])).sum()) < CHI_SQUARE_255


def test_bad_arguments_are_named() -> None:
    words: Words = np.zeros(8, dtype=np.uint16)
    with pytest.raises(HubCountError):
        split(words, 12, 1, [], PLAN, "a")
    with pytest.raises(HubCountError):
        split(words, 12, 3, [SEED], PLAN, "a")
    with pytest.raises(SeedError):
        split(words, 12, 3, [SEED, SEED], PLAN, "a")
    with pytest.raises(SeedError):
        split(words, 12, 2, [SEED[:-1]], PLAN, "a")
    with pytest.raises(RingWidthError):
        split(words.astype(np.uint32), 12, 2, [SEED], PLAN, "a")
    with pytest.raises(RingWidthError):
        split(words + np.uint16(4096), 12, 2, [SEED], PLAN, "a")
    with pytest.raises(RingWidthError):
        ShareSum(8, 33)
    for whole in (0, 3):
        with pytest.raises(HubIndexError):
            split(words, 12, 2, [SEED], PLAN, "a", whole)


def test_a_refused_share_changes_nothing() -> None:
    total = ShareSum(8, 12)
    total.add(np.ones(8, dtype=np.uint16))
    before = total.words.copy()
    with pytest.raises(ShareLengthError):
        total.add(np.zeros(9, dtype=np.uint16))
    with pytest.raises(RingWidthError):
        total.add(np.full(8, 4096, dtype=np.uint16))
    hub = SeedSum(8, 12, PLAN, 2)
    with pytest.raises(SeedError):
        hub.add("a", b"short")
    assert np.array_equal(total.words, before)
    assert (total.reports, hub.reports) == (1, 0)


def test_combine_refuses_missing_and_unequal_sums() -> None:
    words: Words = np.zeros(8, dtype=np.uint16)
    with pytest.raises(HubCountError):
        combine([words], 12)
    with pytest.raises(ShareLengthError):
        combine([words, words[:7]], 12)
    with pytest.raises(RingWidthError):
        combine([words, words.astype(np.uint8)], 12)
