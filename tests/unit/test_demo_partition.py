from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.partition import MIN_EXAMPLES, dirichlet_split
from shoal_coordinator.demo.partition import write_shards


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.sampled_from([0.1, 0.3, 1.0, 100.0]), st.integers(0, 2**31))
def test_every_example_goes_to_one_device(devices: int, concentration: float, seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 10, 800).astype(np.uint8)
    split = dirichlet_split(labels, devices, concentration, np.random.default_rng(seed))
    assert sorted(np.concatenate(split)) == list(range(800))
    assert min(map(len, split)) >= min(MIN_EXAMPLES, 800 // (2 * devices))


def test_low_concentration_skews_labels_and_high_does_not() -> None:
    labels = np.repeat(np.arange(10, dtype=np.uint8), 200)

    def skew(concentration: float) -> float:
        split = dirichlet_split(labels, 10, concentration, np.random.default_rng(5))
        shares = [np.bincount(labels[part], minlength=10) / len(part) for part in split]
        return float(np.mean([share.max() for share in shares]))

    assert skew(0.3) > 0.3
    assert skew(1000.0) < 0.2


def test_shards_are_written_once_and_kept(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = tmp_path / "all.npz"
    np.savez(
        source, x=rng.integers(0, 17, (300, 64), dtype=np.uint8), y=rng.integers(0, 10, 300, dtype=np.uint8)
    )
    targets = [tmp_path / f"d{i}" / "shard.npz" for i in range(3)]
    counts = write_shards(source, targets, seed=1)
    before = [target.read_bytes() for target in targets]
    assert sum(counts) == 300
    assert write_shards(source, targets, seed=2) == counts
    assert [target.read_bytes() for target in targets] == before


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_seed_splits_the_same(seed: int) -> None:
    labels = np.random.default_rng(9).integers(0, 10, 500).astype(np.uint8)
    first = dirichlet_split(labels, 10, 0.3, np.random.default_rng(seed))
    again = dirichlet_split(labels, 10, 0.3, np.random.default_rng(seed))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
