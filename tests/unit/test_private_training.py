"""DP-SGD on the device: right gradients, clipped and noised as the plan says, refused where it cannot be."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from dp_accounting import GaussianDpEvent, SelfComposedDpEvent
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

import shoal_coordinator
from edge_parts import make_fleet, make_plan
from shoal_codecs.privacy.accountant import ORDERS, epsilon_of, sampled_gaussian_rdp
from shoal_codecs.privacy.errors import UnprivatePlanError
from shoal_codecs.privacy.examples import example_charge
from shoal_codecs.privacy.gaussian import GaussianNoise
from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.plan import TrainingPlan, decode_plan, encode_plan
from shoal_codecs.wire.task import PrivateReference, TaskBundle, decode_task, initial_weights, split_weights
from shoal_coordinator.config import CoordinatorSettings, RoundSettings
from shoal_coordinator.round_errors import InvalidRoundPlanError
from shoal_coordinator.service import plan_settings
from shoal_edge.data import load_shard
from shoal_edge.trainers.base import ExamplePrivacy, FitOptions
from shoal_edge.trainers.errors import (
    InvalidFitSettingsError,
    MissingSignatureError,
    NoPrivateTrainingError,
    SelfTestError,
    TaskMismatchError,
)
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.trainers.private import PrivateSteps, noise_inputs

DATA = Path(shoal_coordinator.__file__).parent / "demo" / "data"
DIGITS = decode_task((DATA.parents[1] / "tasks" / "digits.task").read_bytes())
FIELD = load_shard(DATA / "digits.npz", DIGITS.input, 10)
D = DIGITS.dimension
KEY = bytes(range(32))


@pytest.fixture(scope="module")
def trainer() -> LiteRtTrainer:
    return LiteRtTrainer(DIGITS)


def changed(**fields: object) -> TaskBundle:
    return msgspec.structs.replace(DIGITS, **fields)


def example_gradients(vector: npt.NDArray[np.float32], x: Any, y: Any) -> npt.NDArray[np.float64]:
    """Return each example's gradient (n, D) in float64, laid out in full, from the chain rule."""
    p = {name: part.astype(np.float64) for name, part in split_weights(vector, DIGITS.parameters).items()}
    scaled = x / 16
    before = scaled @ p["dense1_w"] + p["dense1_b"]
    hidden = np.maximum(before, 0)
    logits = hidden @ p["dense2_w"] + p["dense2_b"]
    error = np.exp(logits - logits.max(axis=1, keepdims=True))
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    back = (error @ p["dense2_w"].T) * (before > 0)
    rows = [
        np.concatenate([np.outer(s, b).ravel(), b, np.outer(h, e).ravel(), e])
        for s, b, h, e in zip(scaled, back, hidden, error, strict=True)
    ]
    return np.array(rows)


def private_step(
    trainer: LiteRtTrainer, x: Any, y: Any, clip: float, noise: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return what one step of ``train_private`` at rate 1 moves the weights by."""
    start = trainer.get_weights()
    inputs = noise_inputs(noise, DIGITS.parameters)
    trainer._run(
        "train_private",
        x=x.astype(np.float32),
        y=y.astype(np.int32),
        lr=np.ones(1, np.float32),
        clip=np.array([clip], np.float32),
        **inputs,
    )
    return start - trainer.get_weights()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 20), clip=st.floats(1e-3, 20))
def test_a_step_is_the_clipped_sum_and_the_noise_over_the_batch(
    trainer: LiteRtTrainer, seed: int, count: int, clip: float
) -> None:
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 17, (count, 64)).astype(np.uint8), rng.integers(0, 10, count)
    start = initial_weights(DIGITS.parameters, seed)
    noise = rng.normal(0, clip, D).astype(np.float32)
    rows = example_gradients(start, x, y)
    kept = np.minimum(1, clip / np.linalg.norm(rows, axis=1))
    trainer.set_weights(start)
    moved = private_step(trainer, x, y, clip, noise)
    assert np.abs(moved - (kept @ rows + noise) / count).max() < 1e-5 * max(1, clip)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), clip=st.floats(0.01, 5))
def test_no_example_moves_a_batch_by_more_than_the_clip_norm(
    trainer: LiteRtTrainer, seed: int, clip: float
) -> None:
    rng = np.random.default_rng(seed)
    start = initial_weights(DIGITS.parameters, seed) * np.float32(3)
    x, y = rng.integers(0, 17, (1, 64)), rng.integers(0, 10, 1)
    steps = PrivateSteps(ExamplePrivacy(clip, 1.0), DIGITS.parameters, GaussianNoise(KEY))
    trainer.set_weights(start)
    moved = private_step(trainer, x, y, float(steps.inputs()["clip"][0]), np.zeros(D, np.float32))
    # Weights of float32 round the step itself.
    assert np.linalg.norm(moved.astype(np.float64)) <= clip + 1e-7 * np.linalg.norm(start)


def test_a_great_clip_and_hardly_any_noise_train_as_without(trainer: LiteRtTrainer) -> None:
    ends = []
    for privacy in (None, ExamplePrivacy(clip=1e4, noise=1e-9)):
        trainer.set_weights(trainer.initial_weights())
        rng = np.random.default_rng(3)
        trainer.fit(
            FIELD.x[:50],
            FIELD.y[:50],
            FitOptions(epochs=2, learning_rate=0.2, batch_size=16, privacy=privacy),
            rng,
        )
        ends.append(trainer.get_weights())
    assert np.abs(ends[0] - ends[1]).max() < 1e-4


def test_the_noise_of_a_fit_is_as_great_as_promised_and_never_the_same(trainer: LiteRtTrainer) -> None:
    privacy = ExamplePrivacy(clip=0.5, noise=2.0)
    moves = []
    for _ in range(2):
        trainer.set_weights(trainer.initial_weights())
        rng = np.random.default_rng(3)
        trainer.fit(
            FIELD.x[:4],
            FIELD.y[:4],
            FitOptions(epochs=1, learning_rate=1, batch_size=4, privacy=privacy),
            rng,
        )
        moves.append((trainer.get_weights() - trainer.initial_weights()) * 4)
    # The same examples and shuffle: what differs is two draws of noise.
    difference = moves[0] - moves[1]
    assert difference.std() == pytest.approx(privacy.clip * privacy.noise * math.sqrt(2), rel=0.05)


def test_the_digits_are_learned_under_noise(trainer: LiteRtTrainer) -> None:
    trainer.set_weights(trainer.initial_weights())
    privacy, rng = ExamplePrivacy(clip=1.0, noise=1.0), np.random.default_rng(1)
    trainer.fit(
        FIELD.x, FIELD.y, FitOptions(epochs=10, learning_rate=0.5, batch_size=64, privacy=privacy), rng
    )
    assert trainer.evaluate(FIELD.x, FIELD.y).accuracy > 0.85


@pytest.mark.parametrize(("clip", "noise"), [(0, 1), (1, 0), (-1, 1), (math.nan, 1), (1, math.inf)])
def test_private_settings_that_protect_nothing_are_refused(
    trainer: LiteRtTrainer, clip: float, noise: float
) -> None:
    with pytest.raises(InvalidFitSettingsError, match="example clip"):
        trainer.fit(
            FIELD.x,
            FIELD.y,
            FitOptions(epochs=1, learning_rate=1, batch_size=4, privacy=ExamplePrivacy(clip, noise)),
            np.random.default_rng(0),
        )


def test_a_task_without_private_training_refuses_it_and_trains_otherwise() -> None:
    plain = LiteRtTrainer(changed(private=None))
    plain.self_test()
    with pytest.raises(NoPrivateTrainingError, match="author it"):
        plain.fit(
            FIELD.x,
            FIELD.y,
            FitOptions(epochs=1, learning_rate=1, batch_size=4, privacy=ExamplePrivacy(1.0, 1.0)),
            np.random.default_rng(0),
        )


def wrong_references() -> dict[str, PrivateReference]:
    assert DIGITS.private is not None
    clip, norms = DIGITS.private.clip, DIGITS.private.norms
    return {
        "one length": PrivateReference(clip, (norms[0] * 1.001, *norms[1:])),
        "lengths of others": PrivateReference(clip, norms[::-1]),
    }


@pytest.mark.parametrize("reference", wrong_references().values(), ids=wrong_references().keys())
def test_an_interpreter_that_finds_other_lengths_does_not_train(reference: PrivateReference) -> None:
    with pytest.raises(SelfTestError, match="long where"):
        LiteRtTrainer(changed(private=reference)).self_test()


class Faulty(LiteRtTrainer):
    """An interpreter that computes ``train_private`` in some wrong way."""

    def __init__(self, fault: str) -> None:
        super().__init__(DIGITS)
        self.fault = fault

    def _run(self, signature: str, /, **inputs: Any) -> dict[str, Any]:
        if signature == "train_private":
            if self.fault == "no clipping":
                inputs["clip"] = inputs["clip"] * 1e6
            elif self.fault == "clipping a little late":
                inputs["clip"] = inputs["clip"] * np.float32(1.001)
            else:
                scale = 0 if self.fault == "no noise" else 0.5
                inputs |= {name: one * np.float32(scale) for name, one in inputs.items() if "noise" in name}
        return super()._run(signature, **inputs)


@pytest.mark.parametrize("fault", ["no clipping", "clipping a little late", "no noise", "half the noise"])
def test_an_interpreter_that_protects_less_does_not_train(fault: str) -> None:
    with pytest.raises(SelfTestError, match="private gradients are off"):
        Faulty(fault).self_test()


def test_a_model_without_the_signature_or_with_other_noise_is_refused() -> None:
    renamed = DIGITS.trainable.replace(b"train_private", b"train_pryvate")
    with pytest.raises(MissingSignatureError, match="train_private"):
        LiteRtTrainer(changed(trainable=renamed))
    with pytest.raises(TaskMismatchError):
        LiteRtTrainer(changed(trainable=DIGITS.trainable.replace(b"noise_dense1_w", b"noise_dense9_w")))


# --- noise ------------------------------------------------------------------------------------------


def test_the_noise_is_normal_independent_and_another_each_time() -> None:
    noise = GaussianNoise(KEY)
    first, second = noise.draw(200_001), noise.draw(200_001)
    assert kstest(first, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 0.01
    assert np.array_equal(GaussianNoise(KEY).draw(200_001), first)
    assert not np.array_equal(GaussianNoise().draw(8), GaussianNoise().draw(8))


# --- what it promises -------------------------------------------------------------------------------


@given(st.floats(0.5, 50), st.integers(1, 20), st.integers(1, 100), st.floats(1e-9, 1e-3))
@settings(max_examples=20, deadline=None)
def test_an_epoch_costs_one_gaussian_release_by_an_independent_accountant(
    noise: float, epochs: int, rounds: int, delta: float
) -> None:
    event = SelfComposedDpEvent(GaussianDpEvent(noise), epochs * rounds)
    theirs = RdpAccountant(orders=ORDERS).compose(event).get_epsilon(delta)
    ours = example_charge(TrainingPlan(epochs, 0.1, 16, 1.0, noise)).times(rounds).epsilon(delta)
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)


def test_shuffled_batches_are_not_given_the_discount_of_poisson_sampling() -> None:
    training = TrainingPlan(10, 0.1, 16, 1.0, 2.0)
    steps, sampled = 10 * 100, 16 / 1600
    discounted = epsilon_of([steps * sampled_gaussian_rdp(2.0, sampled, order) for order in ORDERS], 1e-5)
    assert example_charge(training).epsilon(1e-5) > 10 * discounted


def test_training_without_noise_has_no_price() -> None:
    with pytest.raises(UnprivatePlanError):
        example_charge(TrainingPlan(5, 0.2, 16))


# --- plans and settings -----------------------------------------------------------------------------


def test_a_plan_carries_it_and_refuses_half_of_it() -> None:
    fleet = make_fleet()
    plan = make_plan(fleet, bytes(32), training=TrainingPlan(1, 0.1, 16, 0.5, 1.5))
    assert decode_plan(encode_plan(plan)).training.example_noise == 1.5
    for clip, noise in ((0.5, 0.0), (0.0, 1.5), (-1.0, 1.0), (math.inf, 1.0), (1.0, math.nan)):
        with pytest.raises(InvalidPlanError, match="protects nothing"):
            make_plan(fleet, bytes(32), training=TrainingPlan(1, 0.1, 16, clip, noise))


def test_settings_that_the_task_cannot_keep_end_the_start() -> None:
    wanted = CoordinatorSettings(rounds=RoundSettings(example_clip=0.5, example_noise=1.5))
    plans = plan_settings(wanted, DIGITS, 10)
    assert (plans.example_clip, plans.example_noise) == (0.5, 1.5)
    with pytest.raises(InvalidRoundPlanError, match="train_private"):
        plan_settings(wanted, changed(private=None), 10)
    with pytest.raises(InvalidRoundPlanError, match="protects nothing"):
        plan_settings(CoordinatorSettings(rounds=RoundSettings(example_noise=1.5)), DIGITS, 10)
