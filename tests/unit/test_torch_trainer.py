"""Training in PyTorch: the same gradients as the reference, as LiteRT, and as derived by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import shoal_coordinator
from shoal_codecs.wire.task import (
    Architecture,
    LayerDescription,
    Parameter,
    TaskBundle,
    TypedArray,
    decode_task,
    split_weights,
)
from shoal_coordinator.tasks import shipped_task
from shoal_edge.data import load_shard
from shoal_edge.trainers.base import ExamplePrivacy, FitOptions, Trainer
from shoal_edge.trainers.errors import (
    FitCancelledError,
    MissingRuntimeError,
    NoArchitectureError,
    NonFiniteLossError,
    NonFiniteWeightsError,
    NoPrivateTrainingError,
    SelfTestError,
    TaskMismatchError,
    UnknownLayerError,
    WeightShapeError,
)
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.trainers.opening import open_trainer

pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'shoal[torch]'")

from shoal_edge.trainers.pytorch import TorchTrainer

DATA = Path(shoal_coordinator.__file__).parent / "demo" / "data"
DIGITS = decode_task(shipped_task("digits").read_bytes())
assert DIGITS.architecture is not None
SGD = DIGITS.architecture
LAYERS = SGD.layers
FIELD = load_shard(DATA / "digits.npz", DIGITS.input, 10)
PARAMETERS = DIGITS.parameters
NAMES = ("dense1_w", "dense1_b", "dense2_w", "dense2_b")
Vector = npt.NDArray[np.float32]


def changed(**fields: object) -> TaskBundle:
    return msgspec.structs.replace(DIGITS, **fields)


def with_optimiser(kind: str, **settings: float) -> TaskBundle:
    return changed(
        architecture=msgspec.structs.replace(SGD, optimiser=LayerDescription(kind, "", {**settings}))
    )


def gradient_by_hand(
    vector: npt.NDArray[np.float64], x: npt.NDArray[Any], y: npt.NDArray[Any]
) -> npt.NDArray[np.float64]:
    """Return the gradient of the mean loss, in float64."""
    parts: Any = split_weights(vector, PARAMETERS)  # type: ignore[arg-type]
    w1, b1, w2, b2 = (parts[name] for name in NAMES)
    scaled = x / 16
    before = scaled @ w1 + b1
    hidden = np.maximum(before, 0)
    error = np.exp(hidden @ w2 + b2)
    error /= error.sum(axis=1, keepdims=True)
    error[np.arange(len(y)), y] -= 1
    error /= len(y)
    back = (error @ w2.T) * (before > 0)
    return np.concatenate(
        [part.ravel() for part in (scaled.T @ back, back.sum(0), hidden.T @ error, error.sum(0))]
    )


def batches(count: int, size: int, seed: int) -> list[npt.NDArray[np.intp]]:
    order = np.random.default_rng(seed).permutation(count)
    return [order[start : start + size] for start in range(0, count, size)]


def trained(trainer: Trainer, options: FitOptions, examples: int = 40, seed: int = 3) -> Vector:
    trainer.set_weights(trainer.initial_weights())
    trainer.fit(FIELD.x[:examples], FIELD.y[:examples], options, np.random.default_rng(seed))
    return trainer.get_weights()


@pytest.fixture(scope="module")
def trainer() -> TorchTrainer:
    return TorchTrainer(DIGITS)


def test_gradients_are_those_of_the_reference(trainer: TorchTrainer) -> None:
    half = trainer.initial_weights() * np.float32(0.5)
    trainer.set_weights(half)
    trainer.self_test()
    assert np.array_equal(trainer.get_weights(), half)
    as_protocol: Trainer = trainer
    assert (as_protocol.dimension, as_protocol.runtime[:6]) == (9610, "torch ")


def test_it_trains_as_litert_does(trainer: TorchTrainer) -> None:
    litert = LiteRtTrainer(DIGITS)
    options = FitOptions(epochs=3, learning_rate=0.2, batch_size=16)
    x, y = FIELD.x[:100], FIELD.y[:100]
    ends, reports = [], []
    for one in (trainer, litert):
        one.set_weights(one.initial_weights())
        reports.append(one.fit(x, y, options, np.random.default_rng(3)))
        ends.append(one.get_weights())
    assert np.abs(ends[0] - ends[1]).max() < 1e-5
    mine, theirs = reports
    assert (mine.steps, mine.examples) == (theirs.steps, theirs.examples) == (21, 100)
    assert mine.loss_before == pytest.approx(theirs.loss_before, rel=1e-5)
    assert mine.loss_after == pytest.approx(theirs.loss_after, rel=1e-4)
    assert trainer.evaluate(FIELD.x, FIELD.y).correct == litert.evaluate(FIELD.x, FIELD.y).correct


def test_fedprox_and_corrections_change_every_gradient(trainer: TorchTrainer) -> None:
    correction = np.random.default_rng(1).normal(0, 0.01, 9610).astype(np.float32)
    options = FitOptions(epochs=1, learning_rate=0.2, batch_size=16, mu=0.5, correction=correction)
    start = trainer.initial_weights().astype(np.float64)
    by_hand = start.copy()
    for batch in batches(40, 16, 3):
        pull = 0.5 * (by_hand - start) + correction
        by_hand -= 0.2 * (gradient_by_hand(by_hand, FIELD.x[batch], FIELD.y[batch]) + pull)
    assert np.abs(trained(trainer, options) - by_hand).max() < 1e-6
    # The next weights forget both.
    plain = start.copy()
    for batch in batches(40, 16, 3):
        plain -= 0.2 * gradient_by_hand(plain, FIELD.x[batch], FIELD.y[batch])
    again = trained(trainer, FitOptions(epochs=1, learning_rate=0.2, batch_size=16))
    assert np.abs(again - plain).max() < 1e-6


def test_momentum_is_polyaks() -> None:
    momentum = TorchTrainer(with_optimiser("momentum", decay=0.9))
    by_hand = momentum.initial_weights().astype(np.float64)
    velocity = np.zeros_like(by_hand)
    for batch in batches(40, 16, 3):
        velocity = 0.9 * velocity + gradient_by_hand(by_hand, FIELD.x[batch], FIELD.y[batch])
        by_hand -= 0.1 * velocity
    options = FitOptions(epochs=1, learning_rate=0.1, batch_size=16)
    assert np.abs(trained(momentum, options) - by_hand).max() < 1e-6
    # Setting weights forgets the velocity.
    assert np.abs(trained(momentum, options) - by_hand).max() < 1e-6


def test_adam_is_kingmas_and_bas() -> None:
    adam = TorchTrainer(with_optimiser("adam", beta1=0.9, beta2=0.99, epsilon=1e-3))
    by_hand = adam.initial_weights().astype(np.float64)
    first, second = np.zeros_like(by_hand), np.zeros_like(by_hand)
    for step, batch in enumerate(batches(40, 16, 3), start=1):
        gradient = gradient_by_hand(by_hand, FIELD.x[batch], FIELD.y[batch])
        first = 0.9 * first + 0.1 * gradient
        second = 0.99 * second + 0.01 * gradient**2
        by_hand -= 0.01 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-3)
    options = FitOptions(epochs=1, learning_rate=0.01, batch_size=16)
    assert np.abs(trained(adam, options) - by_hand).max() < 1e-6
    adam.self_test()


def test_private_training_hides_as_promised(trainer: TorchTrainer) -> None:
    privacy = ExamplePrivacy(clip=0.5, noise=2.0)
    options = FitOptions(epochs=1, learning_rate=1.0, batch_size=4, privacy=privacy)
    moves = [(trained(trainer, options, examples=4) - trainer.initial_weights()) * 4 for _ in range(2)]
    assert (moves[0] - moves[1]).std() == pytest.approx(0.5 * 2.0 * math.sqrt(2), rel=0.05)
    with pytest.raises(NoPrivateTrainingError):
        trained(TorchTrainer(changed(private=None)), options)


@pytest.mark.parametrize(
    "reference",
    [
        {"loss_sum": DIGITS.reference.loss_sum * 1.001},
        {"scales": tuple(2 * one for one in DIGITS.reference.scales)},
        {"gradient": TypedArray.of(-DIGITS.reference.gradient.numpy())},
    ],
)
def test_another_reference_is_refused(reference: dict[str, Any]) -> None:
    bundle = changed(reference=msgspec.structs.replace(DIGITS.reference, **reference))
    with pytest.raises(SelfTestError):
        TorchTrainer(bundle).self_test()


def layers(*kinds: str) -> TaskBundle:
    described = tuple(LayerDescription(kind, f"{kind}1", {"function": "relu"}) for kind in kinds)
    return changed(architecture=msgspec.structs.replace(SGD, layers=described))


def test_what_it_cannot_build_is_named() -> None:
    with pytest.raises(NoArchitectureError, match="litert"):
        TorchTrainer(changed(architecture=None))
    with pytest.raises(UnknownLayerError, match="quantum"):
        TorchTrainer(layers("dense", "quantum"))
    with pytest.raises(TaskMismatchError, match="dense2_w"):
        TorchTrainer(layers("dense", "activation"))
    with pytest.raises(UnknownLayerError, match="lion"):
        TorchTrainer(with_optimiser("lion"))
    wrong = msgspec.structs.replace(LAYERS[1], settings={"function": "swish"})
    swish = changed(architecture=msgspec.structs.replace(SGD, layers=(LAYERS[0], wrong, LAYERS[2])))
    with pytest.raises(UnknownLayerError, match="swish"):
        TorchTrainer(swish).self_test()


def test_weights_and_losses_that_are_not_finite_end_it(trainer: TorchTrainer) -> None:
    with pytest.raises(WeightShapeError):
        trainer.set_weights(np.zeros(9, np.float32))
    with pytest.raises(NonFiniteWeightsError):
        trainer.set_weights(np.full(9610, np.nan, np.float32))
    with pytest.raises((NonFiniteLossError, NonFiniteWeightsError)):
        trained(trainer, FitOptions(epochs=4, learning_rate=1e30, batch_size=8))
    trainer.set_weights(trainer.initial_weights())
    with pytest.raises(FitCancelledError):
        trainer.fit(
            FIELD.x,
            FIELD.y,
            FitOptions(epochs=1, learning_rate=0.1, batch_size=8),
            np.random.default_rng(0),
            lambda: True,
        )


def test_settings_choose_the_trainer(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(open_trainer(DIGITS, "torch"), TorchTrainer)
    assert isinstance(open_trainer(DIGITS, "auto"), LiteRtTrainer)
    monkeypatch.setattr("shoal_edge.trainers.runtime.RUNTIMES", ("no_such_interpreter",))
    assert isinstance(open_trainer(DIGITS, "auto"), TorchTrainer)
    with pytest.raises(MissingRuntimeError):
        open_trainer(DIGITS, "litert")


def test_values_are_learned_too() -> None:
    """One dense layer under the mean squared error is linear regression, whose gradient is 2/n X'(Xw - y)."""
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(8, 3)).astype(np.float32), rng.normal(size=(8, 2)).astype(np.float32)
    bundle = changed(
        parameters=(Parameter("dense1_w", (3, 2), 0.5), Parameter("dense1_b", (2,))),
        architecture=Architecture((LayerDescription("dense", "dense1", {"units": 2}),)),
        input=msgspec.structs.replace(DIGITS.input, shape=(3,), dtype="float32", minimum=-9, maximum=9),
        target=msgspec.structs.replace(DIGITS.target, kind="values", shape=(2,)),
        labels=(),
        private=None,
    )
    trainer = TorchTrainer(bundle)
    start = trainer.initial_weights()
    parts = split_weights(start, bundle.parameters)
    off = x @ parts["dense1_w"] + parts["dense1_b"] - y
    wanted = np.concatenate([(x.T @ off / 8).ravel(), off.mean(axis=0)])
    options = FitOptions(epochs=1, learning_rate=1.0, batch_size=8)
    report = trainer.fit(x, y, options, np.random.default_rng(0))
    assert report.loss_before == pytest.approx((off**2).mean(), rel=1e-5)
    assert np.abs(start - trainer.get_weights() - wanted).max() < 1e-6
    assert trainer.evaluate(x, y).correct == 0
