"""LiteRT's own aarch64 wheel under emulation: shipped tasks pass their self-test and train as here.

Run ``scripts/aarch64-environment`` first; without it the test is skipped.
"""

import numpy as np
import pytest

from emulated import require_emulation, run_emulated
from shoal_codecs.wire.task import decode_task
from shoal_coordinator.tasks import FOLDER
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

SCRIPT = """
import json, platform, sys
from pathlib import Path
import numpy as np
from shoal_codecs.wire.task import decode_task
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

told = {"machine": platform.machine(), "tested": {}}
for path in map(Path, sys.argv[2:]):
    bundle = decode_task(path.read_bytes())
    trainer = LiteRtTrainer(bundle)
    trainer.self_test()
    told["tested"][path.stem] = trainer.runtime
bundle = decode_task(Path(sys.argv[1]).read_bytes())
trainer, rng = LiteRtTrainer(bundle), np.random.default_rng(1)
x, y = rng.integers(0, 17, (40, 64)).astype(np.uint8), rng.integers(0, 10, 40).astype(np.int32)
trainer.fit(x, y, FitOptions(epochs=2, learning_rate=0.2, batch_size=16, mu=0.1), rng)
told["weights"] = trainer.get_weights().tolist()
print(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_aarch64_finds_the_stored_gradients_of_every_shipped_task_and_trains_as_here() -> None:
    require_emulation()
    tasks = sorted(FOLDER.glob("*.task"))
    digits = FOLDER / "digits.task"
    told = run_emulated(SCRIPT, str(digits), *map(str, tasks))
    assert set(told["tested"]) == {path.stem for path in tasks}
    trainer, rng = LiteRtTrainer(decode_task(digits.read_bytes())), np.random.default_rng(1)
    x, y = rng.integers(0, 17, (40, 64)).astype(np.uint8), rng.integers(0, 10, 40).astype(np.int32)
    trainer.fit(x, y, FitOptions(epochs=2, learning_rate=0.2, batch_size=16, mu=0.1), rng)
    assert np.abs(np.array(told["weights"]) - trainer.get_weights()).max() < 1e-5
