"""Bit packing and coordinate coding: round trips, sizes, and bytes nobody wrote."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.updates.bitpack import pack_words, packed_size, unpack_words, word_dtype
from shoal_codecs.updates.errors import (
    CoordinateError,
    PayloadContentError,
    PayloadLengthError,
    UpdateError,
    VectorShapeError,
    WordWidthError,
)
from shoal_codecs.updates.indexcode import IndexCoding, pack_indices, unpack_indices
from shoal_codecs.updates.ring import pack_ring, unpack_ring

QUICK = settings(deadline=None, max_examples=150)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "updates.json").read_text(encoding="utf-8"))


def packed_by_hand(words: list[int], bits: int) -> bytes:
    number = sum(word << (place * bits) for place, word in enumerate(words))
    return number.to_bytes((len(words) * bits + 7) // 8, "little")


@QUICK
@given(st.integers(1, 32), st.data())
def test_words_round_trip_in_the_documented_layout(bits: int, data: st.DataObject) -> None:
    words = data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=70))
    packed = pack_words(np.array(words, dtype=word_dtype(bits)), bits)
    assert packed == packed_by_hand(words, bits)
    unpacked = unpack_words(packed, len(words), bits)
    assert unpacked.dtype == word_dtype(bits)
    assert unpacked.tolist() == words


@pytest.mark.parametrize("vector", VECTORS["packed_words"], ids=lambda v: f"w{v['bits']}")
def test_packed_words_are_the_committed_bytes(vector: dict[str, int | str | list[int]]) -> None:
    bits, words = vector["bits"], vector["words"]
    assert isinstance(bits, int)
    assert isinstance(words, list)
    assert pack_words(np.array(words, dtype=word_dtype(bits)), bits).hex() == vector["packed"]
    assert unpack_words(bytes.fromhex(str(vector["packed"])), len(words), bits).tolist() == words


@pytest.mark.parametrize("vector", VECTORS["coordinates"], ids=lambda v: v["coding"])
def test_committed_coordinates_still_decode(vector: dict[str, int | str | list[int]]) -> None:
    indices, dimension = vector["indices"], vector["dimension"]
    assert isinstance(indices, list)
    assert isinstance(dimension, int)
    packed = bytes.fromhex(str(vector["packed"]))
    assert unpack_indices(packed, len(indices), dimension).tolist() == indices
    assert pack_indices(np.array(indices, dtype=np.int64), dimension) == packed


@QUICK
@given(st.integers(1, 32), st.integers(1, 70), st.binary(max_size=300))
def test_foreign_bytes_unpack_or_are_refused_by_name(bits: int, count: int, data: bytes) -> None:
    try:
        words = unpack_words(data, count, bits)
    except UpdateError:
        return
    assert pack_words(words, bits) == data


def test_foreign_bytes_of_the_right_length_still_need_clean_padding() -> None:
    assert unpack_words(b"\xff\x0f", 1, 12).tolist() == [4095]
    with pytest.raises(PayloadContentError):
        unpack_words(b"\xff\x1f", 1, 12)


def test_a_wrong_length_is_refused_before_the_words_are_allocated() -> None:
    with pytest.raises(PayloadLengthError):
        unpack_ring(b"\x00", 2**50, 12)


def test_bad_words_and_widths_are_named() -> None:
    with pytest.raises(WordWidthError):
        pack_words(np.array([4096], dtype=np.uint16), 12)
    with pytest.raises(VectorShapeError):
        pack_words(np.array([1], dtype=np.uint32), 12)
    with pytest.raises(VectorShapeError):
        pack_words(np.array([[1]], dtype=np.uint16), 12)
    for bits in (1, 33):
        with pytest.raises(WordWidthError):
            pack_ring(np.array([1], dtype=np.uint8), bits)
        with pytest.raises(WordWidthError):
            unpack_ring(b"\x00", 1, bits)


@st.composite
def coordinate_sets(draw: st.DrawFn) -> tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int]:
    dimension = draw(st.integers(1, 5000) | st.just(2**31 - 1))
    chosen = draw(st.sets(st.integers(0, dimension - 1), min_size=1, max_size=min(dimension, 200)))
    return np.array(sorted(chosen), dtype=np.int64), dimension


@QUICK
@given(coordinate_sets())
def test_coordinates_round_trip(
    case: tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int],
) -> None:
    indices, dimension = case
    packed = pack_indices(indices, dimension)
    assert len(packed) <= 2 + (dimension + 7) // 8
    assert len(packed) <= 2 + 5 * len(indices)
    assert np.array_equal(unpack_indices(packed, len(indices), dimension), indices)


@pytest.mark.parametrize(
    ("indices", "dimension", "coding"),
    [
        (np.arange(0, 4000, 2), 4000, IndexCoding.BITMAP),
        (np.sort(np.random.default_rng(0).permutation(10**5)[:5000]), 10**5, IndexCoding.RICE),
        (np.append(np.arange(100), 2**30), 2**31 - 1, IndexCoding.VARINT),
    ],
)
def test_the_smallest_coding_is_chosen(
    indices: np.ndarray[tuple[int], np.dtype[np.int64]], dimension: int, coding: IndexCoding
) -> None:
    packed = pack_indices(indices, dimension)
    assert packed[0] == coding
    assert np.array_equal(unpack_indices(packed, len(indices), dimension), indices)


def test_random_coordinates_come_near_their_entropy() -> None:
    dimension, count = 200_000, 10_000
    indices = np.sort(np.random.default_rng(1).permutation(dimension)[:count])
    p = count / dimension
    entropy = dimension * -(p * np.log2(p) + (1 - p) * np.log2(1 - p)) / 8
    assert len(pack_indices(indices, dimension)) < 1.04 * entropy


@QUICK
@given(st.binary(max_size=60), st.integers(1, 30), st.integers(30, 400))
def test_foreign_coordinates_are_sound_or_refused_by_name(data: bytes, count: int, dimension: int) -> None:
    try:
        indices = unpack_indices(data, count, dimension)
    except UpdateError:
        return
    assert indices.shape == (count,)
    assert (np.diff(indices) > 0).all()
    assert indices[0] >= 0
    assert indices[-1] < dimension


@QUICK
@given(coordinate_sets(), st.data())
def test_damaged_coordinates_are_sound_or_refused_by_name(
    case: tuple[np.ndarray[tuple[int], np.dtype[np.int64]], int], data: st.DataObject
) -> None:
    indices, dimension = case
    packed = bytearray(pack_indices(indices, dimension))
    at = data.draw(st.integers(0, len(packed) - 1))
    packed[at] ^= data.draw(st.integers(1, 255))
    try:
        decoded = unpack_indices(packed, len(indices), dimension)
    except UpdateError:
        return
    assert (np.diff(decoded) > 0).all()
    assert decoded[-1] < dimension


def test_what_is_not_a_coordinate_set_is_refused() -> None:
    for bad in ([], [-1, 2], [3, 3], [3, 2], [0, 10]):
        with pytest.raises(CoordinateError):
            pack_indices(np.array(bad, dtype=np.int64), 10)
    with pytest.raises(CoordinateError):
        unpack_indices(bytes((IndexCoding.VARINT, 0, 9, 0)), 2, 10)
    with pytest.raises(PayloadContentError):
        unpack_indices(bytes((IndexCoding.VARINT, 1, 9, 0)), 2, 10)
    with pytest.raises(PayloadContentError):
        unpack_indices(bytes((9, 0, 9, 0)), 2, 10)
    with pytest.raises(PayloadContentError):
        unpack_indices(bytes((IndexCoding.VARINT, 0, 128, 128, 128, 128, 128, 0)), 1, 10)
    with pytest.raises(PayloadContentError):
        unpack_indices(bytes((IndexCoding.RICE, 31, 1, 1, 1, 1, 1)), 1, 10)


@pytest.mark.parametrize(("words", "size"), [(481, 722), (482, 723)])
def test_a_share_of_the_digits_model_has_this_size(words: int, size: int) -> None:
    assert packed_size(words, 12) == size
    assert len(pack_ring(np.zeros(words, dtype=np.uint16), 12)) == size


@pytest.mark.parametrize("bits", [1, 3, 8, 11, 15, 16, 17, 24, 31, 32])
@pytest.mark.parametrize("count", [64, 1 << 16, (1 << 16) + 64, (1 << 17) + 77])
def test_pieces_and_groups_join_without_a_seam(bits: int, count: int) -> None:
    words = np.random.default_rng(bits).integers(0, 1 << bits, count).astype(word_dtype(bits))
    kept = words.copy()
    packed = pack_words(words, bits)
    by_bit = np.unpackbits(words.astype("<u4").view(np.uint8).reshape(-1, 4), axis=1, bitorder="little")
    assert packed == np.packbits(by_bit[:, :bits].ravel(), bitorder="little").tobytes()
    assert np.array_equal(unpack_words(packed, count, bits), words)
    assert np.array_equal(words, kept)
