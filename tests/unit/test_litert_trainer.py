"""Training in the LiteRT interpreter: right gradients, real learning, every fault by name."""

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import shoal_coordinator
from shoal_codecs.wire.task import (
    Parameter,
    TaskBundle,
    TypedArray,
    decode_task,
    gradient_levels,
    initial_weights,
    split_weights,
)
from shoal_codecs.wire.task_check import GRADIENT_FOLD
from shoal_coordinator.artefacts import templates_of_file
from shoal_edge.data import Examples, load_shard
from shoal_edge.trainers import baseline, runtime
from shoal_edge.trainers.base import EvaluationCounts, FitOptions, Trainer
from shoal_edge.trainers.errors import (
    ExampleRangeError,
    ExampleShapeError,
    ExampleTypeError,
    FitCancelledError,
    InvalidFitSettingsError,
    LabelRangeError,
    MissingRuntimeError,
    MissingSignatureError,
    NonFiniteLossError,
    NonFiniteWeightsError,
    SelfTestError,
    TaskMismatchError,
    TooFewExamplesError,
    UnsupportedTrainingError,
    UnusableModelError,
    WeightShapeError,
)
from shoal_edge.trainers.litert import LiteRtTrainer

DATA = Path(shoal_coordinator.__file__).parent / "demo" / "data"
DIGITS = decode_task((DATA.parents[1] / "tasks" / "digits.task").read_bytes())
FIELD = load_shard(DATA / "digits.npz", DIGITS.input, 10)
Vector = npt.NDArray[np.float32]


@pytest.fixture(scope="module")
def trainer() -> LiteRtTrainer:
    return LiteRtTrainer(DIGITS)


def changed(**fields: object) -> TaskBundle:
    return msgspec.structs.replace(DIGITS, **fields)


def mlp_by_hand(
    vector: Vector, x: npt.NDArray[Any], y: npt.NDArray[Any]
) -> tuple[float, int, npt.NDArray[np.float64]]:
    """Return summed loss, correct count and the gradient of the mean loss, in float64."""
    parts_32 = split_weights(vector, DIGITS.parameters)
    p = {name: part.astype(np.float64) for name, part in parts_32.items()}
    scaled = x / 16
    before = scaled @ p["dense1_w"] + p["dense1_b"]
    hidden = np.maximum(before, 0)
    logits = hidden @ p["dense2_w"] + p["dense2_b"]
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    rows = np.arange(len(y))
    error = np.exp(log_p)
    error[rows, y] -= 1
    error /= len(y)
    back = (error @ p["dense2_w"].T) * (before > 0)
    parts = [scaled.T @ back, back.sum(0), hidden.T @ error, error.sum(0)]
    correct = int((logits.argmax(axis=1) == y).sum())
    return -log_p[rows, y].sum(), correct, np.concatenate([part.ravel() for part in parts])


def test_gradients_are_those_tensorflow_computed(trainer: LiteRtTrainer) -> None:
    trainer.set_weights(trainer.initial_weights() * np.float32(0.5))
    trainer.self_test()
    assert np.array_equal(trainer.get_weights(), trainer.initial_weights() * np.float32(0.5))


def test_the_reference_itself_is_right(trainer: LiteRtTrainer) -> None:
    reference = DIGITS.reference
    loss_sum, correct, gradient = mlp_by_hand(
        trainer.initial_weights(), reference.x.numpy(), reference.y.numpy()
    )
    levels, scales = gradient_levels(gradient, DIGITS.parameters)
    assert np.abs(levels.astype(np.int32) - reference.gradient.numpy()).max() <= 1
    assert scales == pytest.approx(reference.scales)
    assert trainer.initial_weights() == pytest.approx(initial_weights(DIGITS.parameters, reference.seed))
    assert correct == reference.correct
    assert loss_sum == pytest.approx(reference.loss_sum)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 40))
def test_a_step_of_any_batch_follows_the_gradient_derived_by_hand(
    trainer: LiteRtTrainer, seed: int, count: int
) -> None:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 17, (count, 64)).astype(np.uint8)
    y = rng.integers(0, 10, count)
    start = initial_weights(DIGITS.parameters, seed)
    loss_sum, correct, gradient = mlp_by_hand(start, x, y)
    trainer.set_weights(start)
    counts = trainer.evaluate(x, y)
    assert (counts.examples, counts.correct) == (count, correct)
    assert counts.loss_sum == pytest.approx(loss_sum, rel=1e-5)
    report = trainer.fit(x, y, FitOptions(epochs=1, learning_rate=1, batch_size=count), rng)
    assert (report.steps, report.examples) == (1, count)
    assert report.loss_before == pytest.approx(loss_sum / count, rel=1e-5)
    assert np.abs(start - trainer.get_weights() - gradient).max() < 1e-6


def test_a_last_smaller_batch_counts_each_example_once(trainer: LiteRtTrainer) -> None:
    x, y = FIELD.x[:21], FIELD.y[:21]
    by_hand = trainer.initial_weights().astype(np.float64)
    order = np.random.default_rng(3).permutation(21)
    for batch in (order[:16], order[16:]):
        by_hand -= 0.2 * mlp_by_hand(by_hand.astype(np.float32), x[batch], y[batch])[2]
    trainer.set_weights(trainer.initial_weights())
    report = trainer.fit(
        x, y, FitOptions(epochs=1, learning_rate=0.2, batch_size=16), np.random.default_rng(3)
    )
    assert report.steps == 2
    assert np.abs(trainer.get_weights() - by_hand).max() < 1e-6


def test_evaluations_of_parts_add_up_to_the_whole(trainer: LiteRtTrainer) -> None:
    trainer.set_weights(trainer.initial_weights())
    whole = trainer.evaluate(FIELD.x, FIELD.y)
    parts = [trainer.evaluate(FIELD.x[k : k + 300], FIELD.y[k : k + 300]) for k in range(0, 1697, 300)]
    total = sum(parts, EvaluationCounts())
    assert (total.examples, total.correct) == (whole.examples, whole.correct) == (1697, whole.correct)
    assert total.loss_sum == pytest.approx(whole.loss_sum, rel=1e-5)


def test_the_digits_are_learned_and_the_same_seed_learns_the_same() -> None:
    first, again = (
        baseline.pooled_baseline(DIGITS, [FIELD], epochs=40, learning_rate=0.2, batch_size=16, seed=1)
        for _ in range(2)
    )
    assert first.accuracy > 0.95
    assert first.counts == again.counts
    assert first.counts.examples == round(0.2 * len(FIELD))


def test_the_baseline_command_speaks_json_and_names_its_faults(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    task = ["--task", str(DATA.parents[1] / "tasks" / "digits.task"), "--epochs", "1"]
    assert baseline.main([*task, str(DATA / "digits.npz")]) == 0
    answer = msgspec.json.decode(capfd.readouterr().out, type=baseline.Baseline)
    assert answer.counts.examples == 339
    assert baseline.main([*task, str(tmp_path / "none.npz")]) == 1
    assert "UnreadableDataError" in capfd.readouterr().err


def test_it_is_a_trainer(trainer: LiteRtTrainer) -> None:
    as_protocol: Trainer = trainer
    assert as_protocol.dimension == 9610


def fit(trainer: LiteRtTrainer, examples: Examples, **settings_: Any) -> None:
    heard = {name: settings_.pop(name) for name in ("should_stop", "on_progress") if name in settings_}
    options = FitOptions(**{"epochs": 2, "learning_rate": 0.2, "batch_size": 16, **settings_})
    trainer.fit(examples.x, examples.y, options, np.random.default_rng(0), **heard)


def test_a_fit_stops_while_it_looks_at_the_base_too(trainer: LiteRtTrainer) -> None:
    """On a small board the losses before and after many examples take as long as the steps."""
    trainer.set_weights(trainer.initial_weights())
    allowed, batches, steps = 2, 0, 0

    def should_stop() -> bool:
        nonlocal batches
        batches += 1
        return batches > allowed

    def hear(*_: int) -> None:
        nonlocal steps
        steps += 1

    with pytest.raises(FitCancelledError):
        fit(trainer, FIELD, should_stop=should_stop, on_progress=hear)
    assert (batches, steps) == (allowed + 1, 0)


def test_a_fit_that_is_told_to_stop_stops_and_says_so(trainer: LiteRtTrainer) -> None:
    trainer.set_weights(trainer.initial_weights())
    heard: list[tuple[int, int]] = []
    with pytest.raises(FitCancelledError):
        fit(
            trainer,
            FIELD,
            should_stop=lambda: len(heard) == 3,
            on_progress=lambda done, total: heard.append((done, total)),
        )
    assert heard == [(1, 214), (2, 214), (3, 214)]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_weights_that_are_not_finite_never_enter(trainer: LiteRtTrainer, value: float) -> None:
    trainer.set_weights(trainer.initial_weights())
    bad = trainer.initial_weights()
    bad[-1] = value
    with pytest.raises(NonFiniteWeightsError):
        trainer.set_weights(bad)
    assert np.array_equal(trainer.get_weights(), trainer.initial_weights())


@pytest.mark.parametrize("bad", [np.zeros(9609, np.float32), np.zeros((1, 9610), np.float32), np.zeros(9610)])
def test_weights_of_another_length_or_type_never_enter(trainer: LiteRtTrainer, bad: Vector) -> None:
    with pytest.raises(WeightShapeError):
        trainer.set_weights(bad)


def test_a_fit_that_diverges_says_so_and_the_trainer_recovers(trainer: LiteRtTrainer) -> None:
    trainer.set_weights(trainer.initial_weights())
    with pytest.raises((NonFiniteLossError, NonFiniteWeightsError)):
        fit(trainer, FIELD, learning_rate=1e30)
    trainer.set_weights(trainer.initial_weights())
    trainer.self_test()


@pytest.mark.parametrize(
    "setting",
    [{"epochs": 0}, {"batch_size": 0}, {"learning_rate": 0.0}, {"learning_rate": math.nan}, {"mu": -1.0}],
)
def test_senseless_settings_are_refused(trainer: LiteRtTrainer, setting: dict[str, Any]) -> None:
    with pytest.raises(InvalidFitSettingsError):
        fit(trainer, FIELD, **setting)


def test_fedprox_and_corrections_change_every_gradient(trainer: LiteRtTrainer) -> None:
    correction = np.random.default_rng(1).normal(0, 0.01, 9610).astype(np.float32)
    start = trainer.initial_weights().astype(np.float64)
    order = np.random.default_rng(0).permutation(40)
    for pull, offset in ((0.5, correction), (0.0, correction), (0.5, None), (0.0, None)):
        by_hand = start.copy()
        for batch in (order[:16], order[16:32], order[32:]):
            gradient = mlp_by_hand(by_hand.astype(np.float32), FIELD.x[batch], FIELD.y[batch])[2]
            added = pull * (by_hand - start) + (0 if offset is None else offset)
            by_hand -= 0.2 * (gradient + added)
        # What is set anew forgets the correction of the fit before.
        trainer.set_weights(trainer.initial_weights())
        few = Examples(FIELD.x[:40], FIELD.y[:40])
        fit(trainer, few, epochs=1, mu=pull, correction=offset)
        assert np.abs(trainer.get_weights() - by_hand).max() < 1e-6


@pytest.mark.parametrize("setting", [{"mu": 0.1}, {"correction": np.zeros(9610, np.float32)}])
def test_what_the_task_was_authored_without_is_refused(setting: dict[str, Any]) -> None:
    trainer = LiteRtTrainer(changed(abilities=()))
    with pytest.raises(UnsupportedTrainingError, match="author it with"):
        fit(trainer, FIELD, **setting)


@pytest.mark.parametrize(
    ("error", "x", "y"),
    [
        (ExampleShapeError, FIELD.x[:, :63], FIELD.y),
        (ExampleShapeError, FIELD.x.reshape(-1, 8, 8), FIELD.y),
        (ExampleTypeError, FIELD.x.astype(np.float32), FIELD.y),
        (ExampleRangeError, FIELD.x + 1, FIELD.y),
        (LabelRangeError, FIELD.x, FIELD.y + 1),
        (TooFewExamplesError, FIELD.x[:0], FIELD.y[:0]),
    ],
)
def test_data_of_another_task_is_refused(
    trainer: LiteRtTrainer, error: type[Exception], x: npt.NDArray[Any], y: npt.NDArray[Any]
) -> None:
    with pytest.raises(error):
        fit(trainer, Examples(x, y))
    with pytest.raises(error):
        trainer.evaluate(x, y)


def test_a_model_without_the_signatures_cannot_be_trained() -> None:
    templates = templates_of_file(DATA.parents[1] / "tasks" / "digits.task")
    with pytest.raises(MissingSignatureError, match="train, evaluate, get_weights, set_weights"):
        LiteRtTrainer(changed(trainable=templates.float32.model))


@pytest.mark.parametrize(
    "damaged",
    [b"", b"TFL3", DIGITS.trainable[:2000], DIGITS.trainable[:8] + bytes(4000), b"PK" * 500],
)
def test_a_damaged_model_is_refused(damaged: bytes) -> None:
    with pytest.raises(UnusableModelError):
        LiteRtTrainer(changed(trainable=damaged))


def test_a_model_of_other_weights_is_refused() -> None:
    swapped = (*DIGITS.parameters[:3], Parameter("b3", (10,)))
    with pytest.raises(TaskMismatchError):
        LiteRtTrainer(changed(parameters=swapped))


def test_a_fault_inside_the_interpreter_has_a_name(
    trainer: LiteRtTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(trainer._signatures, "train", trainer._signatures["evaluate"])
    with pytest.raises(UnusableModelError, match="update the agent"):
        fit(trainer, FIELD)


def other_reference(**fields: object) -> TaskBundle:
    return changed(reference=msgspec.structs.replace(DIGITS.reference, **fields))


def wrong_gradients() -> dict[str, TaskBundle]:
    right = DIGITS.reference.gradient.numpy()
    slightly, flipped, transposed, missing = (right.copy() for _ in range(4))
    slightly[2000] += 33
    flipped[:GRADIENT_FOLD] *= -1
    turned = right[GRADIENT_FOLD + 128 : -10].reshape(128, 10).T
    transposed[GRADIENT_FOLD + 128 : -10] = turned.ravel()
    missing[-10:] = 0
    wrong = {"slightly": slightly, "flipped": flipped, "transposed": transposed, "missing": missing}
    first, *others = DIGITS.reference.scales
    return {name: other_reference(gradient=TypedArray.of(one)) for name, one in wrong.items()} | {
        "another learning rate": other_reference(scales=tuple(2 * one for one in DIGITS.reference.scales)),
        "one parameter too fast": other_reference(scales=(first * 1.001, *others)),
        "from other weights": other_reference(seed=DIGITS.reference.seed + 1),
    }


@pytest.mark.parametrize("bundle", wrong_gradients().values(), ids=wrong_gradients().keys())
def test_an_interpreter_that_computes_other_gradients_does_not_train(bundle: TaskBundle) -> None:
    with pytest.raises(SelfTestError, match="gradients are off"):
        LiteRtTrainer(bundle).self_test()


@pytest.mark.parametrize(
    "bundle",
    [
        other_reference(loss_sum=DIGITS.reference.loss_sum * 1.001),
        other_reference(correct=DIGITS.reference.correct + 1),
    ],
)
def test_an_interpreter_that_computes_something_else_does_not_train(bundle: TaskBundle) -> None:
    with pytest.raises(SelfTestError):
        LiteRtTrainer(bundle).self_test()


def test_without_an_interpreter_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "RUNTIMES", ("shoal_edge.no_such_runtime",))
    with pytest.raises(MissingRuntimeError, match=r"shoal\[edge\]"):
        LiteRtTrainer(DIGITS)
