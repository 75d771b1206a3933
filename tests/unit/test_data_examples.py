"""The examples that write data are run as a person would run them, and all forms say the same."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edge_parts import DEMO_DATA, TASK
from shoal_edge.buffer import read_snapshot
from shoal_edge.config import load_edge_settings
from shoal_edge.data import Examples
from shoal_edge.sources.registry import open_source
from shoal_edge.sources.source import Wanted

EXAMPLES = Path(__file__).parents[2] / "examples"
COUNT = 60


def write(form: str, folder: Path) -> Examples:
    words = [form, str(folder), "--digits", str(DEMO_DATA / "digits.npz"), "--count", str(COUNT)]
    subprocess.run([sys.executable, str(EXAMPLES / "digits_as.py"), *words], timeout=60, check=True)
    settings = load_edge_settings(None, folder=folder)
    return open_source(settings.data, settings.examples_path).examples(Wanted.by(TASK))


@pytest.mark.parametrize("form", ["npz", "csv", "mnist", "images", "buffer"])
def test_the_same_digits_come_out_of_every_form(tmp_path: Path, form: str) -> None:
    with np.load(DEMO_DATA / "digits.npz") as archive:
        x, y = archive["x"][:COUNT], archive["y"][:COUNT]
    found = write(form, tmp_path)
    # Images come in the order of their folders.
    order = np.argsort(y, kind="stable") if form == "images" else np.arange(COUNT)
    assert np.array_equal(np.asarray(found.x), x[order])
    assert found.y.tolist() == y[order].tolist()
    assert np.asarray(found.x).dtype == np.uint8


def test_a_sensor_fills_its_buffer_and_labels_what_it_can(tmp_path: Path) -> None:
    words = [str(tmp_path / "b"), "--windows", "50", "--pause", "0", "--capacity", "20"]
    subprocess.run([sys.executable, str(EXAMPLES / "sensor.py"), *words], timeout=60, check=True)
    found = read_snapshot(tmp_path / "b")
    assert found.numbers == list(range(30, 47))
    assert found.unlabelled == 3
    values = np.frombuffer(found.data, np.uint8)
    assert values.size == 17 * 64
    assert values.max() <= 16


def test_what_a_sensors_process_needs_is_light() -> None:
    heavy = {"numpy", "aiomqtt", "nacl", "structlog"}
    script = f"import sys, shoal_edge.buffer\nprint(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
