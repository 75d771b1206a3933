"""Models tried out, the narrowest first: which are told, whatever a wider one lacks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shoal_codecs.updates.slices import ModelLevels
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.task import decode_task
from shoal_edge.data import Examples
from shoal_edge.probing import probe_models
from shoal_edge.trainers.errors import FitMemoryError
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.worker_settings import WorkerSettings

DATA = (Path(__file__).parents[1] / "tasks" / "digits_widths.task").read_bytes()
TASK = decode_task(DATA)
EXAMPLES = Examples(np.zeros((40, 64), np.uint8), np.zeros(40, np.int32))


@pytest.mark.parametrize("error", [MemoryError(), FitMemoryError("no memory for a batch")])
def test_a_wider_model_that_finds_no_memory_leaves_those_that_fit(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    percents = sorted(ModelLevels(TASK).percents)
    fit, sizes = LiteRtTrainer.fit, set[int]()

    def bounded(self: LiteRtTrainer, *given: Any) -> Any:
        sizes.add(self.dimension)
        if len(sizes) == len(percents):
            raise error
        return fit(self, *given)

    monkeypatch.setattr(LiteRtTrainer, "fit", bounded)
    found = probe_models(TASK, digest_of(DATA), EXAMPLES, WorkerSettings(), fit_s=60.0)
    assert [probe.percent for probe in found] == percents[:-1]
    assert all(probe.fit_s > 0 for probe in found)
