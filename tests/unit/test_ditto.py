"""A model of the device's own beside the fleet's: the steps are Ditto's, and a fault of it harms nobody."""

from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given

from edge_parts import TASK
from shoal_codecs.wire.errors import InvalidPlanError
from shoal_codecs.wire.messages import Evaluated
from shoal_codecs.wire.plan import TrainingPlan
from shoal_codecs.wire.task import initial_weights
from shoal_coordinator import round_steps as on
from shoal_coordinator.config import CoordinatorSettings, RoundSettings
from shoal_coordinator.device_words import check_counts
from shoal_coordinator.round_errors import InvalidCountsError, InvalidRoundPlanError
from shoal_coordinator.round_parts import Outcome, personal_accuracy
from shoal_coordinator.service import plan_settings
from shoal_edge.config import EdgeSettings, PersonalSettings
from shoal_edge.data import Examples
from shoal_edge.errors import NoOwnModelError
from shoal_edge.own_models import own_weights
from shoal_edge.own_question import own_question
from shoal_edge.own_tensors import Own, read_own, write_own
from shoal_edge.pending import PendingFile
from shoal_edge.personal_fit import fit_personal
from shoal_edge.trainers.base import FitOptions, FitReport
from shoal_edge.trainers.errors import FitCancelledError, NonFiniteLossError, TrainingError
from shoal_edge.trainers.litert import LiteRtTrainer
from wire_parts import plan as wire_plan

Vector = npt.NDArray[np.float32]
TARGET = np.array([1.0, -2.0, 0.5], np.float32)
DATA = Examples(np.zeros((4, 1), np.uint8), np.zeros(4, np.int32))


class Bowl:
    """A trainer as the protocol describes it, of the loss |v - target|^2 / 2: one step an epoch."""

    def __init__(self, fault: Exception | None = None) -> None:
        self.weights = self.anchor = np.zeros(3, np.float32)
        self.fault = fault

    def set_weights(self, vector: Vector) -> None:
        self.weights = self.anchor = vector.copy()

    def get_weights(self) -> Vector:
        return self.weights.copy()

    def fit(self, _x: Any, _y: Any, options: FitOptions, *_rest: Any) -> FitReport:
        if self.fault is not None:
            raise self.fault
        for _ in range(options.epochs):
            slope = self.weights - TARGET + options.mu * (self.weights - self.anchor) + options.correction
            self.weights = self.weights - np.float32(options.learning_rate) * slope
        return FitReport(options.epochs, 4, 1.0, 0.5)


def vectors() -> st.SearchStrategy[Vector]:
    return st.lists(st.floats(-4, 4, width=16), min_size=3, max_size=3).map(lambda v: np.array(v, np.float32))


def ditto(trainer: Any, base: Vector, model: Vector | None, pull: float, epochs: int = 3) -> Any:
    rng = np.random.default_rng(0)
    training = TrainingPlan(epochs, 0.25, 4)
    return fit_personal(trainer, base, model, DATA, training, pull, rng, lambda: False)


@given(vectors(), vectors(), st.floats(0.0625, 2), st.integers(1, 5))
def test_the_steps_are_those_of_algorithm_1(base: Vector, model: Vector, pull: float, epochs: int) -> None:
    wanted = model.astype(np.float64)
    for _ in range(epochs):
        wanted = wanted - 0.25 * (wanted - TARGET + pull * (wanted - base))
    found = ditto(Bowl(), base, model, pull, epochs)
    np.testing.assert_allclose(found.model, wanted, rtol=1e-5, atol=1e-5)


def test_it_begins_with_the_fleet_s_model_and_is_drawn_to_it() -> None:
    base = np.array([4.0, 4.0, 4.0], np.float32)
    first = ditto(Bowl(), base, None, 0.5).model
    for other in (np.zeros(2, np.float32), np.full(3, np.nan, np.float32)):
        np.testing.assert_array_equal(ditto(Bowl(), base, other, 0.5).model, first)
    # In the end between its own optimum and the base, as the pull weighs them.
    model = ditto(Bowl(), base, None, 0.5, 400).model
    np.testing.assert_allclose(model, (TARGET + 0.5 * base) / 1.5, rtol=1e-5, atol=1e-6)


def test_a_fault_of_it_is_told_and_harms_nothing() -> None:
    base = np.zeros(3, np.float32)
    found = ditto(Bowl(NonFiniteLossError("the loss is nan")), base, None, 0.5)
    assert found.model is None
    assert found.said["personal_fault"] == "NonFiniteLossError"
    with pytest.raises(FitCancelledError):
        ditto(Bowl(FitCancelledError("stop")), base, None, 0.5)
    assert issubclass(FitCancelledError, TrainingError)


@pytest.mark.parametrize(
    ("settings", "planned", "pull"),
    [
        (PersonalSettings(), 0.0, 0.0),
        (PersonalSettings(), 0.3, 0.3),
        (PersonalSettings(ditto=1.0), 0.3, 1.0),
        (PersonalSettings(ditto=1.0), 0.0, 1.0),
        (PersonalSettings(model="off", ditto=1.0), 0.3, 0.0),
    ],
)
def test_the_owner_s_word_goes_before_the_plan_s(
    settings: PersonalSettings, planned: float, pull: float
) -> None:
    assert settings.pull(planned) == pull


def test_a_coordinator_refuses_ditto_for_a_task_that_cannot() -> None:
    settings = CoordinatorSettings(rounds=RoundSettings(ditto=0.1))
    with pytest.raises(InvalidRoundPlanError, match="correction and no mu"):
        plan_settings(settings, msgspec.structs.replace(TASK, abilities=()), 10)
    able = msgspec.structs.replace(TASK, abilities=("mu", "correction"))
    assert plan_settings(settings, able, 10).ditto == 0.1
    with pytest.raises(InvalidPlanError, match="finite"):
        wire_plan(training=TrainingPlan(1, 0.1, 1, ditto=float("inf")))


def test_who_wants_the_own_model_gets_it_or_hears_why_not(tmp_path: Path) -> None:
    path = tmp_path / "own"
    with pytest.raises(NoOwnModelError, match="round"):
        own_weights(TASK, path, None, b"", personal=True)
    with pytest.raises(NoOwnModelError, match="no model of the fleet"):
        own_weights(TASK, path, None, b"", personal=False)
    model = np.arange(TASK.dimension, dtype=np.float32)
    write_own(path, Own({}, model))
    np.testing.assert_array_equal(own_weights(TASK, path, None, b"", personal=True), model)
    assert read_own(path).tensors == {}


def test_the_deployed_model_answers_unless_something_is_the_device_s_own(tmp_path: Path) -> None:
    settings = EdgeSettings(data_dir=str(tmp_path))
    wants = msgspec.structs.replace(settings, personal=PersonalSettings(predict="personal"))
    assert own_question(settings) is None
    with pytest.raises(NoOwnModelError, match="ditto"):
        own_question(wants)
    (tmp_path / "held.bin").write_bytes(msgspec.msgpack.encode(([b"m" * 32], b"t" * 32)))
    path = PendingFile(tmp_path, "own").path(b"t" * 32)
    write_own(path, Own({}, np.zeros(4, np.float32)))
    assert own_question(settings) is None
    asked = own_question(wants)
    assert asked is not None
    assert asked["personal"]
    write_own(path, Own({"head": np.zeros(4, np.float32)}))
    asked = own_question(settings)
    assert asked is not None
    assert not asked["personal"]
    assert asked["model_path"].endswith((b"m" * 32).hex())


def test_scores_of_own_models_are_checked_and_added_up() -> None:
    message = Evaluated(
        protocol=1,
        sender="device-01",
        message_id=b"8 bytes.",
        sent_ms=1,
        round=1,
        model_id=b"8 bytes.",
        examples=5,
        correct=3,
        loss_sum=1.0,
        personal=(4, 0.5),
    )
    check_counts(message)
    for personal in ((6, 0.5), (-1, 0.5), (4, float("nan"))):
        with pytest.raises(InvalidCountsError):
            check_counts(msgspec.structs.replace(message, personal=personal))
    counts = {
        "a": on.Evaluation(10, 5, 1.0, 9),
        "b": on.Evaluation(10, 5, 1.0),
        "c": on.Evaluation(30, 5, 1.0, 21),
    }
    outcome = Outcome(round=1, plan_hash=b"", evaluations=counts)
    assert personal_accuracy(outcome) == (2, 0.75)
    assert personal_accuracy(Outcome(round=1, plan_hash=b"")) == (0, 0.0)


def test_the_interpreter_takes_the_same_steps() -> None:
    """Three steps on one batch of the digits, each recomputed from the graph's own gradient at that point."""
    trainer, rng = LiteRtTrainer(TASK), np.random.default_rng(3)
    x = rng.integers(0, 17, (24, 64)).astype(np.uint8)
    y = rng.integers(0, 10, 24).astype(np.int32)
    base, model = initial_weights(TASK.parameters, 1), initial_weights(TASK.parameters, 2)
    rate, pull, wanted = 0.25, 0.5, model.astype(np.float64)
    for _ in range(3):
        trainer.set_weights(wanted.astype(np.float32))
        trainer.fit(x, y, FitOptions(epochs=1, learning_rate=rate, batch_size=24), rng)
        slope = (wanted - trainer.get_weights()) / rate
        wanted = wanted - rate * (slope + pull * (wanted - base))
    training = TrainingPlan(3, rate, 24)
    found = fit_personal(trainer, base, model, Examples(x, y), training, pull, rng, lambda: False)
    assert found.model is not None
    np.testing.assert_allclose(found.model, wanted, rtol=0, atol=2e-6)
    assert np.abs(found.model - model).max() > 0.05
