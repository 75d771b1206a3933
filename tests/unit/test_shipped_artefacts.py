"""Every task that comes with Shoal is deployable: on devices its artefacts answer as its own ``infer``."""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from shoal_codecs.wire.task import TaskBundle, decode_task, initial_weights, split_weights
from shoal_coordinator.artefact_errors import UndeployableTaskError
from shoal_coordinator.artefacts import Artefacts, make_artefacts
from shoal_coordinator.deployable import check
from shoal_coordinator.deployable.check import check_deployable, infer
from shoal_coordinator.deployable.templates import Templates, make_templates
from shoal_coordinator.tasks import FOLDER
from shoal_edge.trainers.inference import InferenceModel

TASKS = sorted(path.stem for path in FOLDER.glob("*.task"))
EXAMPLES = 24
BYTES_AN_OPERATOR = 400
# Of weights and of biases: a float32 scale and an int64 zero point.
BYTES_A_CHANNEL = 24


@dataclasses.dataclass
class Shipped:
    bundle: TaskBundle
    templates: Templates
    weights: npt.NDArray[np.float32]
    x: npt.NDArray[np.generic]
    made: Artefacts


@pytest.fixture(scope="module", params=TASKS)
def shipped(request: pytest.FixtureRequest) -> Shipped:
    bundle = decode_task((FOLDER / f"{request.param}.task").read_bytes())
    templates = check_deployable(bundle)
    rng = np.random.default_rng(5)
    weights = initial_weights(bundle.parameters, 5)
    for part in split_weights(weights, bundle.parameters).values():
        # Views; biases are moved so far that they count as much as weights do.
        part[...] += rng.normal(0, 0.5 if part.ndim == 1 else 0.02, part.shape).astype(np.float32)
    about = bundle.input
    x = rng.uniform(about.minimum, about.maximum, (EXAMPLES, *about.shape)).astype(about.dtype)
    return Shipped(bundle, templates, weights, x, make_artefacts(templates, weights, x))


def test_a_device_answers_as_the_trainable_model(shipped: Shipped) -> None:
    wanted = infer(shipped.bundle, shipped.weights, shipped.x)
    model = InferenceModel(shipped.made.float32)
    assert model.gives_values == (shipped.bundle.target.kind == "values")
    found = model.predict(shipped.x).answers
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1e-5 * max(1.0, np.abs(wanted).max())


def test_int8_stays_near_float_even_on_noise(shipped: Shipped) -> None:
    wide, narrow = (
        InferenceModel(file).predict(shipped.x).answers for file in (shipped.made.float32, shipped.made.int8)
    )
    assert np.abs(wide - narrow).mean() < 0.1 * max(wide.std(), 0.01)


def test_int8_files_are_small(shipped: Shipped) -> None:
    """A byte a weight, scales and zero points of each channel of a convolution, and the graph itself."""
    operators = sum(shipped.templates.int8.operators.values())
    channels = sum(one.shape[-1] for one in shipped.bundle.parameters if len(one.shape) > 2)
    rest = BYTES_AN_OPERATOR * operators + BYTES_A_CHANNEL * channels
    assert len(shipped.made.int8) < 0.35 * len(shipped.made.float32) + rest


def test_what_answers_otherwise_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = decode_task((FOLDER / "digits.task").read_bytes())
    swapped = tuple(reversed(bundle.parameters[:2])) + bundle.parameters[2:]
    templates = make_templates(bundle)
    other = dataclasses.replace(templates, part=dataclasses.replace(templates.part, parameters=swapped))
    monkeypatch.setattr(check, "make_templates", lambda _: other)
    with pytest.raises(UndeployableTaskError, match="float artefact"):
        check_deployable(bundle)
    monkeypatch.undo()
    crushed = dataclasses.replace(templates.int8, groups=tuple((0,) for _ in templates.int8.groups))
    monkeypatch.setattr(check, "make_templates", lambda _: dataclasses.replace(templates, int8=crushed))
    with pytest.raises(UndeployableTaskError, match="int8 artefact"):
        check_deployable(bundle)


def test_every_task_is_here() -> None:
    assert TASKS
    assert all(Path(FOLDER / f"{name}.py").exists() for name in TASKS)
