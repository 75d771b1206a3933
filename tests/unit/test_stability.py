"""When a round's version is not kept."""

import math

import pytest

from shoal_coordinator.algorithms.stability import Stability, StabilitySettings, middle_loss, stability_of
from shoal_coordinator.round_steps import Evaluation


def losses(*means: float) -> dict[str, Evaluation]:
    return {f"device-{place}": Evaluation(10, 5, 10 * mean) for place, mean in enumerate(means)}


def known(count: int = 6, **settings: float) -> Stability:
    return stability_of(StabilitySettings(**settings), [(1.0 + 0.1 * n, 0.5) for n in range(count)])  # type: ignore[arg-type]


def test_a_norm_is_held_against_the_median_of_those_before() -> None:
    stability = known()
    assert stability.norm_fault(12.0) == ""
    fault = stability.norm_fault(12.6)
    assert "12.6, over 10 times the usual 1.25" in fault
    assert "lower rounds.learning_rate" in fault
    assert known(norm_limit=0).norm_fault(1e9) == ""
    # One update that was long once does not move the median.
    stability.took(11.0, None)
    assert stability.norm_fault(14.0)


def test_with_few_norms_only_what_is_no_number_is_refused() -> None:
    assert known(4).norm_fault(1e9) == ""
    for limit in (0.0, 10.0):
        assert "no number" in known(4, norm_limit=limit).norm_fault(math.nan)
        assert "no number" in known(4, norm_limit=limit).norm_fault(math.inf)


def test_versions_that_moved_nothing_or_were_not_evaluated_say_nothing() -> None:
    stability = known()
    stability.took(0.0, None)
    stability.took(0.0, math.inf)
    assert len(stability.norms) == 6
    assert stability.loss == 0.5


def test_the_window_forgets() -> None:
    stability = stability_of(StabilitySettings(window=5), [(100.0, None)] * 5 + [(1.0, None)] * 5)
    assert stability.norm_fault(11.0)


def test_a_loss_is_held_against_the_one_before() -> None:
    stability = known()
    assert stability.loss_fault(losses(2.4, 2.4, 2.4)) == ""
    assert "a loss of 2.6, over 5 times the 0.5" in stability.loss_fault(losses(2.6, 2.6, 2.6))
    assert known(loss_limit=0).loss_fault(losses(99.0)) == ""
    assert stability.loss_fault({}) == ""
    assert stability_of(StabilitySettings(), []).loss_fault(losses(99.0)) == ""


def test_a_loss_of_nearly_nothing_may_grow_to_a_little() -> None:
    stability = known()
    stability.took(1.0, 0.001)
    assert stability.loss_fault(losses(0.9)) == ""
    assert stability.loss_fault(losses(1.1))


def test_a_minority_that_says_what_it_likes_decides_nothing() -> None:
    stability = known()
    assert stability.loss_fault(losses(0.5, 0.5, 1e9)) == ""
    assert stability.loss_fault(losses(0.5, 0.5, math.inf)) == ""
    assert "no numbers" in stability.loss_fault(losses(0.5, math.inf, math.inf))


@pytest.mark.parametrize("word", [Evaluation(10**12, 10**12, 0.0), Evaluation(1, 0, 1e300)])
def test_a_minority_does_not_set_the_loss_that_later_ones_are_held_against(word: Evaluation) -> None:
    stability = known()
    stability.took(1.0, middle_loss({**losses(2.0, 2.2), "liar": word}))
    assert stability.loss in {2.0, 2.2}
    assert middle_loss({}) is None
    assert middle_loss({"silent": Evaluation(0, 0, 0.0)}) is None


def test_settings_are_bounded() -> None:
    with pytest.raises(TypeError):
        StabilitySettings(patience=3)  # type: ignore[call-arg]
