"""Deployable models without TensorFlow: as good as the weights they were made from."""

import dataclasses
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

import shoal_coordinator
from shoal_codecs.wire.task import decode_task
from shoal_coordinator.artefact_errors import (
    InvalidTemplateError,
    MissingCalibrationError,
    NonFiniteWeightsError,
    StaleScalesError,
    WeightLengthError,
)
from shoal_coordinator.artefacts import (
    Artefacts,
    float_artefact,
    int8_artefact,
    label_indices,
    make_artefacts,
    measure_ranges,
    templates_of_file,
)
from shoal_coordinator.deployable.templates import Templates
from shoal_coordinator.release_errors import CalibrationFileError
from shoal_coordinator.release_making import Recipe, _artefact
from shoal_edge.data import load_shard, split_held_out
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.errors import (
    ExampleShapeError,
    LabelRangeError,
    MissingLabelsError,
    UnusableModelError,
)
from shoal_edge.trainers.inference import InferenceModel
from shoal_edge.trainers.litert import LiteRtTrainer

DATA = Path(shoal_coordinator.__file__).parent / "demo" / "data"
DIGITS = decode_task((DATA.parents[1] / "tasks" / "digits.task").read_bytes())
TASK = DATA.parents[1] / "tasks" / "digits.task"
TEMPLATES = templates_of_file(TASK)
FIELD = load_shard(DATA / "digits.npz", DIGITS.input, 10)
TRAIN, HELD_OUT = split_held_out(FIELD)
CALIBRATION = load_shard(DATA / "digits_calibration.npz", DIGITS.input, 10).x


def trained(epochs: int) -> npt.NDArray[np.float32]:
    trainer = LiteRtTrainer(DIGITS)
    trainer.fit(
        TRAIN.x,
        TRAIN.y,
        FitOptions(epochs=epochs, learning_rate=0.2, batch_size=16),
        np.random.default_rng(0),
    )
    return trainer.get_weights()


@pytest.fixture(scope="module")
def weights() -> npt.NDArray[np.float32]:
    return trained(30)


@pytest.fixture(scope="module")
def artefacts(weights: npt.NDArray[np.float32]) -> Artefacts:
    return make_artefacts(TEMPLATES, weights, CALIBRATION)


def test_the_calibration_examples_are_no_ones_private_data() -> None:
    held = {row.tobytes() for row in FIELD.x}
    assert len(CALIBRATION) == 100
    assert not any(row.tobytes() in held for row in CALIBRATION)


def test_the_float_artefact_answers_as_the_trained_model(
    weights: npt.NDArray[np.float32], artefacts: Artefacts
) -> None:
    trainer = LiteRtTrainer(DIGITS)
    trainer.set_weights(weights)
    here = trainer.evaluate(HELD_OUT.x, HELD_OUT.y)
    deployed = InferenceModel(artefacts.float32).evaluate(HELD_OUT.x, HELD_OUT.y)
    assert (deployed.examples, deployed.correct) == (here.examples, here.correct)
    runner = trainer._signatures["infer"]
    wanted = runner(x=HELD_OUT.x.astype(np.float32))["probabilities"]
    found = InferenceModel(artefacts.float32).predict(HELD_OUT.x).answers
    assert np.abs(found - wanted).max() < 6e-6


def test_the_int8_artefact_is_within_one_point_of_float(artefacts: Artefacts) -> None:
    counts = [
        InferenceModel(model).evaluate(HELD_OUT.x, HELD_OUT.y)
        for model in (artefacts.float32, artefacts.int8)
    ]
    assert counts[0].accuracy > 0.95
    assert counts[1].accuracy > counts[0].accuracy - 0.01
    assert counts[1].mean_loss == pytest.approx(counts[0].mean_loss, abs=0.1)
    assert counts[1].seconds > 0
    assert artefacts.agreement > 0.97
    assert len(artefacts.int8) < len(artefacts.float32) / 3


@pytest.mark.parametrize("scale", [0.2, 5.0])
def test_scales_follow_the_weights_however_they_change(
    weights: npt.NDArray[np.float32], scale: float
) -> None:
    scaled = weights * np.float32(scale)
    assert make_artefacts(TEMPLATES, scaled, CALIBRATION).agreement > 0.95


def test_weights_of_zero_still_make_a_model_that_runs() -> None:
    made = make_artefacts(TEMPLATES, np.zeros(9610, np.float32), CALIBRATION)
    probabilities = InferenceModel(made.int8).predict(HELD_OUT.x[:3]).answers
    assert np.abs(probabilities - 0.1).max() < 0.01


def test_the_same_weights_make_the_same_bytes_and_others_differ_in_place(
    weights: npt.NDArray[np.float32], artefacts: Artefacts
) -> None:
    again = make_artefacts(TEMPLATES, weights, CALIBRATION)
    assert (again.float32, again.int8) == (artefacts.float32, artefacts.int8)
    other = make_artefacts(TEMPLATES, trained(1), CALIBRATION)
    assert len(other.int8) == len(artefacts.int8)
    assert other.int8 != artefacts.int8


def test_coordinator_and_device_read_the_same_answer(artefacts: Artefacts) -> None:
    for model in (artefacts.float32, artefacts.int8):
        here = label_indices(model, HELD_OUT.x)
        assert np.array_equal(here, InferenceModel(model).predict(HELD_OUT.x).labels)


def test_biases_are_stored_at_the_scale_the_kernels_add_them_at(artefacts: Artefacts) -> None:
    interpreter = InferenceModel(artefacts.int8)._interpreter
    details = {one["index"]: one["quantization"] for one in interpreter.get_tensor_details()}
    for bias in TEMPLATES.int8.biases:
        product = details[bias.input_tensor][0] * details[bias.weight_tensor][0]
        assert details[bias.tensor] == (pytest.approx(product), 0)


def test_scales_of_other_weights_are_refused(weights: npt.NDArray[np.float32]) -> None:
    stale = measure_ranges(TEMPLATES, trained(1), CALIBRATION)
    with pytest.raises(StaleScalesError):
        int8_artefact(TEMPLATES, weights, stale)
    fresh = measure_ranges(TEMPLATES, weights, CALIBRATION)
    with pytest.raises(StaleScalesError):
        int8_artefact(TEMPLATES, weights, msgspec.structs.replace(fresh, ranges=fresh.ranges[:1]))


@pytest.mark.parametrize(
    "calibration",
    [CALIBRATION[:0], CALIBRATION[:, :63], CALIBRATION[0], CALIBRATION + 1, CALIBRATION / np.nan],
)
def test_missing_or_unfit_calibration_is_refused(
    weights: npt.NDArray[np.float32], calibration: npt.NDArray[np.uint8]
) -> None:
    with pytest.raises(MissingCalibrationError):
        make_artefacts(TEMPLATES, weights, calibration)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_never_released(
    weights: npt.NDArray[np.float32], value: float
) -> None:
    bad = weights.copy()
    bad[17] = value
    with pytest.raises(NonFiniteWeightsError):
        make_artefacts(TEMPLATES, bad, CALIBRATION)


def test_weights_of_another_length_are_refused(weights: npt.NDArray[np.float32]) -> None:
    with pytest.raises(WeightLengthError):
        float_artefact(TEMPLATES, weights[:-1])


def changed(**fields: Any) -> Templates:
    return dataclasses.replace(TEMPLATES, **fields)


def test_a_task_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidTemplateError):
        templates_of_file(tmp_path / "absent.task")


def misplaced(tensor: int) -> Templates:
    places = tuple(dataclasses.replace(place, tensor=tensor) for place in TEMPLATES.float32.places)
    return changed(float32=dataclasses.replace(TEMPLATES.float32, places=places))


@pytest.mark.parametrize("tensor", [0, 1, -1, 99])
def test_a_place_that_does_not_fit_is_refused(weights: npt.NDArray[np.float32], tensor: int) -> None:
    with pytest.raises(InvalidTemplateError):
        float_artefact(misplaced(tensor), weights)


def test_a_scale_the_template_lacks_is_refused(weights: npt.NDArray[np.float32]) -> None:
    unscaled = changed(int8=dataclasses.replace(TEMPLATES.int8, model=TEMPLATES.float32.model))
    ranges = measure_ranges(TEMPLATES, weights, CALIBRATION)
    with pytest.raises(InvalidTemplateError):
        int8_artefact(unscaled, weights, ranges)


def test_a_damaged_deployed_model_is_refused_not_crashed_on(artefacts: Artefacts, tmp_path: Path) -> None:
    model = artefacts.int8
    zeroed = model[:8] + bytes(len(model) - 8)
    for damaged in (b"", model[:7], model[:5000], zeroed, b"PK" + model[2:6] + b"\0" * 90):
        with pytest.raises(UnusableModelError):
            InferenceModel(damaged)
    with pytest.raises(UnusableModelError):
        InferenceModel(tmp_path / "absent.tflite")
    with pytest.raises(UnusableModelError):
        InferenceModel(DIGITS.trainable)


def test_a_deployed_model_refuses_data_of_another_task(artefacts: Artefacts) -> None:
    model = InferenceModel(artefacts.int8)
    with pytest.raises(ExampleShapeError):
        model.predict(HELD_OUT.x[:, :60])
    with pytest.raises(MissingLabelsError):
        model.evaluate(HELD_OUT.x, HELD_OUT.y[:-1])
    with pytest.raises(LabelRangeError):
        model.evaluate(HELD_OUT.x, HELD_OUT.y + 1)


def test_a_release_is_int8_with_calibration_examples_or_float32_without(
    tmp_path: Path, weights: npt.NDArray[np.float32], artefacts: Artefacts
) -> None:
    recipe = Recipe(fleet="f", task_path=TASK, calibration_path=None)
    with pytest.raises(CalibrationFileError, match="calibration"):
        _artefact(recipe, weights)
    assert _artefact(dataclasses.replace(recipe, artefact="float32"), weights) == artefacts.float32
    known = dataclasses.replace(recipe, calibration_path=DATA / "digits_calibration.npz")
    assert _artefact(known, weights) == artefacts.int8
    with pytest.raises(CalibrationFileError, match=r"numpy\.savez"):
        _artefact(dataclasses.replace(recipe, calibration_path=tmp_path / "none.npz"), weights)
