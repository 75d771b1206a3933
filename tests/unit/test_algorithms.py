"""Every algorithm against its paper, worked out again in plain numpy, and against what is known of it."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.updates.base import EncodeContext
from shoal_codecs.updates.local_steps import effective_steps
from shoal_codecs.updates.registry import codec
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import Plan, coordinate_seed
from shoal_codecs.wire.told import PlainShare, Told
from shoal_coordinator.aggregation import Server, aggregate_opened, vector_bytes, vector_of
from shoal_coordinator.algorithms import matrix
from shoal_coordinator.algorithms.errors import AlgorithmStateError, TooFewReportsError
from shoal_coordinator.algorithms.normalised import FedBuff
from shoal_coordinator.algorithms.registry import ALGORITHMS, make_algorithm
from shoal_coordinator.algorithms.robust import krum_scores, squared_distances
from shoal_coordinator.algorithms.schedules import ScheduleSettings
from shoal_coordinator.algorithms.settings import AlgorithmSettings
from shoal_coordinator.algorithms.state import AlgorithmState, decode_state, encode_state
from shoal_coordinator.plain_reports import Reports, Share
from wire_parts import codec_plan, plain_plan

D = 23
Vector = npt.NDArray[np.float64]
RNG = np.random.default_rng(11)


def plan_for(tells: Sequence[str] = (), **changes: Any) -> Plan:
    base = plain_plan(
        codec=codec_plan(name="dense", dimension=D, kept=D, clip_norm=1e9, ring_bits=0, weight_cap=1000)
    )
    training = msgspec.structs.replace(base.training, tells=tuple(tells), **changes)
    return msgspec.structs.replace(base, training=training)


def reports_of(
    updates: Sequence[Vector],
    examples: Sequence[int] | None = None,
    told: Sequence[Told] | None = None,
    staleness: Sequence[int] | None = None,
    **changes: Any,
) -> Reports:
    count = len(updates)
    words = told or [Told()] * count
    tells = tuple(name for name in ("steps", "loss", "score") if any(getattr(one, name) for one in words))
    plan = plan_for(tells, **changes)
    shares = []
    for place, update in enumerate(updates):
        payload = update.astype("<f4").tobytes()
        body = PlainShare((examples or [1] * count)[place], payload, words[place])
        shares.append(Share(f"device-{place}", plan, pack(body), (staleness or [0] * count)[place]))
    return Reports(plan, shares)


def some(count: int, scale: float = 1.0) -> list[Vector]:
    """Updates that float32 holds exactly."""
    return [RNG.normal(scale=scale, size=D).astype(np.float32).astype(np.float64) for _ in range(count)]


def combined(name: str, reports: Reports, **settings: Any) -> Vector:
    return make_algorithm(name, AlgorithmSettings(**settings)).combine(reports, AlgorithmState(name))


class Walk:
    """A server over several rounds: the mean of each round in, the position out."""

    def __init__(self, name: str, rate: float, **settings: Any) -> None:
        self.algorithm = make_algorithm(name, AlgorithmSettings(**settings))
        self.state = AlgorithmState(name)
        self.rate = rate
        self.at = np.zeros(D)

    def step(self, mean: Vector, where: npt.NDArray[np.int64] | None = None) -> None:
        move = self.algorithm.move(mean, self.rate, self.state, where, D)
        # What a restart would read back.
        self.state = decode_state(encode_state(self.state), self.algorithm.name, D)
        if where is None:
            self.at += move
        else:
            self.at[where] += move


# --- averages --------------------------------------------------------------------------------------


def test_fedavg_is_the_mean_by_examples_up_to_the_cap() -> None:
    updates, examples = some(4), [10, 20, 30, 5000]
    wanted = np.average(updates, axis=0, weights=[10, 20, 30, 1000])
    np.testing.assert_allclose(combined("fedavg", reports_of(updates, examples)), wanted, rtol=1e-12)
    np.testing.assert_allclose(combined("fedprox", reports_of(updates, examples)), wanted, rtol=1e-12)


def test_uniform_weights_forget_examples() -> None:
    updates = some(3)
    found = combined("fedavg", reports_of(updates, [1, 2, 300]), weighting="uniform")
    np.testing.assert_allclose(found, np.mean(updates, axis=0), rtol=1e-12)


def test_weights_by_validation_are_the_devices_scores() -> None:
    updates, scores = some(3), [0.5, 0.25, 0.0]
    reports = reports_of(updates, [1, 2, 300], [Told(score=score) for score in scores])
    wanted = np.average(updates, axis=0, weights=scores)
    np.testing.assert_allclose(combined("fedavg", reports, weighting="validation"), wanted, rtol=1e-12)
    # Where no model got anything right there is nothing to weigh by.
    lost = reports_of(updates, [1, 2, 300], [Told()] * 3)
    found = combined("fedavg", lost, weighting="validation")
    np.testing.assert_allclose(found, np.mean(updates, axis=0), rtol=1e-12)


# --- the server's optimisers -----------------------------------------------------------------------


def adaptive(second: Callable[[Vector, Vector], Vector], means: Sequence[Vector]) -> Vector:
    """Algorithm 2 of Reddi et al. 2021, line by line, in float64."""
    eta, beta_1, tau = 0.1, 0.8, 0.01
    x, m, v = np.zeros(D), np.zeros(D), np.full(D, tau**2)
    for delta in means:
        m = beta_1 * m + (1 - beta_1) * delta
        v = second(v, delta)
        x = x + eta * m / (np.sqrt(v) + tau)
    return x


SECONDS: dict[str, Callable[[Vector, Vector], Vector]] = {
    "fedadam": lambda v, d: 0.95 * v + 0.05 * d**2,
    "fedyogi": lambda v, d: v - 0.05 * d**2 * np.sign(v - d**2),
    "fedadagrad": lambda v, d: v + d**2,
}


@pytest.mark.parametrize("name", SECONDS)
def test_adaptive_optimisers_walk_as_their_paper_says(name: str) -> None:
    means = some(12, 0.05)
    walk = Walk(name, 0.1, beta_1=0.8, beta_2=0.95, adaptivity=0.01)
    for mean in means:
        walk.step(mean)
    np.testing.assert_allclose(walk.at, adaptive(SECONDS[name], means), rtol=2e-5, atol=1e-6)


def test_fedadam_is_torchs_adam_but_for_the_bias_correction() -> None:
    """The first steps of a constant gradient, in closed form (Kingma and Ba 2015, section 3, uncorrected)."""
    walk = Walk("fedadam", 1.0, beta_1=0.9, beta_2=0.99, adaptivity=1e-6)
    gradient = np.full(D, 0.5)
    at = 0.0
    for t in range(1, 5):
        walk.step(gradient)
        at += 0.5 * (1 - 0.9**t) / (math.sqrt(0.25 * (1 - 0.99**t)) + 1e-6)
        np.testing.assert_allclose(walk.at, at, rtol=1e-4)


def test_fedavgm_without_momentum_is_fedavg_and_with_it_a_geometric_sum() -> None:
    means = some(6)
    still, moving = Walk("fedavgm", 0.5, momentum=0.0), Walk("fedavgm", 0.5, momentum=0.7)
    plain = Walk("fedavg", 0.5)
    for mean in means:
        for walk in (still, moving, plain):
            walk.step(mean)
    np.testing.assert_allclose(still.at, plain.at, rtol=1e-12)
    wanted = sum(0.5 * 0.7 ** (late - early) * means[early] for late in range(6) for early in range(late + 1))
    np.testing.assert_allclose(moving.at, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["fedavgm", "fedadam", "fedyogi", "fedadagrad"])
def test_what_a_round_does_not_draw_keeps_its_moments_and_stays(name: str) -> None:
    """Lazy moments: each coordinate walks as it would alone over the rounds that drew it."""
    walk = Walk(name, 0.1)
    rounds = [(mean, np.sort(RNG.choice(D, 9, replace=False)).astype(np.int64)) for mean in some(8, 0.1)]
    for mean, where in rounds:
        walk.step(mean[where], where)
    for place in range(D):
        alone = Walk(name, 0.1)
        for mean, where in rounds:
            if place in where:
                alone.step(np.full(D, mean[place]))
        np.testing.assert_allclose(walk.at[place], alone.at[place], rtol=1e-6, atol=1e-9)


# --- normalised ------------------------------------------------------------------------------------


def test_fednova_is_the_sum_of_the_paper() -> None:
    updates, examples, steps = some(3), [10, 30, 60], [2, 8, 20]
    reports = reports_of(updates, examples, [Told(steps=one) for one in steps])
    p = np.array(examples) / 100
    tau_eff = float(p @ np.array(steps))
    wanted = tau_eff * sum(p[k] * updates[k] / steps[k] for k in range(3))
    np.testing.assert_allclose(combined("fednova", reports), wanted, rtol=1e-6)
    fixed = combined("fednova", reports, even_steps=5.0)
    np.testing.assert_allclose(fixed, wanted * 5 / tau_eff, rtol=1e-6)


def test_fednova_with_even_steps_everywhere_is_fedavg() -> None:
    updates, examples = some(3), [10, 30, 60]
    reports = reports_of(updates, examples, [Told(steps=7)] * 3)
    np.testing.assert_allclose(combined("fednova", reports), combined("fedavg", reports), rtol=1e-6)


@given(st.integers(1, 40), st.floats(0.001, 0.5), st.floats(0, 1.9))
def test_steps_count_as_much_as_their_gradients_do_in_the_update(steps: int, lr: float, mu: float) -> None:
    weight, moved = 0.0, 0.0
    for _ in range(steps):
        # SGD on a gradient of one, pulled back to zero.
        moved = moved - lr * (1 + mu * moved)
    weight = -moved / lr
    assert effective_steps(steps, lr, mu) == pytest.approx(weight, rel=1e-6)


def quadratic(centres: Vector, steps: Sequence[int], name: str, rounds: int, lr: float) -> float:
    """Devices descend F_k = (x - c_k)^2 / 2, ``steps`` times each; return where the server ends."""
    x = np.zeros(D)
    for _ in range(rounds):
        updates = []
        for centre, count in zip(centres, steps, strict=True):
            w = x.copy()
            for _ in range(count):
                w -= lr * (w - centre)
            updates.append(w - x)
        told = [Told(steps=count) for count in steps]
        x = x + combined(name, reports_of(updates, None, told))
    return float(x[0])


def test_fednova_mends_the_objective_that_uneven_steps_bend() -> None:
    """Wang et al. 2020, section 3.1: FedAvg settles at a point weighted by steps, FedNova near the mean."""
    centres, steps, lr = np.array([1.0, -1.0]), [1, 30], 0.01
    bent = quadratic(centres, steps, "fedavg", 300, lr)
    mended = quadratic(centres, steps, "fednova", 300, lr)
    shrink = np.array([1 - (1 - lr) ** count for count in steps])
    # Fixed points, in closed form; the optimum of the mean objective is 0.
    assert bent == pytest.approx(shrink @ centres / shrink.sum(), abs=1e-3)
    even = shrink / steps
    assert mended == pytest.approx(even @ centres / even.sum(), abs=1e-3)
    assert abs(mended) < 0.1
    assert abs(bent) > 0.9


def test_qfedavg_is_algorithm_2_of_its_paper() -> None:
    updates, losses, q, lr = some(3), [0.5, 1.5, 4.0], 2.0, 0.25
    told = [Told(loss=loss) for loss in losses]
    reports = reports_of(updates, None, told, learning_rate=lr)
    upper, lower = np.zeros(D), 0.0
    for update, loss in zip(updates, losses, strict=True):
        gradient = -update / lr
        upper += loss**q * gradient
        lower += q * loss ** (q - 1) * float(gradient @ gradient) + loss**q / lr
    np.testing.assert_allclose(combined("qfedavg", reports, fairness=q), -upper / lower, rtol=1e-6)


def test_qfedavg_without_fairness_is_the_plain_mean() -> None:
    updates = some(4)
    reports = reports_of(updates, [1, 1, 1, 900], [Told(loss=one) for one in (0.1, 1.0, 2.0, 9.0)])
    np.testing.assert_allclose(
        combined("qfedavg", reports, fairness=0.0), np.mean(updates, axis=0), rtol=1e-6
    )


def test_qfedavg_leans_towards_the_device_that_does_worst() -> None:
    updates = [np.eye(D)[0], np.eye(D)[1]]
    reports = reports_of(updates, None, [Told(loss=0.2), Told(loss=2.0)])
    found = combined("qfedavg", reports, fairness=1.0)
    assert found[1] > 5 * found[0] > 0


def test_fedbuff_makes_stale_updates_smaller_and_divides_by_all() -> None:
    updates, ages = some(3), [0, 3, 8]
    reports = reports_of(updates, [10, 10, 10], None, ages)
    wanted = sum(u / math.sqrt(1 + age) for u, age in zip(updates, ages, strict=True)) / 3
    found = FedBuff().combine(reports, AlgorithmState("fedbuff"))
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    fresh = reports_of(updates, [10, 20, 30])
    np.testing.assert_allclose(
        FedBuff().combine(fresh, AlgorithmState("fedbuff")), combined("fedavg", fresh), rtol=1e-6
    )


@pytest.mark.parametrize("fairness", [0.5, 1.0, 5.0, 400.0])
@pytest.mark.parametrize("lie", [1e300, 1.7e308])
def test_qfedavg_bears_with_any_loss_that_is_a_number(fairness: float, lie: float) -> None:
    updates = some(3)
    reports = reports_of(updates, None, [Told(loss=one) for one in (0.0, 2.0, lie)])
    # Who says so leads, but no further than its own update goes.
    np.testing.assert_allclose(
        combined("qfedavg", reports, fairness=fairness), updates[2], rtol=1e-2, atol=1e-2
    )


@pytest.mark.parametrize("lie", [1, 1 << 40])
def test_steps_that_are_not_true_move_fednova_no_further_than_a_longest_update(lie: int) -> None:
    updates, steps = [*some(3, 0.01), np.ones(D)], [20, 30, 40, lie]
    reports = reports_of(updates, None, [Told(steps=one) for one in steps])

    def under(**training: float) -> Reports:
        made = msgspec.structs.replace(
            reports.plan,
            codec=msgspec.structs.replace(reports.plan.codec, clip_norm=1.0),
            training=msgspec.structs.replace(reports.plan.training, **training),
        )
        return Reports(made, [Share(one.device, made, one.data) for one in reports._shares])

    assert 0 < np.linalg.norm(combined("fednova", under())) <= 1.0
    # A pull that throws the weights off grows over all floats.
    assert 0 < np.linalg.norm(combined("fednova", under(learning_rate=1.0, mu=3.0))) <= 1.0


def test_of_two_reports_of_a_device_the_later_is_noted_as_used() -> None:
    fresh = reports_of(some(2))
    now = msgspec.structs.replace(fresh.plan, round=fresh.plan.round + 5)
    late = Share("device-0", fresh.plan, fresh._shares[0].data, 3)
    both = Reports(now, [*(Share(one.device, now, one.data) for one in fresh._shares), late])
    state = AlgorithmState("fedbuff", settled={"device-1": now.round + 1})
    FedBuff().combine(both, state)
    assert state.settled == {"device-0": now.round, "device-1": now.round + 1}


def test_late_reports_with_coordinates_of_their_own_round_move_those() -> None:
    coded = codec_plan(name="randk", dimension=D, kept=5, clip_norm=99.0, ring_bits=0)
    early = msgspec.structs.replace(plan_for(), codec=coded)
    other = msgspec.structs.replace(early.hubs[0], nonce=b"another".ljust(32))
    now = msgspec.structs.replace(early, round=early.round + 1, hubs=(other,))

    def share(plan: Plan, device: str) -> Share:
        context = EncodeContext(dimension=D, kept=5, seed=coordinate_seed(plan), rng=np.random.default_rng(1))
        payload = codec("randk").encode(np.ones(D, np.float32), context).payload
        return Share(device, plan, pack(PlainShare(4, payload)), 0 if plan is now else 1)

    reports = Reports(now, [share(now, "device-0"), share(early, "device-1")])
    moved = FedBuff().combine(reports, AlgorithmState("fedbuff")) != 0
    assert moved.sum() > 5
    base = np.zeros(D, np.float32)
    made = aggregate_opened(reports, vector_bytes(base), Server(algorithm=FedBuff()))
    np.testing.assert_array_equal(vector_of(made.data) != 0, moved)


# --- schedules -------------------------------------------------------------------------------------


def test_schedules_are_their_formulas() -> None:
    assert [ScheduleSettings().at(t) for t in (0, 7, 900)] == [1.0, 1.0, 1.0]
    step = ScheduleSettings(kind="step", every=4, factor=0.5, least=0.2)
    assert [step.at(t) for t in (0, 3, 4, 8, 12, 400)] == [1.0, 1.0, 0.5, 0.25, 0.2, 0.2]
    root = ScheduleSettings(kind="sqrt")
    assert [root.at(t) for t in (0, 3, 99)] == pytest.approx([1.0, 0.5, 0.1])
    cosine = ScheduleSettings(kind="cosine", rounds=10, least=0.1)
    assert [cosine.at(t) for t in (0, 5, 10, 99)] == pytest.approx([1.0, 0.55, 0.1, 0.1])


@given(
    st.sampled_from(["constant", "step", "cosine", "sqrt"]),
    st.integers(0, 20),
    st.floats(1e-6, 0.9),
    st.integers(0, 500),
)
def test_rates_grow_while_warm_and_never_after(kind: Any, warmup: int, least: float, version: int) -> None:
    schedule = ScheduleSettings(kind=kind, warmup=warmup, least=least)
    now, then = schedule.at(version), schedule.at(version + 1)
    assert 0 < now <= 1
    assert then > now if version < warmup else then <= now + 1e-12


@pytest.mark.parametrize("kind", ["constant", "step", "cosine", "sqrt"])
def test_after_a_schedule_s_end_rounds_still_move_something(kind: Any) -> None:
    for factor in (0.5, 0.0):
        assert ScheduleSettings(kind=kind, factor=factor).at(10**7) > 0
    with pytest.raises(msgspec.ValidationError, match="least"):
        msgspec.convert({"kind": kind, "least": 0.0}, ScheduleSettings)


# --- state -----------------------------------------------------------------------------------------


def test_a_state_comes_back_as_it_was_and_belongs_to_its_algorithm() -> None:
    state = AlgorithmState("fedadam", settled={"device-1": 7})
    state.vector("first", D, 0.25)[3] = 9.0
    again = decode_state(encode_state(state), "fedadam", D)
    np.testing.assert_array_equal(again.vectors["first"], state.vectors["first"])
    assert again.settled == {"device-1": 7}
    assert not decode_state(encode_state(state), "fedyogi", D).vectors
    assert encode_state(AlgorithmState("fedavg")) == b""


@pytest.mark.parametrize("damage", [b"\xc1", pack({"algorithm": 3}), pack([1])])
def test_a_damaged_state_is_named(damage: bytes) -> None:
    with pytest.raises(AlgorithmStateError, match="restore the store"):
        decode_state(damage, "fedadam", D)
    state = AlgorithmState("fedadam")
    state.vector("first", D + 1)
    with pytest.raises(AlgorithmStateError, match="folder of its own"):
        decode_state(encode_state(state), "fedadam", D)


# --- robust rules ----------------------------------------------------------------------------------

HONEST = 8
TRUE = np.linspace(-1.0, 1.0, D)


def honest() -> list[Vector]:
    return [TRUE + one for one in some(HONEST, 0.1)]


def poisoned(kind: str) -> list[Vector]:
    """Ten updates, two of them of devices that want the model elsewhere."""
    bad = {"sign flip": -20 * TRUE, "scaled": 100 * TRUE + 5, "constant": np.full(D, 50.0)}[kind]
    return [*honest(), bad, bad * 1.01]


ROBUST = ["median", "trimmed_mean", "krum", "multi_krum", "norm_clip"]


@pytest.mark.parametrize("kind", ["sign flip", "scaled", "constant"])
@pytest.mark.parametrize("name", ROBUST)
def test_two_of_ten_lead_fedavg_away_and_no_robust_rule(name: str, kind: str) -> None:
    updates = poisoned(kind)
    reports = reports_of(updates)
    astray = np.linalg.norm(combined("fedavg", reports) - TRUE)
    near = np.linalg.norm(combined(name, reports) - TRUE)
    assert astray > 2.0
    # A bound on norms lets them push, no further than two honest devices could.
    assert near < (0.5 * np.linalg.norm(TRUE) if name == "norm_clip" else 0.6)


def softmax_training(hostile: int) -> tuple[Reports, Vector, Callable[[Vector], float]]:
    """Ten devices train a softmax on real-valued classes; ``hostile`` of them on labels that are one too far.

    Return their reports, the zeros they began with, and a function from weights to held-out accuracy. Who
    flips labels boasts of many examples.
    """
    rng, classes, features = np.random.default_rng(5), 4, 6
    centres = 2.5 * rng.normal(size=(classes, features))

    def draw(count: int) -> tuple[Vector, npt.NDArray[np.int64]]:
        labels = rng.integers(classes, size=count)
        return centres[labels] + rng.normal(size=(count, features)), labels

    def train(x: Vector, y: npt.NDArray[np.int64]) -> Vector:
        weights = np.zeros((features, classes))
        for _ in range(60):
            scores = np.exp(x @ weights - (x @ weights).max(axis=1, keepdims=True))
            scores /= scores.sum(axis=1, keepdims=True)
            scores[np.arange(len(y)), y] -= 1
            weights -= 0.5 * x.T @ scores / len(y)
        return weights.ravel()

    updates, examples = [], []
    for place in range(10):
        x, y = draw(60)
        flips = place < hostile
        updates.append(train(x, (y + 1) % classes if flips else y))
        examples.append(1000 if flips else 60)
    held_x, held_y = draw(500)

    def accuracy(weights: Vector) -> float:
        found = (held_x @ weights.reshape(features, classes)).argmax(axis=1)
        return float((found == held_y).mean())

    size = features * classes
    coded = codec_plan(name="dense", dimension=size, kept=size, clip_norm=1e9, ring_bits=0, weight_cap=1000)
    made = msgspec.structs.replace(plan_for(), codec=coded)
    shares = {
        f"device-{place}": pack(PlainShare(count, update.astype("<f4").tobytes()))
        for place, (update, count) in enumerate(zip(updates, examples, strict=True))
    }
    return Reports.of(made, shares), np.zeros(size), accuracy


@pytest.mark.parametrize("name", ROBUST)
def test_flipped_labels_lead_fedavg_away_and_no_robust_rule(name: str) -> None:
    reports, start, accuracy = softmax_training(hostile=2)
    honest_reports, _, _ = softmax_training(hostile=0)
    clean = accuracy(start + combined("fedavg", honest_reports))
    poisoned_mean = accuracy(start + combined("fedavg", reports))
    weighting = {"weighting": "uniform"} if name == "norm_clip" else {}
    kept = accuracy(start + combined(name, reports, **weighting))
    assert clean > 0.9
    assert poisoned_mean < 0.5
    assert kept > clean - 0.1


@pytest.mark.parametrize("name", ROBUST)
def test_where_all_agree_every_rule_agrees_with_them(name: str) -> None:
    same = some(1)[0]
    np.testing.assert_allclose(combined(name, reports_of([same] * 10)), same, rtol=1e-6)


def test_rules_are_those_of_their_papers() -> None:
    updates = poisoned("scaled")
    reports, stacked = reports_of(updates), np.array(updates)
    np.testing.assert_allclose(combined("median", reports), np.median(stacked, axis=0), rtol=1e-6)
    inner = np.sort(stacked, axis=0)[2:-2].mean(axis=0)
    np.testing.assert_allclose(combined("trimmed_mean", reports), inner, rtol=1e-6)
    scores = []
    for one in range(10):
        distances = sorted(float(np.sum((stacked[one] - stacked[k]) ** 2)) for k in range(10) if k != one)
        scores.append(sum(distances[: 10 - 2 - 2]))
    with matrix.update_matrix(reports) as held:
        found_scores = krum_scores(squared_distances(held), hostile=2)
    np.testing.assert_allclose(found_scores, scores, rtol=1e-4)
    best = np.argsort(scores)
    np.testing.assert_allclose(combined("krum", reports), stacked[best[0]], rtol=1e-6)
    found = combined("multi_krum", reports, krum_kept=3)
    np.testing.assert_allclose(found, stacked[best[:3]].mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(combined("multi_krum", reports), stacked[best[:8]].mean(axis=0), rtol=1e-6)
    norms = np.linalg.norm(stacked, axis=1)
    short = stacked * np.minimum(1, np.median(norms) / norms)[:, None]
    np.testing.assert_allclose(combined("norm_clip", reports), short.mean(axis=0), rtol=1e-6)
    short = stacked * np.minimum(1, 0.5 / norms)[:, None]
    np.testing.assert_allclose(combined("norm_clip", reports, norm_bound=0.5), short.mean(axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "count", "fault"),
    [
        ("median", 2, "needs 3 reports"),
        ("trimmed_mean", 4, "no hostile one"),
        ("krum", 4, "no hostile one"),
        ("multi_krum", 4, "rounds.minimum to 5"),
    ],
)
def test_too_few_reports_hold_against_nobody(name: str, count: int, fault: str) -> None:
    with pytest.raises(TooFewReportsError, match=fault):
        combined(name, reports_of(some(count)))


def test_krum_needs_three_more_than_twice_the_hostile() -> None:
    with pytest.raises(TooFewReportsError, match="needs 9 reports against 3"):
        combined("krum", reports_of(some(8)), hostile_share=0.4)


def test_a_matrix_too_large_for_memory_lies_in_a_file_and_is_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reports = reports_of(poisoned("scaled"))
    with matrix.update_matrix(reports) as held:
        (whole,) = (block for _, block in held.blocks())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with matrix.update_matrix(reports, in_memory_bytes=0) as spilled:
        parts = list(spilled.blocks(block_bytes=4 * 10 * 5))
    assert [place.start for place, _ in parts] == [0, 5, 10, 15, 20]
    np.testing.assert_array_equal(np.hstack([block for _, block in parts]), whole)
    assert list(tmp_path.iterdir()) == []


# SCAFFOLD takes controls with the updates: test_scaffold.
@pytest.mark.parametrize("name", sorted(set(ALGORITHMS) - {"scaffold"}))
def test_combining_changes_nothing_that_it_was_given(name: str) -> None:
    told = [Told(steps=3, loss=1.0, score=0.5)] * 10
    reports = reports_of(poisoned("scaled"), None, told)
    before = [one.update.copy() for one in reports]
    combined(name, reports)
    for was, now in zip(before, reports, strict=True):
        np.testing.assert_array_equal(was, now.update)


@pytest.mark.parametrize("name", ["int8", "topk", "randk"])
def test_updates_come_as_their_codec_leaves_them(name: str) -> None:
    kept = D if name == "int8" else 9
    made = msgspec.structs.replace(
        plan_for(), codec=codec_plan(name=name, dimension=D, kept=kept, clip_norm=99.0, ring_bits=0)
    )
    update = some(1)[0].astype(np.float32)
    context = EncodeContext(
        dimension=D,
        kept=kept,
        seed=coordinate_seed(made),
        rng=np.random.default_rng(1),
        residual=np.zeros(D, np.float32),
    )
    payload = codec(name).encode(update, context).payload
    reports = Reports.of(made, {"device-0": pack(PlainShare(4, payload))})
    found = combined("fedavg", reports)
    assert np.count_nonzero(found) <= kept
    assert float(found @ update) > 0
