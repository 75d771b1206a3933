"""What noise a plan may promise, and how wide a ring it takes."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.privacy.errors import (
    CoarseScaleError,
    NoiseSizeError,
    PrivacyNumberError,
    PrivateCodecError,
)
from shoal_codecs.privacy.noise_table import discrete_gaussian_table, rounded_laplace_table
from shoal_codecs.privacy.plan_noise import clip_levels, device_variance, extra_levels, noise_levels
from shoal_codecs.privacy.promise import check_promise, judge_scale
from shoal_codecs.privacy.ring_width import MOST_ROUNDS, noise_reach
from shoal_codecs.updates.errors import RingOverflowError
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import RingSpec, ring_bits_for
from shoal_codecs.wire.plan import CodecPlan, Plan
from wire_parts import codec_plan, plain_plan, plan, private_plan

NOISE = 4_000_000.0


def private(**changes: Any) -> Plan:
    privacy = private_plan(noise=NOISE, **changes.pop("privacy", {}))
    return plan(
        privacy=privacy, codec=codec_plan(**({"ring_bits": 17} | changes.pop("codec", {}))), **changes
    )


def test_a_promise_that_can_be_kept() -> None:
    made = private(privacy={"clip_bit": 40, "metric_levels": 60})
    check_promise(made)
    assert device_variance(made) == NOISE / (made.n_min - 1)
    assert extra_levels(made.privacy) == (40, 60, 60)
    spec = ring_spec(made)
    assert spec.words == made.codec.kept + 3
    assert (spec.limbs, spec.noise) == (0, device_variance(made))
    check_promise(plan())


def test_the_noise_of_the_whole_sum_has_to_fit() -> None:
    bits = ring_bits_for(3, 127, NOISE, 481)
    check_promise(private(codec={"ring_bits": bits}))
    narrow = private(codec={"ring_bits": bits - 1})
    deviation = math.sqrt(3 * NOISE)
    for check in (check_promise, ring_spec):
        with pytest.raises(
            RingOverflowError, match=rf"3 devices at level 127 .* {deviation:.6g} levels .* 32768"
        ):
            check(narrow)


def test_a_metric_with_more_levels_than_the_clamp_widens_the_ring() -> None:
    with pytest.raises(RingOverflowError, match="at level 60000"):
        check_promise(private(privacy={"metric_levels": 60_000}))


@pytest.mark.parametrize("words", [1, 481, 10_000_000])
@pytest.mark.parametrize("variance", [0.01, 1.0, 400.0, 1e6])
def test_noise_stays_within_its_reach(variance: float, words: int) -> None:
    """The tail of Skellam itself, over all words of all rounds, is under the promised 2**-40."""
    reach = noise_reach(variance, words)
    tail = scipy.stats.skellam.sf(math.floor(reach) - 1, variance / 2, variance / 2)
    assert 2 * tail * words * MOST_ROUNDS < 2.0**-40
    assert (
        reach
        == pytest.approx(
            math.sqrt(2 * variance * (math.log(2 * words * MOST_ROUNDS) + 40 * math.log(2))), rel=0.15
        )
        or variance < 1e3
    )


@given(st.integers(1, 500), st.integers(1, 127), st.floats(0.01, 1e7), st.integers(1, 10**7))
def test_the_narrowest_ring_is_the_narrowest(n_max: int, clamp: int, noise: float, words: int) -> None:
    bits = ring_bits_for(n_max, clamp, noise, words)
    reach = n_max * clamp + noise_reach(n_max * noise, words)
    assert reach < 2 ** (bits - 1)
    assert bits == 2 or reach >= 2 ** (bits - 2)


def test_a_ring_that_there_is_not_is_named_with_its_numbers() -> None:
    with pytest.raises(
        RingOverflowError, match=r"100 devices at level 127 and noise of 1e\+10 levels need 3\d"
    ):
        ring_bits_for(100, 127, 1e18, 1000)
    with pytest.raises(RingOverflowError):
        ring_bits_for(100, 127, 1e308, 1000)


@pytest.mark.parametrize("noise", [1e-4, 1e11])
def test_noise_that_cannot_be_drawn(noise: float) -> None:
    with pytest.raises(NoiseSizeError, match="squared levels"):
        check_promise(plan(privacy=private_plan(noise=noise), codec=codec_plan(ring_bits=32)))


@pytest.mark.parametrize("mechanism", ["central", "local-gaussian", "local-laplace"])
def test_noise_that_no_table_holds_is_refused_with_the_plan(mechanism: str) -> None:
    """Not by every device, once it has trained."""
    make = rounded_laplace_table if mechanism == "local-laplace" else discrete_gaussian_table

    def drawn(levels: float) -> Plan:
        one = noise_levels(plain_plan(privacy=private_plan(mechanism=mechanism, noise=1.0)))
        return plain_plan(privacy=private_plan(mechanism=mechanism, noise=levels / one))

    most = 13_700.0 if mechanism == "local-laplace" else 65_000.0
    check_promise(drawn(most))
    assert make(noise_levels(drawn(most))).reach > most
    with pytest.raises(NoiseSizeError):
        make(noise_levels(drawn(1.02 * most)))
    with pytest.raises(NoiseSizeError):
        check_promise(drawn(1.02 * most))


def test_noise_that_nothing_can_be_said_of() -> None:
    with pytest.raises(PrivacyNumberError, match="too large or too small"):
        check_promise(plan(privacy=private_plan(noise=1e300)))


@pytest.mark.parametrize("mechanism", ["local-gaussian", "local-laplace"])
def test_top_k_is_no_codec_for_noise_on_the_device(mechanism: str) -> None:
    own = private_plan(mechanism=mechanism, noise=1.0, corrupt=0)
    check_promise(plain_plan(privacy=own))
    with pytest.raises(PrivateCodecError, match="Top-K"):
        check_promise(plain_plan(privacy=own, codec=codec_plan(name="topk")))
    check_promise(
        plain_plan(privacy=private_plan(mechanism="central", noise=4.55), codec=codec_plan(name="topk"))
    )


def test_levels_so_coarse_that_rounding_is_all_there_is() -> None:
    fine, coarse, hopeless = (private(codec={"range_factor": factor}) for factor in (6.0, 60.0, 600.0))
    assert judge_scale(fine) == judge_scale(plan()) == ""
    assert "levels" in judge_scale(coarse)
    check_promise(coarse)
    with pytest.raises(CoarseScaleError, match="over 481 coordinates"):
        check_promise(hopeless)


def test_what_each_party_draws_is_counted_in_levels_of_the_rounded_update() -> None:
    central = plain_plan(privacy=private_plan(mechanism="central", noise=4.55))
    levels = clip_levels(central.codec)
    assert levels == pytest.approx(127 * math.sqrt(481) / 6)
    assert noise_levels(central) == pytest.approx(
        4.55 * math.sqrt(levels**2 + 481 / 4 + levels + math.sqrt(481) / 2)
    )
    laplace = plain_plan(privacy=private_plan(mechanism="local-laplace", noise=2.0))
    assert noise_levels(laplace) == pytest.approx(2 * (levels + math.sqrt(481) / 2))
    assert noise_levels(plan()) == 0.0


def test_a_ring_s_own_numbers_are_checked() -> None:
    from shoal_codecs.updates.errors import RingSpecError  # noqa: PLC0415

    spec = ring_spec(private())
    for change in ({"noise": -1.0}, {"noise": math.nan}, {"clip_bit": -1}, {"noise": 0.0, "clip_bit": 3}):
        with pytest.raises(RingSpecError):
            replace(spec, **change)
    assert np.isfinite(spec.reach)


@given(
    st.floats(1e-6, 1e6), st.integers(1, 600), st.sampled_from([7, 127, 1000]), st.sampled_from([3.0, 6.0])
)
def test_the_bound_that_rounding_keeps_is_the_one_that_is_charged(
    clip_norm: float, kept: int, clamp: int, range_factor: float
) -> None:
    """Digit for digit: a bound worked out another way could lie an integer higher."""
    codec = CodecPlan("randk", 600, kept, clip_norm, clamp, 20, 150, range_factor)
    spec = RingSpec(600, kept, clip_norm, clamp, 20, 3, 150, b"s" * 32, range_factor, noise=1.0)
    assert spec.clip_levels == clip_levels(codec)
