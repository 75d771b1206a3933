"""Late reports that nothing came of: they are not tried again, and those that were not tried stay."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from shoal_codecs.wire.plan import encode_plan, plan_hash
from shoal_coordinator import round_steps as on
from shoal_coordinator.late_reports import LateReports
from shoal_coordinator.round import RoundMachine
from shoal_coordinator.round_parts import Outcome
from shoal_coordinator.round_runner import RoundRunner
from wire_parts import plain_plan


class Collector:
    """What a round's collector holds, and whether it was thrown away."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = tuple(devices)
        self.cleared = False

    async def clear(self) -> None:
        self.cleared = True


@pytest.mark.parametrize("joined", [True, False])
async def test_reports_that_made_a_bad_version_alone_are_not_joined_again(
    tmp_path: Path,
    joined: bool,  # noqa: FBT001
) -> None:
    early = plain_plan(round=7)
    late = LateReports(None, None, tmp_path, 10)  # type: ignore[arg-type]
    late.adopt(early, plan_hash(encode_plan(early)), 0, Collector(early.cohort), ())  # type: ignore[arg-type]
    assert len(late.waiting) == len(early.cohort)
    plan = encode_plan(plain_plan(round=8, n_min=1, quorum=2))
    machine = RoundMachine(plan, on.RoundTimings())
    now = early.opens_ms + 1
    machine.handle(on.Begun(), now)
    actions: list[Any] = []
    for device, number in late.waiting[: 2 if joined else 1]:
        actions += machine.handle(on.LateStored(device, number), now)
    if joined:
        assert actions == [on.Aggregate((), b"", {}, late.waiting[:2])]
        machine.handle(on.AggregationFailed("out of bounds"), now)
    else:
        machine.handle(on.GivenUp("stopped"), now)
    assert machine.finished
    present = Collector(())
    runner = RoundRunner(SimpleNamespace(late=late))  # type: ignore[arg-type]
    outcome = Outcome(round=8, plan_hash=plan_hash(plan), reason="out of bounds")
    waiting = late.waiting
    await runner._part_with(present, machine, outcome)  # type: ignore[arg-type]
    assert present.cleared
    assert late.waiting == (waiting[2:] if joined else waiting)
