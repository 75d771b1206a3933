"""Deployed models of a fleet whose devices keep tensors for themselves: each fills in its own."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

import shoal_coordinator
from shoal_codecs.ota.errors import OwnPlacesError
from shoal_codecs.ota.own_places import MAGIC, OwnPlace, OwnPlaces, split_own_places, with_own_places
from shoal_codecs.updates.errors import LocalParameterError
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.task import Parameter, decode_task, initial_weights
from shoal_coordinator.artefact_errors import WeightLengthError
from shoal_coordinator.artefacts import Artefacts, make_artefacts, templates_of_file
from shoal_coordinator.tasks import shipped_task
from shoal_edge.data import load_shard
from shoal_edge.trainers.errors import UnusableModelError
from shoal_edge.trainers.inference import InferenceModel
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.trainers.own_places import with_own_tensors

DATA = Path(shoal_coordinator.__file__).parent / "demo" / "data"
FILE = shipped_task("digits")
DIGITS = decode_task(FILE.read_bytes())
FIELD = load_shard(DATA / "digits.npz", DIGITS.input, 10)
CALIBRATION = load_shard(DATA / "digits_calibration.npz", DIGITS.input, 10).x
HEAD = tuple(one.name for one in DIGITS.parameters[-2:])
PART = SharedPart(DIGITS.parameters, HEAD)


@pytest.fixture(scope="module")
def weights() -> npt.NDArray[np.float32]:
    return initial_weights(DIGITS.parameters, 77)


@pytest.fixture(scope="module")
def artefacts(weights: npt.NDArray[np.float32]) -> Artefacts:
    templates = templates_of_file(FILE, HEAD)
    return make_artefacts(templates, PART.of(weights), CALIBRATION)


def probabilities(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Answer by the trainable model's own ``infer``."""
    trainer = LiteRtTrainer(DIGITS)
    trainer.set_weights(weights)
    runner = trainer._interpreter.get_signature_runner("infer")
    found: npt.NDArray[np.float32] = runner(x=FIELD.x[:300].astype(np.float32))["probabilities"]
    return found


def test_a_device_that_fills_in_its_own_head_answers_as_its_own_model(
    weights: npt.NDArray[np.float32], artefacts: Artefacts
) -> None:
    own, wanted = PART.own_of(weights), probabilities(weights)
    found = InferenceModel(artefacts.float32, own).predict(FIELD.x[:300]).answers
    assert np.abs(found - wanted).max() < 1e-5
    found = InferenceModel(artefacts.int8, own).predict(FIELD.x[:300]).answers
    assert np.abs(found - wanted).max() < 0.02


def test_without_own_tensors_the_tasks_first_values_are_in_their_place(
    weights: npt.NDArray[np.float32], artefacts: Artefacts
) -> None:
    first = PART.own_of(initial_weights(DIGITS.parameters, DIGITS.reference.seed))
    wanted = probabilities(PART.joined(PART.of(weights), first))
    own = PART.own_of(weights)
    for lacking in (None, {}, {HEAD[0]: own[HEAD[0]]}, {**own, HEAD[1]: own[HEAD[1]][:3]}):
        found = InferenceModel(artefacts.float32, lacking).predict(FIELD.x[:300]).answers
        assert np.abs(found - wanted).max() < 1e-5


def test_only_the_devices_own_tensors_stay_float(artefacts: Artefacts) -> None:
    model, places = split_own_places(artefacts.int8)
    assert places is not None
    assert {one.name for one in places.parameters} == set(HEAD)
    assert sum(one.size for one in places.places) == 4 * sum(one.size for one in PART.own)
    # The hidden layer's 8,192 weights are a byte each.
    assert len(model) < 8192 + 8 * sum(one.size for one in PART.own)


def test_the_whole_vector_is_none_of_this_fleets(weights: npt.NDArray[np.float32]) -> None:
    with pytest.raises(WeightLengthError):
        make_artefacts(templates_of_file(FILE, HEAD), weights, CALIBRATION)
    with pytest.raises(LocalParameterError):
        templates_of_file(FILE, ("w9",))


def test_places_that_are_damaged_or_outside_are_refused(artefacts: Artefacts) -> None:
    model, places = split_own_places(artefacts.float32)
    assert places is not None
    assert with_own_places(model, places) == artefacts.float32
    far = OwnPlaces(places.parameters, (OwnPlace(HEAD[1], len(model) - 4, 40),))
    for damaged in (
        with_own_places(model, far),
        model[:100] + b"\xff" * 40 + (40).to_bytes(4, "little") + MAGIC,
        (1 << 30).to_bytes(4, "little") + MAGIC,
    ):
        with pytest.raises(OwnPlacesError):
            InferenceModel(damaged)


def test_places_for_other_tensors_are_refused(artefacts: Artefacts, weights: npt.NDArray[np.float32]) -> None:
    model, places = split_own_places(artefacts.float32)
    assert places is not None
    short = OwnPlaces((Parameter(HEAD[1], (10,)),), (OwnPlace(HEAD[1], 64, 8),))
    broken = OwnPlaces(places.parameters, places.places, b"\x00" * 64, places.inputs, places.outputs)
    for wrong in (short, broken):
        with pytest.raises(UnusableModelError):
            with_own_tensors(with_own_places(model, wrong), PART.own_of(weights))
