"""What is drawn without numpy's generators is what they draw."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.pcg64 import Pcg64, permutation

SEEDS = st.integers(0, 1 << 300) | st.integers(0, 1 << 33)


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, counts=st.lists(st.integers(1, 9000), min_size=1, max_size=4))
def test_words_are_those_of_numpys_generator_however_many_are_asked_for_at_once(
    seed: int, counts: list[int]
) -> None:
    own, numpys = Pcg64(seed), np.random.PCG64(seed)
    for count in counts:
        np.testing.assert_array_equal(own.random_raw(count), numpys.random_raw(count))


@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, count=st.integers(0, 5000))
def test_a_permutation_is_that_of_numpys_generator(seed: int, count: int) -> None:
    np.testing.assert_array_equal(permutation(count, seed), np.random.default_rng(seed).permutation(count))


def test_a_negative_seed_is_none() -> None:
    with pytest.raises(ValueError, match="negative"):
        Pcg64(-1)
