"""Shared coordinates: the same for everybody, for years."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chacha20_reference import chacha20_keystream
from shoal_codecs.updates import coordinates
from shoal_codecs.updates.coordinates import rand_coordinates
from shoal_codecs.updates.errors import CodecContextError, CoordinateError

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "coordinates.json").read_text(encoding="utf-8"))


def reference(seed: bytes, dimension: int, count: int) -> list[int]:
    key = hashlib.sha256(b"shoal/rand-coordinates/v1\x00" + seed).digest()
    stream = chacha20_keystream(key, 8 * dimension)
    words = [int.from_bytes(stream[8 * i : 8 * i + 8], "little") for i in range(dimension)]
    return sorted(sorted(range(dimension), key=lambda i: (words[i], i))[:count])


@settings(deadline=None, max_examples=60)
@given(st.binary(min_size=32, max_size=32), st.data())
def test_matches_an_independent_computation(seed: bytes, data: st.DataObject) -> None:
    dimension = data.draw(st.integers(1, 200))
    count = data.draw(st.integers(1, dimension))
    assert rand_coordinates(seed, dimension, count).tolist() == reference(seed, dimension, count)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"{v['count']}-of-{v['dimension']}")
def test_committed_vectors(vector: dict[str, str | int | list[int]]) -> None:
    seed, dimension = bytes.fromhex(str(vector["seed"])), vector["dimension"]
    count = vector["count"]
    assert isinstance(dimension, int)
    assert isinstance(count, int)
    indices = rand_coordinates(seed, dimension, count)
    assert indices[:8].tolist() == vector["first_8"]
    digest = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()
    assert digest == vector["sha256_of_int64_le"]


def test_a_threshold_that_falls_short_does_not_change_the_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = rand_coordinates(bytes(32), 5000, 250)
    monkeypatch.setattr(coordinates, "_likely_ceiling", lambda _dimension, _count: 2**40)
    assert np.array_equal(rand_coordinates(bytes(32), 5000, 250), expected)


def test_of_equal_words_the_lower_index_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def few_values(
        _key: bytes, count: int, _dtype: np.dtype[np.uint64]
    ) -> Iterator[tuple[int, npt.NDArray[np.uint64]]]:
        yield 0, (np.arange(count) % 3).astype(np.uint64)

    monkeypatch.setattr(coordinates, "keystream_pieces", few_values)
    # Words 0 1 2 0 1 2 0 1 2: three zeros, then the first two ones.
    assert rand_coordinates(bytes(32), 9, 5).tolist() == [0, 1, 3, 4, 6]


def test_every_coordinate_is_equally_likely() -> None:
    rng = np.random.default_rng(3)
    drawn = np.zeros(100)
    for _ in range(4000):
        drawn[rand_coordinates(rng.bytes(32), 100, 10)] += 1
    # Each is Binomial(4000, 0.1), standard deviation 19; six of them on a fixed seed.
    assert np.abs(drawn - 400).max() < 6 * 19


def test_bad_arguments_are_named() -> None:
    with pytest.raises(CodecContextError):
        rand_coordinates(bytes(31), 10, 2)
    for dimension, count in ((10, 0), (10, 11), (0, 0), (2**31, 1)):
        with pytest.raises(CoordinateError):
            rand_coordinates(bytes(32), dimension, count)
