"""A fit's own source of chance: whole orders, numbers within their bounds, and no two alike."""

import numpy as np

from shoal_codecs.updates.base import Chance
from shoal_edge.trainers.base import RandomSource
from shoal_edge.trainers.fit_loop import SEEDS
from shoal_edge.trainers.system_random import SystemRandom


def test_an_order_has_every_number_once_and_is_another_each_time() -> None:
    source: RandomSource = SystemRandom()
    orders = [source.permutation(1000) for _ in range(2)]
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert (orders[0] != orders[1]).any()
    assert len(source.permutation(0)) == 0


def test_every_place_is_as_likely_for_every_number() -> None:
    source = SystemRandom()
    counts = np.zeros((4, 4))
    for _ in range(4000):
        counts[np.arange(4), source.permutation(4)] += 1
    # Five standard deviations of a binomial count.
    assert np.abs(counts - 1000).max() < 5 * np.sqrt(4000 * 3 / 16)


def test_fractions_are_uniform_and_octets_are_as_many_as_asked_for() -> None:
    source: Chance = SystemRandom()
    found = source.random(10_000)
    assert 0 <= found.min() < 0.01
    assert 0.99 < found.max() < 1
    assert abs(found.mean() - 0.5) < 5 / np.sqrt(12 * 10_000)
    assert len({source.bytes(32) for _ in range(3)} | {bytes(32)}) == 4


def test_numbers_are_within_their_bounds_and_reach_them() -> None:
    source = SystemRandom()
    found = source.integers(-2, 3, 2000, np.int32)
    assert found.dtype == np.int32
    assert set(found.tolist()) == {-2, -1, 0, 1, 2}
    seeds = source.integers(0, SEEDS, 100, np.int32)
    assert 0 <= seeds.min() < 1 << 29 < seeds.max() < SEEDS
