"""The device's code on the other LiteRT wheel, the one 32-bit boards have: tflite-runtime with numpy 1."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal_codecs.wire.task import decode_task, initial_weights
from shoal_coordinator.artefacts import answers, make_artefacts, templates_of_file
from shoal_coordinator.tasks import shipped_task, shipped_tasks
from shoal_edge.data import load_shard, split_held_out
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

ROOT = Path(__file__).parents[2]
DATA = ROOT / "coordinator" / "shoal_coordinator" / "demo" / "data"
WHEELS = ["tflite-runtime==2.14.0", "numpy<2", "msgspec", "msgpack", "blake3", "structlog"]
PROGRAM = """
import json, sys
from pathlib import Path
import numpy as np
from shoal_codecs.wire.task import decode_task
from shoal_edge.data import load_shard, split_held_out
from shoal_edge.trainers.inference import InferenceModel
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.trainers.runtime import interpreter_class

data, artefact = Path(sys.argv[1]), Path(sys.argv[2])
bundle = decode_task((data.parents[1] / "tasks" / "digits.task").read_bytes())
shard = load_shard(data / "digits.npz", bundle.input, len(bundle.labels))
train, held_out = split_held_out(shard)
trainer = LiteRtTrainer(bundle)
trainer.self_test()
options = FitOptions(epochs=40, learning_rate=0.2, batch_size=16)
trainer.fit(train.x, train.y, options, np.random.default_rng(1))
deployed = InferenceModel(artefact).evaluate(held_out.x, held_out.y)
print(json.dumps({
    "runtime": interpreter_class().__module__.split(".")[0],
    "numpy": np.__version__,
    "trained": trainer.evaluate(held_out.x, held_out.y).accuracy,
    "deployed": deployed.accuracy,
}))
"""

TESTING = """
import json, sys
from pathlib import Path
from shoal_codecs.wire.task import decode_task
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.trainers.runtime import interpreter_class

for path in sorted(Path(sys.argv[1]).glob("*.task")):
    LiteRtTrainer(decode_task(path.read_bytes())).self_test()
print(json.dumps({"runtime": interpreter_class().__module__.split(".")[0]}))
"""

ASKING = """
import json, sys
from pathlib import Path
import numpy as np
from shoal_edge.trainers.inference import InferenceModel

found = {}
for path in sorted(Path(sys.argv[1]).glob("*.npz")):
    with np.load(path) as file:
        for kind in ("float32", "int8"):
            answers = InferenceModel(file[kind].tobytes()).predict(file["x"]).answers
            found[f"{path.stem} {kind}"] = float(np.abs(answers - file[f"{kind}_answers"]).max())
print(json.dumps(found))
"""
# Kernels round otherwise here and there: a few of the 256 steps.
INT8_DISTANCE = 4 / 256

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if sys.version_info[:2] != (3, 11):
        pytest.skip(
            f"tflite-runtime 2.14.0 has no wheel for Python {sys.version_info[0]}.{sys.version_info[1]}"
        )
    folder = tmp_path_factory.mktemp("tflite") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = folder / "bin" / "python"
    installed = subprocess.run(
        [str(python), "-m", "pip", "install", "--quiet", *WHEELS], capture_output=True, text=True, check=False
    )
    if installed.returncode:
        pytest.skip(f"pip could not install {WHEELS[0]} here: {installed.stderr.strip()[-200:]}")
    return python


def test_it_trains_and_predicts_as_well(python: Path, tmp_path: Path) -> None:
    bundle = decode_task((DATA.parents[1] / "tasks" / "digits.task").read_bytes())
    train, _ = split_held_out(load_shard(DATA / "digits.npz", bundle.input, len(bundle.labels)))
    trainer = LiteRtTrainer(bundle)
    trainer.fit(
        train.x, train.y, FitOptions(epochs=40, learning_rate=0.2, batch_size=16), np.random.default_rng(1)
    )
    with np.load(DATA / "digits_calibration.npz") as calibration:
        templates = templates_of_file(DATA.parents[1] / "tasks" / "digits.task")
        artefact = tmp_path / "int8.tflite"
        artefact.write_bytes(make_artefacts(templates, trainer.get_weights(), calibration["x"]).int8)
    result = said(python, PROGRAM, DATA, artefact)
    assert result["runtime"] == "tflite_runtime"
    assert result["numpy"].startswith("1.")
    assert result["trained"] > 0.95
    assert result["deployed"] > 0.95


def test_the_gradients_of_every_task_are_the_reference_s(python: Path) -> None:
    folder = shipped_task("digits").parent
    assert len(list(folder.glob("*.task"))) == len(shipped_tasks())
    assert said(python, TESTING, folder) == {"runtime": "tflite_runtime"}


def test_it_answers_alike_with_the_artefacts_of_every_task(python: Path, tmp_path: Path) -> None:
    for name in shipped_tasks():
        bundle = decode_task(shipped_task(name).read_bytes())
        about = bundle.input
        x = np.random.default_rng(0).uniform(about.minimum, about.maximum, (8, *about.shape))
        x = x.astype(about.dtype)
        weights = initial_weights(bundle.parameters, 1)
        made = make_artefacts(templates_of_file(shipped_task(name)), weights, x)
        files = {"float32": made.float32, "int8": made.int8}
        held: dict[str, Any] = {kind: np.frombuffer(file, np.uint8) for kind, file in files.items()}
        held |= {f"{kind}_answers": answers(file, x) for kind, file in files.items()}
        np.savez(tmp_path / f"{name}.npz", x=x, **held)
    found = said(python, ASKING, tmp_path)
    assert len(found) == 2 * len(shipped_tasks())
    for name, distance in found.items():
        assert distance <= (INT8_DISTANCE if name.endswith("int8") else 1e-6), name


def said(python: Path, program: str, *words: Path) -> dict[str, Any]:
    """Return the JSON that ``program`` prints there."""
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("codecs", "edge"))
    ran = subprocess.run(
        [str(python), "-c", program, *map(str, words)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    found: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return found
