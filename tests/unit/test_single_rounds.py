"""Whole rounds of mode ``single`` in simulation: losses at every word, any order, duplicates, restarts."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.secagg.single.parameters import Neighbourhood
from shoal_codecs.secagg.single.server_messages import (
    ConsentCame,
    GiveUp,
    OpeningCame,
    SharesCame,
    VectorStored,
)
from single_bench import Simulation, make_cohort, names

WORDS = (SharesCame, VectorStored, ConsentCame, OpeningCame)


def opens(cohort_size: int, n_min: int, threshold: int, lost: dict[str, type]) -> bool:
    """Return whether a sum must come out, everybody being everybody's neighbour."""
    left = [cohort_size]
    for word in WORDS:
        left.append(left[-1] - sum(1 for one in lost.values() if one is word))
    _, members, alive, consenting, answering = left
    if alive < n_min or alive - 1 < threshold or consenting - 1 < threshold:
        return False
    complete = members == alive == answering
    # Somebody who is gone is not its own holder: everybody who answers holds a share of its secrets.
    return complete or answering >= threshold


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_round_adds_up_exactly_or_says_why_not(data: st.DataObject) -> None:
    count = data.draw(st.integers(4, 9))
    lost = data.draw(st.dictionaries(st.sampled_from(names(count)), st.sampled_from(WORDS), max_size=count))
    chance = random.Random(data.draw(st.integers(0, 1 << 30)))
    n_min = data.draw(st.integers(min(count, max(2, round(0.7 * count))), count))
    cohort = make_cohort(count, corrupt=0.0, n_min=n_min, seed=chance.getrandbits(30))
    simulation = Simulation(cohort, lost, chance)
    simulation.run()
    assert cohort.plan.single is not None
    if opens(count, n_min, cohort.plan.single.threshold, lost):
        alive = simulation.outcome
        assert isinstance(alive, tuple), alive
        assert set(alive) == {name for name in names(count) if lost.get(name) not in WORDS[:2]}
        assert simulation.sum is not None
        assert np.array_equal(simulation.sum, simulation.plain_sum(alive))
    else:
        assert isinstance(simulation.outcome, GiveUp)
        assert simulation.sum is None


@settings(max_examples=10, deadline=None)
@given(data=st.data())
def test_a_round_of_drawn_neighbours_adds_up_exactly(data: st.DataObject) -> None:
    """Twenty devices with seven neighbours each, of whom four open a secret."""
    chance = random.Random(data.draw(st.integers(0, 1 << 30)))
    few = data.draw(st.lists(st.sampled_from(names(20)), max_size=2, unique=True))
    lost = {name: data.draw(st.sampled_from(WORDS)) for name in few}
    cohort = make_cohort(20, n_min=15, found=Neighbourhood(7, 4), edges=5, seed=chance.getrandbits(30))
    simulation = Simulation(cohort, lost, chance)
    simulation.run()
    alive = simulation.outcome
    assert isinstance(alive, tuple), alive
    assert len(alive) >= 18
    assert simulation.sum is not None
    assert np.array_equal(simulation.sum, simulation.plain_sum(alive))


@pytest.mark.parametrize("word", WORDS)
def test_after_too_many_losses_the_next_round_goes_on_with_fresh_keys(word: type) -> None:
    lost = dict.fromkeys(names(8)[:5], word)
    first = Simulation(make_cohort(8, corrupt=0.0, seed=1), lost, random.Random(1))
    first.run()
    assert isinstance(first.outcome, GiveUp)
    assert first.outcome.asked == (word is OpeningCame)
    fresh = make_cohort(8, corrupt=0.0, seed=2, round=8)
    again = Simulation(fresh, {}, random.Random(2))
    again.run()
    assert again.outcome == names(8)
    assert again.sum is not None
    assert np.array_equal(again.sum, again.plain_sum(names(8)))


def test_the_largest_cohort_of_the_complete_graph() -> None:
    lost = dict(zip(names(64), WORDS, strict=False))
    simulation = Simulation(make_cohort(64), lost, random.Random(3), restarts=0.0)
    simulation.run()
    assert simulation.outcome == names(64)[2:]
    assert simulation.sum is not None
    assert np.array_equal(simulation.sum, simulation.plain_sum(names(64)[2:]))
