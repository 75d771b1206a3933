"""Verdicts follow from counts, exactly."""

from fractions import Fraction
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.ota.errors import InvalidCountsError
from shoal_codecs.ota.health import PairedCounts, Verdict, binomial_lower_tail, judge, sign_test
from shoal_codecs.ota.manifest import HealthGate

GATE = HealthGate(min_examples=20, significance=0.01, floor_accuracy=0.5)


def lower_tail_by_convolution(right: int, examples: int, rate: Fraction) -> Fraction:
    """Add one example at a time to the distribution of right answers."""
    chances = [Fraction(1)]
    for _ in range(examples):
        one_more = [Fraction(0), *(chance * rate for chance in chances)]
        chances = [a + b * (1 - rate) for a, b in zip(one_more, [*chances, Fraction(0)], strict=True)]
    return sum(chances[: right + 1], Fraction(0))


def test_the_sign_test_counts_the_outcomes() -> None:
    for against, in_favour in product(range(6), range(6)):
        tosses = product((0, 1), repeat=against + in_favour)
        least = sum(sum(toss) >= against for toss in tosses)
        assert sign_test(against, in_favour) == least / 2 ** (against + in_favour)


def test_the_sign_test_of_many_examples_is_still_exact() -> None:
    # P(X >= 5100) of 10,000: the normal approximation with continuity correction, to three digits.
    assert sign_test(5100, 4900) == pytest.approx(0.02329, rel=2e-3)
    assert sign_test(3000, 0) == pytest.approx(2.0**-3000)


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 60), st.integers(1, 99))
def test_the_floor_test_is_the_exact_sum(right: int, more: int, percent: int) -> None:
    examples = right + more
    exact = lower_tail_by_convolution(right, examples, Fraction(percent, 100))
    assert binomial_lower_tail(right, examples, percent / 100) == pytest.approx(float(exact), rel=1e-9)


def test_the_floor_test_at_its_ends() -> None:
    assert binomial_lower_tail(0, 30, 0.0) == 1.0
    assert binomial_lower_tail(29, 30, 1.0) == 0.0
    assert binomial_lower_tail(30, 30, 1.0) == 1.0


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 40), st.integers(0, 40))
def test_a_model_that_is_no_worse_always_passes(both: int, neither: int, gained: int, lost: int) -> None:
    lost = min(lost, gained)
    counts = PairedCounts(both + neither + gained + lost, both, lost, gained)
    assert judge(counts, GATE).verdict is not Verdict.WORSE


def test_an_untrained_model_is_worse_than_a_trained_one() -> None:
    judgement = judge(PairedCounts(40, both=4, only_replaced=34, only_candidate=0), GATE)
    assert judgement.verdict is Verdict.WORSE
    assert "4 of 40" in judgement.reason


def test_a_small_loss_is_what_chance_does() -> None:
    # Six against none is p = 1/64, seven is 1/128: the level is 0.01.
    assert judge(PairedCounts(40, 30, only_replaced=6), GATE).verdict is Verdict.PASSED
    assert judge(PairedCounts(40, 30, only_replaced=7), GATE).verdict is Verdict.WORSE


def test_too_few_examples_are_no_verdict() -> None:
    assert judge(PairedCounts(19, 0, only_replaced=19), GATE).verdict is Verdict.UNJUDGED
    assert judge(PairedCounts(0, replaced=False), GATE).verdict is Verdict.UNJUDGED


def test_a_first_model_is_held_against_the_floor() -> None:
    assert judge(PairedCounts(40, only_candidate=20, replaced=False), GATE).verdict is Verdict.PASSED
    assert judge(PairedCounts(40, only_candidate=4, replaced=False), GATE).verdict is Verdict.WORSE


def test_a_slow_model_is_worse_however_right() -> None:
    gate = HealthGate(max_latency_ms=5)
    assert judge(PairedCounts(40, 40, latency_ms=6), gate).verdict is Verdict.WORSE
    assert judge(PairedCounts(40, 40, latency_ms=4), gate).verdict is Verdict.PASSED


def test_scores_are_over_the_same_examples() -> None:
    counts = PairedCounts(10, both=5, only_replaced=1, only_candidate=3)
    assert counts.candidate_score == (10, 8)
    assert counts.replaced_score == (10, 6)
    assert PairedCounts(10, only_candidate=3, replaced=False).replaced_score == (0, 0)


@pytest.mark.parametrize(
    ("examples", "both", "lost", "gained", "replaced"),
    [(3, 2, 1, 1, True), (3, -1, 0, 0, True), (3, 1, 0, 0, False), (3, 0, 1, 0, False)],
)
def test_impossible_counts_are_refused(
    examples: int, both: int, lost: int, gained: int, *, replaced: bool
) -> None:
    with pytest.raises(InvalidCountsError):
        PairedCounts(examples, both, lost, gained, replaced=replaced)
