"""Rounds under noise, from devices' updates to the next version, with the functions that the parties use."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from shoal_codecs.privacy.charge import sensitivity_of
from shoal_codecs.privacy.plan_noise import clip_levels, device_variance, noise_levels
from shoal_codecs.privacy.promise import check_promise
from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.security.identity import Identity, sealing_public_of
from shoal_codecs.security.sealing import seal
from shoal_codecs.updates.base import EncodeContext, Float32Vector, to_dense
from shoal_codecs.updates.errors import NonFiniteUpdateError, RingSumRangeError
from shoal_codecs.updates.plain_noise import longest_update, noise_on_device, noised_mean
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.registry import codec
from shoal_codecs.updates.ring import decode_sum, encode_ring, pack_ring, ring_bits_for
from shoal_codecs.updates.ring_extras import LOSS_CAP, DeviceMetrics
from shoal_codecs.updates.selection import select_coordinates
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.packing import unpack_plain
from shoal_codecs.wire.plan import (
    CodecPlan,
    HubOffer,
    Plan,
    PrivacyPlan,
    coordinate_seed,
    encode_plan,
    plan_hash,
)
from shoal_coordinator.aggregation import (
    Candidate,
    aggregate_reports,
    aggregate_sums,
    vector_bytes,
    vector_of,
)
from shoal_coordinator.hub.sums import add_shares
from shoal_coordinator.plain_reports import open_update
from shoal_edge.shares import clear_share, ring_shares
from wire_parts import plain_plan, plan

D, N = 600, 20
COHORT = tuple(f"device-{n:02}" for n in range(N))
BASE = np.random.default_rng(5).normal(size=D).astype(np.float32)
COORDINATOR = Identity("coordinator", b"c" * 32)
SET = b"s" * 32
NOISE = 250_000.0
Vector = npt.NDArray[np.float64]


def private(kept: int = D, **privacy: Any) -> Plan:
    fields: dict[str, Any] = {"mechanism": "skellam", "noise": NOISE, "corrupt": 4, "delta": 1e-5}
    part = PrivacyPlan(**(fields | privacy))
    bits = ring_bits_for(N, max(127, part.clip_bit, part.metric_levels), part.noise / 12, kept + 3)
    return plan(
        cohort=COHORT, n_min=16, n_max=N, quorum=16, base=digest_of(vector_bytes(BASE)), privacy=part,
        codec=CodecPlan("randk", D, kept, 4.0, 127, bits, 150),
    )  # fmt: skip


def plain(mechanism: str, noise: float, name: str = "dense", **changes: Any) -> Plan:
    kept = changes.pop("kept", D)
    return plain_plan(
        cohort=COHORT, n_min=16, n_max=N, quorum=16, base=digest_of(vector_bytes(BASE)),
        privacy=PrivacyPlan(mechanism, noise, 0, 1e-5),  # type: ignore[arg-type]
        codec=CodecPlan(name, D, kept, 4.0, 127, 0, 150), **changes,
    )  # fmt: skip


def updates(scale: float = 0.05, devices: int = N) -> dict[str, Float32Vector]:
    rng = np.random.default_rng(7)
    return {name: rng.normal(scale=scale, size=D).astype(np.float32) for name in COHORT[:devices]}


def summed(made: Plan, given: dict[str, Float32Vector], metrics: DeviceMetrics | None = None) -> Candidate:
    """Send every device's shares through both hubs' sums to the coordinator."""
    data = encode_plan(made)
    m, rng = plan_hash(data), np.random.default_rng(1)
    shares = {
        name: ring_shares(update, 40, made, m, name, rng, metrics=metrics).plaintexts
        for name, update in given.items()
    }
    key, sums = sealing_public_of(COORDINATOR.public), {}
    for place, hub in enumerate(("hub-1", "hub-2")):
        total = add_shares(made, m, place, [(name, bytes(all_of[place])) for name, all_of in shares.items()])
        sums[hub] = seal(key, total, sum_context(m, SET, hub))
    return aggregate_sums(
        made, m, vector_bytes(BASE), SET, sums, COORDINATOR.sealing_private(), reports=len(given)
    )


def clipped(vector: npt.NDArray[Any], clip: float = 4.0, power: int = 2) -> Vector:
    norm = np.linalg.norm(vector, ord=power)
    return vector * min(1.0, clip / float(norm))


@pytest.mark.parametrize("devices", [N, 16])
def test_a_shared_sum_is_the_mean_over_all_invited_and_noise_of_the_promised_size(devices: int) -> None:
    made = private()
    check_promise(made)
    given = updates(0.3, devices)
    moved = vector_of(summed(made, given).data).astype(np.float64) - BASE
    # Those who are missing count as devices that moved nothing.
    wanted = sum(clipped(one.astype(np.float64)) for one in given.values()) / N
    spec = ring_spec(made)
    spread = math.sqrt(devices * (device_variance(made) + 0.25)) / spec.levels_per_unit / N
    error = moved - wanted
    assert error.std() == pytest.approx(spread, rel=0.15)
    assert abs(error.mean()) < 5 * spread / math.sqrt(D)


def test_every_device_weighs_the_same_under_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal_codecs.updates.ring.add_noise", lambda *_: None)
    made, rng = private(), np.random.default_rng(3)
    spec = ring_spec(made)
    assert spec.limbs == 0
    update = np.full(D, 0.02, np.float32)
    for examples in (1, 150, 10**6):
        total = decode_sum(encode_ring(update, examples, spec, rng), spec)
        assert total.q.mean() == pytest.approx(0.02 * spec.levels_per_unit, rel=0.05)
        assert total.weight == N * spec.weight_cap


def test_noise_is_drawn_anew_for_every_word_of_every_device() -> None:
    """Two encodings of one update differ everywhere, and by noise of twice the variance."""
    made, rng = private(), np.random.default_rng(3)
    spec, update = ring_spec(made), np.zeros(D, np.float32)
    one, other = (decode_sum(encode_ring(update, 9, spec, rng), spec).q.astype(float) for _ in range(2))
    assert np.var(one - other) == pytest.approx(2 * device_variance(made), rel=0.25)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.2
    assert abs(np.corrcoef(one[1:], one[:-1])[0, 1]) < 0.2


def test_metrics_and_clip_bit_come_out_within_their_error() -> None:
    made = private(clip_bit=2000, metric_levels=2000, noise=40_000.0)
    spec = ring_spec(made)
    given = updates(0.01)
    for name in COHORT[:5]:
        given[name] = given[name] * np.float32(100)
    told = summed(made, given, DeviceMetrics(loss=1.25, accuracy=0.8)).told
    assert told.clipped is not None
    assert told.loss is not None
    assert told.accuracy is not None
    assert told.accuracy.error == pytest.approx(math.sqrt(N * spec.noise) / (2 * N * 2000))
    assert told.loss.error == pytest.approx(LOSS_CAP * told.accuracy.error)
    for found, truth in ((told.clipped, 5 / N), (told.loss, 1.25), (told.accuracy, 0.8)):
        assert abs(found.value - truth) < 5 * found.error + 1e-3
    assert set(told.by_name()) == {"accuracy", "loss", "clipped"}


@pytest.mark.parametrize(("metrics", "clip_bit", "metric_levels"), [
    (None, 50, 70), (DeviceMetrics(math.nan, 1.0), 50, 70), (DeviceMetrics(1e9, 5.0), 0, 70),
    (DeviceMetrics(-3.0, -1.0), 0, 1), (None, 1, 0), (DeviceMetrics(0.4, 0.9), 0, 0),
])  # fmt: skip
def test_what_is_charged_is_all_that_travels(
    monkeypatch: pytest.MonkeyPatch, metrics: DeviceMetrics | None, clip_bit: int, metric_levels: int
) -> None:
    """Without its noise, every encoding stays within the sensitivity that its plan is charged for."""
    monkeypatch.setattr("shoal_codecs.updates.ring.add_noise", lambda *_: None)
    made = private(clip_bit=clip_bit, metric_levels=metric_levels)
    spec, bounds, rng = ring_spec(made), sensitivity_of(made), np.random.default_rng(0)
    shapes = {
        "one": np.eye(1, D, dtype=np.float32)[0] * 1e30,
        "even": np.full(D, 1e10, np.float32),
        "halves": np.full(D, 0.5 / spec.levels_per_unit, np.float32),
        "none": np.zeros(D, np.float32),
        "any": rng.normal(size=D).astype(np.float32),
    }
    for update in shapes.values():
        for _ in range(20):
            total = decode_sum(encode_ring(update, 5, spec, rng, metrics), spec)
            sent = np.concatenate((total.q, total.extras)).astype(np.float64)
            assert sent.size == spec.words
            assert float(sent @ sent) <= bounds.l2_squared
            assert float(np.abs(sent).sum()) <= bounds.l1 + 1e-9


@pytest.mark.parametrize("kept", [30, 60, 120])
def test_random_coordinates_are_rescaled_before_the_clip_also_under_noise(
    monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    """The wrong way round, epsilon 8 was 69 at 20 %, 250 at 10 %, 977 at 5 %."""
    monkeypatch.setattr("shoal_codecs.updates.ring.add_noise", lambda *_: None)
    made = private(kept=kept)
    spec, rng = ring_spec(made), np.random.default_rng(0)
    clipped_first = np.full(D, 4.0 / math.sqrt(D), np.float32)
    for update in (clipped_first, clipped_first * np.float32(1e6)):
        levels = decode_sum(encode_ring(update, 5, spec, rng), spec).q.astype(np.float64)
        assert levels @ levels <= sensitivity_of(made).l2_squared


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e6])
def test_leading_and_explored_coordinates_are_clipped_together_under_noise(
    monkeypatch: pytest.MonkeyPatch, size: float
) -> None:
    """Half of them keep their value and half are rescaled: the clip comes after both."""
    monkeypatch.setattr("shoal_codecs.updates.ring.add_noise", lambda *_: None)
    made, rng = private(kept=60), np.random.default_rng(0)
    spec = replace(ring_spec(made), leading=np.arange(0, 600, 20, dtype=np.int64))
    assert spec.selection.factor == pytest.approx((600 - 30) / 30)
    only_led = np.zeros(D, np.float32)
    only_led[spec.leading] = 1.0
    for update in (np.ones(D, np.float32), only_led, 1 - only_led):
        for _ in range(20):
            levels = decode_sum(encode_ring(update * np.float32(size), 5, spec, rng), spec).q.astype(float)
            assert levels @ levels <= sensitivity_of(made).l2_squared


def test_a_sum_beyond_noise_is_refused_and_a_long_one_shortened() -> None:
    made = private(kept=60)
    spec = ring_spec(made)
    assert spec.reach > N * 127
    words = np.zeros(spec.words, np.uint32).astype(f"u{2 if spec.ring_bits <= 16 else 4}")
    words[0] = spec.reach
    assert decode_sum(words, spec).q[0] == spec.reach
    words[0] = spec.reach + 1
    with pytest.raises(RingSumRangeError):
        decode_sum(words, spec)
    words[:] = spec.reach
    candidate = _sum_of(made, words)
    assert candidate.bounded
    longest = N * (4.0 + math.sqrt(60) / spec.levels_per_unit)
    longest += math.sqrt(N * spec.noise) * (math.sqrt(60) + 10.5) / spec.levels_per_unit
    assert candidate.norm <= longest / N * 1.001
    assert not summed(made, updates(3.0)).bounded


def _sum_of(made: Plan, words: npt.NDArray[Any]) -> Candidate:
    spec, m = ring_spec(made), plan_hash(encode_plan(made))
    key, other = sealing_public_of(COORDINATOR.public), np.zeros_like(words)
    sums = {
        hub: seal(key, pack_ring(one, spec.ring_bits), sum_context(m, SET, hub))
        for hub, one in (("hub-1", words), ("hub-2", other))
    }
    return aggregate_sums(made, m, vector_bytes(BASE), SET, sums, COORDINATOR.sealing_private(), reports=N)


# --- mode plain ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kept"), [("dense", D), ("int8", D), ("randk", 120), ("topk", 60)])
def test_central_noise_is_added_once_to_the_clipped_sum(tmp_path: Path, name: str, kept: int) -> None:
    made = plain("central", 1.3, name, kept=kept)
    check_promise(made)
    given, rng = updates(0.3), np.random.default_rng(2)
    shares = {
        device: clear_share(update, 40, made, rng, tmp_path / "r", tmp_path / "n").plaintexts[0]
        for device, update in given.items()
    }
    assert all(unpack_plain(share)[0] == 1 for share in shares.values())
    sent = [open_update(made, share).update.astype(np.float64) for share in shares.values()]
    wanted = sum(clipped(one) for one in sent) / N
    moved = vector_of(aggregate_reports(made, vector_bytes(BASE), shares).data).astype(np.float64) - BASE
    touched = np.ones(D, bool)
    if name == "randk":
        touched = np.any([one != 0 for one in sent], axis=0)
        assert not moved[~touched].any()
    unit = 4.0 / clip_levels(made.codec)
    spread = noise_levels(made) * unit / N
    assert noise_levels(made) > 1.3 * clip_levels(made.codec)
    assert (moved - wanted)[touched].std() == pytest.approx(spread, rel=0.3)


def test_one_device_cannot_move_a_central_sum_further_than_it_is_charged_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = plain("central", 1.0)
    monkeypatch.setattr("shoal_codecs.updates.plain_noise.noise_pieces", lambda *_: iter(()))
    rng = np.random.default_rng(0)
    for update in (np.full(D, 1e8, np.float32), np.full(D, 0.5 * 4.0 / clip_levels(made.codec), np.float32)):
        for _ in range(50):
            moved = noised_mean([update], made, rng) * N * clip_levels(made.codec) / 4.0
            assert moved @ moved <= sensitivity_of(made).l2_squared * (1 + 1e-9)
            assert np.allclose(moved, np.rint(moved), atol=1e-6)


LOCAL: list[tuple[str, float, Callable[[Plan], float]]] = [
    ("local-gaussian", 0.8, noise_levels),
    ("local-laplace", 0.8, lambda made: math.sqrt(2) * noise_levels(made)),
]


@pytest.mark.parametrize(("mechanism", "noise", "deviation"), LOCAL)
@pytest.mark.parametrize(("name", "kept"), [("dense", D), ("int8", D), ("randk", 120)])
def test_local_noise_is_there_before_anything_leaves_the_device(
    tmp_path: Path, mechanism: str, noise: float, deviation: Callable[[Plan], float], name: str, kept: int
) -> None:
    made, rng = plain(mechanism, noise, name, kept=kept), np.random.default_rng(2)
    check_promise(made)
    update = updates(0.3)[COHORT[0]]
    context = EncodeContext(dimension=D, kept=kept, seed=coordinate_seed(made))
    travels = np.ones(D, bool)
    if name == "randk":
        travels = np.isin(np.arange(D), select_coordinates(context.seed, D, kept).indices)
    chosen = np.where(travels, update.astype(np.float64) * D / kept, 0.0)
    wanted = clipped(chosen, power=1 if mechanism == "local-laplace" else 2)
    shown: list[Vector] = []
    # One report has too few values to tell their deviation by, or how many of them are zero by chance.
    for _ in range(12_000 // kept):
        share = clear_share(update, 40, made, rng, tmp_path / "r", tmp_path / "n").plaintexts[0]
        examples, payload, told = unpack_plain(share)
        assert told == {}
        assert examples == 1
        sent = to_dense(codec(name).decode(payload, context)).astype(np.float64)
        shown.append(sent[travels])
        assert not sent[~travels].any()
        assert np.linalg.norm(sent) < longest_update(made)
        # The coordinator takes it as it is: noise is no reason to shorten an honest update.
        np.testing.assert_array_equal(open_update(made, share).update, sent.astype(np.float32))
    spread = deviation(made) * 4.0 / clip_levels(made.codec)
    assert np.count_nonzero(shown) >= 0.95 * np.size(shown)
    assert np.std(shown - wanted[travels]) == pytest.approx(spread, rel=0.1)


@pytest.mark.parametrize(("mechanism", "noise", "deviation"), LOCAL)
def test_the_mean_of_noised_updates_is_taken_over_all_invited(
    tmp_path: Path, mechanism: str, noise: float, deviation: Callable[[Plan], float]
) -> None:
    made = plain(mechanism, noise)
    rng = np.random.default_rng(2)
    given = updates(0.3, 16)
    shares = {
        device: clear_share(update, 40, made, rng, tmp_path / "r", tmp_path / "n").plaintexts[0]
        for device, update in given.items()
    }
    power = 1 if mechanism == "local-laplace" else 2
    wanted = sum(clipped(one.astype(np.float64), power=power) for one in given.values()) / N
    moved = vector_of(aggregate_reports(made, vector_bytes(BASE), shares).data).astype(np.float64) - BASE
    spread = deviation(made) * 4.0 / clip_levels(made.codec) * math.sqrt(16) / N
    assert (moved - wanted).std() == pytest.approx(spread, rel=0.25)


def test_a_long_update_is_clipped_in_the_norm_that_its_noise_hides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shoal_codecs.updates.plain_noise.noise_pieces", lambda *_: iter(()))
    huge, rng = np.full(D, 1e8, np.float32), np.random.default_rng(0)
    for mechanism, power in (("local-gaussian", 2), ("local-laplace", 1)):
        made = plain(mechanism, 1.0)
        rounding = math.sqrt(D) / clip_levels(made.codec) * 4.0
        for _ in range(20):
            shown = noise_on_device(huge, made, rng).astype(np.float64)
            assert np.linalg.norm(shown, ord=power) <= 4.0 + rounding


@pytest.mark.parametrize("mechanism", ["central", "local-gaussian", "local-laplace"])
@pytest.mark.parametrize(("name", "kept"), [("dense", 1), ("int8", 7), ("randk", 120), ("topk", 7)])
def test_noise_is_as_large_as_the_grid_whatever_a_plan_says_it_keeps(
    monkeypatch: pytest.MonkeyPatch, mechanism: str, name: str, kept: int
) -> None:
    """A dense codec sends every coordinate: a plan that "keeps" one must not get noise for one."""
    monkeypatch.setattr("shoal_codecs.updates.plain_noise.noise_pieces", lambda *_: iter(()))
    made, rng = plain(mechanism, 1.0, name, kept=kept), np.random.default_rng(0)
    power = 1 if mechanism == "local-laplace" else 2
    for update in (np.full(D, 1e8, np.float32), np.full(D, 1e-4, np.float32)):
        for _ in range(30):
            if mechanism == "central":
                shown = noised_mean([update], made, rng) * N
            else:
                shown = noise_on_device(update, made, rng).astype(np.float64)
                shown *= D / kept if name == "randk" else 1.0
            levels = np.linalg.norm(shown, ord=power) * clip_levels(made.codec) / 4.0
            assert levels <= noise_levels(made) * (1 + 1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("mechanism", ["local-gaussian", "local-laplace"])
def test_a_diverged_update_is_no_noise(mechanism: str, bad: float) -> None:
    update = np.zeros(D, np.float32)
    update[7] = bad
    with pytest.raises(NonFiniteUpdateError):
        noise_on_device(update, plain(mechanism, 1.0), np.random.default_rng(0))


def test_noise_on_the_device_comes_of_the_systems_generator() -> None:
    made = plain("local-gaussian", 1.0)
    update = np.zeros(D, np.float32)
    one, other = (noise_on_device(update, made, np.random.default_rng(0)) for _ in range(2))
    assert not np.array_equal(one, other)


def test_private_plans_come_back_as_they_were_signed() -> None:
    offers = (HubOffer("coordinator", b"\x04" * 32, b"\x05" * 32),)
    for made in (private(clip_bit=7, metric_levels=9), plain("local-laplace", 2.0, hubs=offers)):
        again = msgspec.msgpack.decode(encode_plan(made), type=Plan)
        assert again == made
