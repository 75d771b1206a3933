import math
import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.wire.heartbeat import Reading
from shoal_coordinator.registry import DeviceView
from shoal_coordinator.selection import NotEnoughDevicesError, SelectionRules, able, select
from shoal_coordinator.turns import Turns

FIT: dict[int, Any] = {Reading.PHASE: "idle", Reading.EXAMPLES: 100, Reading.MEMORY_AVAILABLE: 512}


def device(name: str, readings: dict[int, Any] | None = None, **changes: Any) -> DeviceView:
    fields: dict[str, Any] = {"trusted": True, "online": True, "readings": FIT | (readings or {})}
    return DeviceView(name, **(fields | changes))


def chosen(
    views: list[DeviceView],
    rules: SelectionRules,
    *,
    last: dict[str, int] | None = None,
    seed: int = 1,
    ended: int = 5,
) -> tuple[str, ...]:
    rng = random.Random(seed)
    return select(views, rules, ended_round=ended, turns=last or {}, rng=rng)


RULES = SelectionRules(minimum=1, min_examples=10, min_memory_mib=64)


@pytest.mark.parametrize(
    ("unfit", "reason"),
    [
        (device("b", trusted=False), "not on the roster"),
        (device("b", online=False), "offline"),
        (device("b", other_roster="roster 2"), "with another roster"),
        (device("b", online=False, other_roster="roster 2"), "offline"),
        (device("b", {Reading.PHASE: "training", Reading.ROUND: 6}), "busy"),
        (device("b", {Reading.EXAMPLES: 9}), "without enough examples"),
        (device("b", {Reading.EXAMPLES: "many"}), "without enough examples"),
        (device("b", {Reading.MEMORY_AVAILABLE: 63}), "short of memory"),
        (device("b", readings={}, online=False, trusted=False), "not on the roster"),
    ],
)
def test_who_cannot_take_part_is_passed_over_for_a_reason(unfit: DeviceView, reason: str) -> None:
    assert chosen([device("a"), unfit], RULES) == ("a",)
    with pytest.raises(NotEnoughDevicesError, match=f"1 {reason}") as caught:
        chosen([device("a"), unfit], SelectionRules(minimum=2, min_examples=10, min_memory_mib=64))
    error = caught.value
    assert (error.fit, error.minimum, error.passed_over) == (1, 2, {reason: 1})


@pytest.mark.parametrize(
    "readings",
    [
        {Reading.PHASE: "training", Reading.ROUND: 5},
        {Reading.PHASE: "idle", Reading.ROUND: 6},
        {Reading.MEMORY_AVAILABLE: None},
        {Reading.MEMORY_AVAILABLE: 64, Reading.EXAMPLES: 10},
    ],
)
def test_old_news_and_bare_limits_keep_nobody_out(readings: dict[int, Any]) -> None:
    assert chosen([device("a", readings)], RULES) == ("a",)


def test_an_empty_fleet_is_never_a_cohort() -> None:
    with pytest.raises(NotEnoughDevicesError, match="0 devices can take part and 1 are needed: wait"):
        chosen([], SelectionRules(minimum=0))


def test_everybody_fit_is_invited_where_no_number_is_wanted() -> None:
    views = [device(f"d-{number}") for number in range(7)]
    assert chosen(views, RULES) == tuple(sorted(view.name for view in views))


def test_more_are_invited_than_are_wanted() -> None:
    views = [device(f"d-{number}") for number in range(20)]
    rules = SelectionRules(minimum=3, cohort_max=10, over_selection=1.25)
    assert len(chosen(views, rules)) == 13
    assert len(chosen(views[:11], rules)) == 11
    assert len(chosen(views, SelectionRules(minimum=15, cohort_max=10))) == 15


def cohorts(views: list[DeviceView], wanted: int, rounds: int, seed: int = 1) -> list[tuple[str, ...]]:
    """Whom rounds have where everybody is there all the time."""
    turns, rules, rng = Turns(), SelectionRules(minimum=1, cohort_max=wanted), random.Random(seed)
    found = []
    for ended in range(rounds):
        cohort = select(views, rules, ended_round=ended, turns=turns, rng=rng)
        turns.taken(cohort, able(views, rules, ended_round=ended))
        found.append(cohort)
    return found


@given(st.integers(1, 12), st.integers(1, 12), st.integers(0, 99))
def test_everybody_has_a_turn_in_each_pass_and_nobody_two(size: int, wanted: int, seed: int) -> None:
    views = [device(f"d-{number:02}") for number in range(size)]
    times: Counter[str] = Counter()
    for cohort in cohorts(views, wanted, 30, seed):
        assert len(set(cohort)) == min(size, wanted)
        times.update(cohort)
        assert max(times.values()) - min(times[view.name] for view in views) <= 1


def test_each_pass_has_an_order_of_its_own() -> None:
    """A hundred devices, of which nobody ever fails, in tens."""
    views = [device(f"d-{number:02}") for number in range(100)]
    found = cohorts(views, 10, 30)
    assert len(set(found)) == 30
    passes = [found[start : start + 10] for start in (0, 10, 20)]
    assert all(len({name for cohort in one for name in cohort}) == 100 for one in passes)
    # Two tens of a hundred share one device on average, and hardly ever five.
    assert max(len({*one} & {*other}) for one in passes[0] for other in passes[1]) < 6


def test_who_was_away_goes_first_and_is_not_owed_what_it_missed() -> None:
    turns, rules, rng = Turns(), SelectionRules(minimum=1, cohort_max=2), random.Random(1)
    there = [device(f"d-{number}") for number in range(4)]
    for ended in range(6):
        turns.taken(select(there, rules, ended_round=ended, turns=turns, rng=rng), {v.name for v in there})
    back = [*there, device("late")]
    invited = []
    for ended in range(6, 11):
        cohort = select(back, rules, ended_round=ended, turns=turns, rng=rng)
        turns.taken(cohort, {view.name for view in back})
        invited.append("late" in cohort)
    assert invited[0]
    assert sum(invited) <= 3


def test_a_pass_waits_for_those_whose_width_this_round_does_not_have() -> None:
    """Else wide devices, which are in narrow rounds too, would be among the first each time."""
    turns = Turns()
    views = [device("wide"), device("narrow-1", {Reading.WIDTH: 25}), device("narrow-2", {Reading.WIDTH: 25})]
    rules = SelectionRules(minimum=1, cohort_max=1, least_percent=100)
    narrow = replace(rules, least_percent=25)
    everybody = able(views, narrow, ended_round=0)
    assert everybody == {"wide", "narrow-1", "narrow-2"}
    assert able(views, narrow, ended_round=0, excused={"wide"}) == {"narrow-1", "narrow-2"}
    assert able(views, rules, ended_round=0) == {"wide"}
    for _ in range(3):
        turns.taken(chosen(views, rules, last=dict(turns)), everybody)
    assert dict(turns) == {"wide": 1}
    for _ in range(2):
        cohort = chosen(views, narrow, last=dict(turns))
        assert "wide" not in cohort
        turns.taken(cohort, everybody)
    assert set(turns.values()) == {1}


@given(
    st.lists(st.tuples(st.booleans(), st.booleans(), st.integers(0, 20)), max_size=30),
    st.integers(0, 10),
    st.integers(0, 12),
    st.floats(1, 3),
    st.randoms(use_true_random=False),
)
def test_a_cohort_holds_only_who_can_and_no_more_than_wanted(
    fleet: list[tuple[bool, bool, int]],
    minimum: int,
    cohort_max: int,
    over_selection: float,
    rng: random.Random,
) -> None:
    views = [
        device(f"d-{number:02}", {Reading.EXAMPLES: examples}, trusted=trusted, online=online)
        for number, (trusted, online, examples) in enumerate(fleet)
    ]
    able = {f"d-{number:02}" for number, facts in enumerate(fleet) if all(facts)}
    rules = SelectionRules(minimum=minimum, cohort_max=cohort_max, over_selection=over_selection)
    seed = rng.randrange(1 << 30)
    if len(able) < max(minimum, 1):
        with pytest.raises(NotEnoughDevicesError) as caught:
            chosen(views, rules, seed=seed)
        assert caught.value.fit == len(able)
        assert sum(caught.value.passed_over.values()) == len(views) - len(able)
        return
    cohort = chosen(views, rules, seed=seed)
    assert set(cohort) <= able
    assert list(cohort) == sorted(set(cohort))
    assert len(cohort) >= max(minimum, 1)
    if cohort_max:
        assert len(cohort) <= max(minimum, math.ceil(cohort_max * over_selection))
    rng.shuffle(views)
    assert chosen(views, rules, seed=seed) == cohort


@pytest.mark.parametrize("told", ["verdict", "none"])
def test_who_keeps_its_counts_to_itself_is_taken_at_its_word(told: str) -> None:
    quiet = device("q", {Reading.METRICS: told})
    del quiet.readings[Reading.EXAMPLES]
    silent = device("s")
    del silent.readings[Reading.EXAMPLES]
    assert chosen([quiet, silent], RULES) == ("q",)


def test_who_has_spent_its_budget_is_not_asked_and_counted() -> None:
    views = [device("a"), device("b"), device("c")]
    found = select(views, RULES, ended_round=5, turns={}, rng=random.Random(1), spent={"b"})
    assert found == ("a", "c")
    with pytest.raises(NotEnoughDevicesError, match="2 out of privacy budget"):
        select(
            views,
            SelectionRules(minimum=3),
            ended_round=5,
            turns={},
            rng=random.Random(1),
            spent={"a", "b"},
        )
