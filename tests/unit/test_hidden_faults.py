"""What a device that tells nothing hides of a fit that failed: everything that may hang on its examples."""

import numpy as np
import pytest

from edge_parts import TASK, base_vector, codec_plan, make_fleet, make_plan
from shoal_codecs.updates.shared_part import SharedPart
from shoal_codecs.wire.plan import Plan, PrivacyPlan
from shoal_edge.data import Examples
from shoal_edge.fitting import Fitted, fit_update
from shoal_edge.trainers.base import never, unheard
from shoal_edge.trainers.errors import FitMemoryError
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.trainers.system_random import SystemRandom

FLEET = make_fleet(devices=3)
NOISE = PrivacyPlan("skellam", 4.4e6, 1, 1e-5, clip_bit=9, metric_levels=9)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        FitMemoryError("no memory for a batch"),
        ImportError("x.so: failed to map segment from shared object"),
    ],
)
def test_memory_that_many_examples_left_none_of_is_hidden_under_noise_alone(error: Exception) -> None:
    def shard() -> tuple[Examples, Examples]:
        raise error

    def fitted(plan: Plan) -> Fitted:
        return fit_update(
            LiteRtTrainer(TASK),
            base_vector,
            SharedPart(TASK.parameters),
            shard,
            plan,
            SystemRandom(),
            never,
            unheard,
            hide_faults=True,
        )

    found = fitted(make_plan(FLEET, bytes(32), privacy=NOISE, codec=codec_plan(4, ring_bits=20)))
    assert found.said["fault"] == type(error).__name__
    assert not np.any(found.update)
    with pytest.raises(type(error)):
        fitted(make_plan(FLEET, bytes(32)))
