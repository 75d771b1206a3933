"""What a small board needs to train what comes with Shoal: a process of its own, told by the system."""

import sys
from pathlib import Path

import pytest
import training

from shoal_codecs.wire.task import decode_task
from shoal_coordinator.tasks import FOLDER

MOST_MIB = 85e6 / (1 << 20)
STEP = Path(training.__file__).with_name("training_step.py")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="libraries are counted as Linux does")
@pytest.mark.parametrize("name", ["mnist_cnn", "dscnn_32", "gru_next_character"])
def test_the_largest_tasks_train_within_85_megabytes_at_their_own_batch(name: str, tmp_path: Path) -> None:
    path = FOLDER / f"{name}.task"
    bundle = decode_task(path.read_bytes())
    described = training.describe(path, bundle, bundle.defaults.batch_size, 48, tmp_path)
    measured = training.run([sys.executable, str(STEP), str(described), "litert"], own=True)
    assert measured.rss < MOST_MIB
