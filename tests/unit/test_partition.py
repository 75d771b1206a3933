"""Splits of a data set: nothing lost, nothing twice, the same for the same seed, as skewed as they say."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.partition import Partition, PartitionError

WORDS = ("iid", "blocks", "shards:2", "shards:1", "shards:5", "dirichlet:0.1", "dirichlet:10")
LABELS = st.lists(st.integers(0, 6), min_size=60, max_size=400).map(np.array)


@settings(max_examples=60, deadline=None)
@given(LABELS, st.integers(1, 12), st.integers(0, 2**31), st.sampled_from(WORDS))
def test_every_example_goes_to_one_device(labels: np.ndarray, devices: int, seed: int, words: str) -> None:
    parts = Partition.parse(words).split(labels, devices, seed)
    assert len(parts) == devices
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert min(map(len, parts)) > 0
    again = Partition.parse(words).split(labels, devices, seed)
    assert all(np.array_equal(one, other) for one, other in zip(parts, again, strict=True))


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 40), st.integers(0, 2**31))
def test_even_parts_are_even(devices: int, seed: int) -> None:
    sizes = [len(part) for part in Partition.parse("iid").split(np.zeros(500, np.uint8), devices, seed)]
    assert max(sizes) - min(sizes) <= 1


def test_two_shards_of_mnist_are_mostly_two_labels() -> None:
    """McMahan et al. 2017, section 3: 200 shards of 300, two for each of 100 clients."""
    labels = np.random.default_rng(3).permutation(np.repeat(np.arange(10, dtype=np.uint8), 6000))
    parts = Partition.parse("shards:2").split(labels, 100, 1)
    assert {len(part) for part in parts} == {600}
    kinds = [len(np.unique(labels[part])) for part in parts]
    assert max(kinds) == 2
    assert np.mean(kinds) > 1.7


def test_blocks_keep_the_order() -> None:
    parts = Partition.parse("blocks").split(np.zeros(10, np.int32), 3, 1)
    assert [list(part) for part in parts] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9]]


def test_another_seed_splits_in_another_way() -> None:
    labels = np.repeat(np.arange(10), 50)
    for words in set(WORDS) - {"blocks"}:
        one, other = (Partition.parse(words).split(labels, 5, seed) for seed in (1, 2))
        assert any(not np.array_equal(a, b) for a, b in zip(one, other, strict=True)), words


@pytest.mark.parametrize(
    "words",
    [
        "",
        "even",
        "blocks:2",
        "shards",
        "shards:0",
        "shards:1.5",
        "dirichlet:0",
        "dirichlet:nan",
        "shards:x",
    ],
)
def test_words_that_name_no_partition_are_refused(words: str) -> None:
    with pytest.raises(PartitionError, match=r"take iid, blocks, shards:2 or dirichlet:0\.3"):
        Partition.parse(words)


def test_data_that_cannot_be_split_so_is_refused() -> None:
    with pytest.raises(PartitionError, match="too few"):
        Partition.parse("iid").split(np.zeros(3, np.int32), 4, 1)
    with pytest.raises(PartitionError, match="no 8 shards"):
        Partition.parse("shards:2").split(np.zeros(5, np.int32), 4, 1)
    values: Any
    for values in (np.zeros(9, np.float32), np.zeros((9, 2), np.int32)):
        with pytest.raises(PartitionError, match="take iid"):
            Partition.parse("dirichlet:1").split(values, 4, 1)
