"""Tasks by name: what their files hold, that devices learn with them, and how settings name them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shoal_codecs.wire.task import decode_task
from shoal_coordinator.authoring.files import load_description
from shoal_coordinator.config import CoordinatorSettings
from shoal_coordinator.tasks import FOLDER, shipped_task, shipped_tasks, task_path
from shoal_coordinator.tasks.errors import UnknownTaskError
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

MOST_BYTES = 2_000_000


def test_every_description_has_its_file() -> None:
    described = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "errors"}
    assert {name.replace("-", "_") for name in shipped_tasks()} == described


@pytest.mark.parametrize("name", shipped_tasks())
def test_a_file_is_small_and_is_what_its_description_says(name: str) -> None:
    path = shipped_task(name)
    assert path.stat().st_size < MOST_BYTES
    bundle, task = decode_task(path.read_bytes()), load_description(path.with_suffix(".py"))
    assert bundle.name == task.name
    assert bundle.parameters == task.model.parameters
    assert bundle.input == task.input.description
    assert (bundle.labels, bundle.target) == (task.labels, task.target)
    assert (bundle.defaults, bundle.abilities) == (task.defaults, task.abilities)
    assert tuple(one.share for one in bundle.variants) == tuple(task.widths)


@pytest.mark.parametrize("name", shipped_tasks())
def test_a_device_computes_its_gradients_and_learns(name: str) -> None:
    bundle = decode_task(shipped_task(name).read_bytes())
    trainer = LiteRtTrainer(bundle)
    trainer.self_test()
    x, y = bundle.reference.x.numpy(), bundle.reference.y.numpy()
    options = FitOptions(epochs=8, learning_rate=bundle.defaults.learning_rate, batch_size=len(y))
    report = trainer.fit(x, y, options, np.random.default_rng(1))
    assert report.loss_after < 0.97 * report.loss_before


def test_the_mnist_models_have_the_size_that_was_published() -> None:
    """McMahan et al. 2017, section 3."""
    sizes = {"mnist-2nn": 199_210, "mnist-cnn": 1_663_370}
    for name, size in sizes.items():
        assert decode_task(shipped_task(name).read_bytes()).dimension == size


def test_a_setting_names_a_task_or_a_file(tmp_path: Path) -> None:
    assert CoordinatorSettings().task_path == FOLDER / "digits.task"
    assert CoordinatorSettings(task="mnist-2nn").task_path == FOLDER / "mnist_2nn.task"
    assert CoordinatorSettings(task="digits").calibration_path == CoordinatorSettings().calibration_path
    assert CoordinatorSettings(task="mnist-2nn").calibration_path is None
    assert task_path("somewhere/own.task") == Path("somewhere/own.task")
    assert task_path(str(tmp_path)) == tmp_path
    with pytest.raises(UnknownTaskError, match="mnist-2nn"):
        task_path("mnist-3nn")


def shoal(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "shoal_coordinator", *words]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_the_command_line_lists_and_shows_them() -> None:
    listed = shoal("task", "list").stdout
    assert all(name in listed for name in shipped_tasks())
    shown = shoal("task", "show", "mnist-2nn").stdout
    assert "199,210 in 6 tensors" in shown
    assert "10 labels" in shown
    for words in ("mnist-3nn", "UnknownTaskError"), ("no/such.task", "UnreadableTaskError"):
        failed = shoal("task", "show", words[0])
        assert failed.returncode == 2
        assert words[1] in failed.stderr
