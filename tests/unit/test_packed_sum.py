"""Sums of packed shares: the same bytes as words added one by one, whatever the width."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.secagg.errors import RingWidthError, ShareLengthError
from shoal_codecs.secagg.packed_sum import PackedSum
from shoal_codecs.updates.bitpack import pack_words, word_dtype
from shoal_codecs.updates.errors import PayloadContentError
from shoal_codecs.updates.keystream import Words

QUICK = settings(deadline=None, max_examples=150)


def shares(bits: int, count: int, number: int, seed: int) -> list[Words]:
    rng = np.random.default_rng(seed)
    drawn: list[Words] = [rng.integers(0, 1 << bits, count).astype(word_dtype(bits)) for _ in range(number)]
    # All bits set carries the furthest.
    drawn[0][:] = (1 << bits) - 1
    return drawn


def by_hand(words: list[Words], bits: int) -> list[int]:
    total = np.zeros(words[0].size, np.uint64)
    for one in words:
        total += one
    return [int(word) % 2**bits for word in total]


@QUICK
@given(st.integers(2, 32), st.integers(1, 200), st.integers(1, 20), st.integers(0, 2**32))
def test_packed_shares_add_up_like_their_words(bits: int, count: int, number: int, seed: int) -> None:
    given_words, total = shares(bits, count, number, seed), PackedSum(count, bits)
    for words in given_words:
        total.add(pack_words(words, bits))
    assert total.words().tolist() == by_hand(given_words, bits)
    assert total.packed() == pack_words(total.words(), bits)
    assert total.reports == number


@QUICK
@given(st.integers(2, 32), st.integers(1, 200), st.integers(2, 12), st.integers(0, 2**32))
def test_what_is_taken_out_was_never_there(bits: int, count: int, number: int, seed: int) -> None:
    given_words, total = shares(bits, count, number, seed), PackedSum(count, bits)
    for words in given_words:
        total.add(pack_words(words, bits))
    total.subtract(pack_words(given_words[0], bits))
    assert total.words().tolist() == by_hand(given_words[1:], bits)


@pytest.mark.parametrize("bits", [3, 11, 15, 16, 21])
def test_sums_longer_than_a_piece(bits: int) -> None:
    given_words, total = shares(bits, 300_001, 3, bits), PackedSum(300_001, bits)
    for words in given_words:
        total.add(pack_words(words, bits))
    assert total.words().tolist() == by_hand(given_words, bits)


def test_a_sum_may_be_asked_for_at_any_time() -> None:
    given_words, total = shares(11, 99, 5, 4), PackedSum(99, 11)
    for place, words in enumerate(given_words, start=1):
        total.add(pack_words(words, 11))
        assert total.words().tolist() == by_hand(given_words[:place], 11)


def test_more_shares_than_there_is_room_for_carries() -> None:
    given_words, total = shares(5, 77, 200, 1), PackedSum(77, 5)
    given_words = [np.full(77, 31, np.uint8) for _ in given_words]
    for words in given_words:
        total.add(pack_words(words, 5))
    assert total.words().tolist() == by_hand(given_words, 5)


def test_an_erased_sum_is_zero() -> None:
    total = PackedSum(77, 15)
    total.add(pack_words(np.full(77, 32767, np.uint16), 15))
    total.erase()
    assert not any(total.packed())
    assert total.reports == 0


def test_what_is_no_share_is_refused_and_changes_nothing() -> None:
    total = PackedSum(3, 12)
    total.add(pack_words(np.array([1, 2, 3], np.uint16), 12))
    with pytest.raises(ShareLengthError):
        total.add(bytes(6))
    with pytest.raises(ShareLengthError):
        total.subtract(bytes(6))
    with pytest.raises(PayloadContentError):
        total.add(bytes(4) + b"\xff")
    assert total.words().tolist() == [1, 2, 3]
    with pytest.raises(RingWidthError):
        PackedSum(3, 33)
