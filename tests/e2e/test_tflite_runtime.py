"""The device's code on the other LiteRT wheel, the one 32-bit boards have: tflite-runtime with numpy 1."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shoal_codecs.wire.task import decode_task
from shoal_coordinator.artefacts import make_artefacts, templates_of_file
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
    paths = os.pathsep.join(str(ROOT / folder) for folder in ("codecs", "edge"))
    ran = subprocess.run(
        [str(python), "-c", PROGRAM, str(DATA), str(artefact)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    result = json.loads(ran.stdout.splitlines()[-1])
    assert result["runtime"] == "tflite_runtime"
    assert result["numpy"].startswith("1.")
    assert result["trained"] > 0.95
    assert result["deployed"] > 0.95
