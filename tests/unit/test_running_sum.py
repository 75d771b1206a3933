"""A hub's running sum: exact over the agreed set, whatever came, was missed or fell away."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hub_bench import Fleet
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import pack_ring
from shoal_codecs.wire.plan import HubOffer, Plan
from shoal_coordinator.running_sum import RunningSum

NAMES = [f"device-{number}" for number in range(12)]
SETS = st.sets(st.sampled_from(NAMES))


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    folder: Path = tmp_path_factory.mktemp("fleet")
    fleet = Fleet(folder, "mqtt://127.0.0.1:1")
    return fleet.plan({name: HubOffer(name, bytes(32), bytes(32)) for name in ("hub-1", "hub-2")}, 1)


def words_of(plan: Plan, device: str) -> npt.NDArray[np.int64]:
    spec = ring_spec(plan)
    rng = np.random.default_rng(NAMES.index(device))
    return rng.integers(0, 1 << spec.ring_bits, spec.words)


def share_of(plan: Plan, device: str) -> bytes:
    return pack_ring(words_of(plan, device).astype(np.uint16), plan.codec.ring_bits)


@settings(deadline=None, max_examples=100)
@given(SETS, SETS.filter(bool))
def test_the_sum_is_that_of_the_agreed_set(plan: Plan, arrived: set[str], agreed: set[str]) -> None:
    running = RunningSum(plan)
    for device in sorted(arrived):
        running.add(device, share_of(plan, device))
        running.add(device, share_of(plan, device))
    wanted = running.wanted(agreed)
    if wanted is None:
        assert len(agreed - arrived) + 2 * len(arrived - agreed) >= len(agreed)
        return
    assert set(wanted) == agreed ^ arrived
    opened = {device: share_of(plan, device) for device in wanted}
    total = sum(words_of(plan, device) for device in agreed) % (1 << plan.codec.ring_bits)
    packed = pack_ring(np.asarray(total, np.uint16), plan.codec.ring_bits)
    assert running.total(agreed, opened.__getitem__) == packed
    # Asked again, as after a repetition, it needs nothing more.
    assert running.wanted(agreed) == []


def test_an_erased_sum_takes_and_gives_nothing(plan: Plan) -> None:
    running = RunningSum(plan)
    running.add(NAMES[0], share_of(plan, NAMES[0]))
    running.erase()
    running.add(NAMES[1], share_of(plan, NAMES[1]))
    assert running.wanted(NAMES[:1]) is None
    assert not any(running._sum.packed())
