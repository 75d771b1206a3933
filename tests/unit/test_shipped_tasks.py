"""Every task that comes with Shoal: each trainer finds its stored gradients, and both train alike."""

import importlib.util
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from shoal_codecs.wire.task import MAX_TASK_BYTES, TaskBundle, decode_task
from shoal_coordinator.tasks import FOLDER
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.trainers.opening import open_trainer

TASKS = sorted(FOLDER.glob("*.task"))
NAMES = [path.stem for path in TASKS]
LARGEST = 2 << 20


@pytest.fixture(params=TASKS, ids=NAMES)
def bundle(request: pytest.FixtureRequest) -> TaskBundle:
    data: bytes = request.param.read_bytes()
    assert len(data) < LARGEST < MAX_TASK_BYTES
    return decode_task(data)


def examples(bundle: TaskBundle, count: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    rng, about = np.random.default_rng(1), bundle.input
    shape = (count, *about.shape)
    if about.dtype == "float32":
        x: npt.NDArray[Any] = rng.uniform(about.minimum, about.maximum, shape).astype(np.float32)
    else:
        x = rng.integers(int(about.minimum), int(about.maximum) + 1, shape).astype(about.dtype)
    if bundle.target.kind == "label":
        return x, rng.integers(0, len(bundle.labels), count).astype(np.int32)
    return x, rng.normal(size=(count, *bundle.target.shape)).astype(np.float32)


def test_litert_finds_the_stored_gradients(bundle: TaskBundle) -> None:
    LiteRtTrainer(bundle).self_test()


def test_pytorch_finds_them_too_and_trains_as_litert_does(bundle: TaskBundle) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("PyTorch is not installed: pip install 'shoal[torch]'")
    if bundle.architecture is None:
        pytest.skip("the task does not describe its layers, so that LiteRT alone trains it")
    x, y = examples(bundle, 12)
    mu = 0.01 if "mu" in bundle.abilities else 0.0
    options = FitOptions(epochs=1, learning_rate=bundle.defaults.learning_rate / 10, batch_size=8, mu=mu)
    ends, losses = [], []
    for kind in ("litert", "torch"):
        trainer = open_trainer(bundle, kind)
        trainer.self_test()
        report = trainer.fit(x, y, options, np.random.default_rng(2))
        ends.append(trainer.get_weights())
        losses.append((report.loss_before, report.loss_after))
    moved = np.abs(ends[0] - trainer.initial_weights()).max()
    assert np.abs(ends[0] - ends[1]).max() < 1e-3 * moved
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
