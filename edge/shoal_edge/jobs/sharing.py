"""Mode ``single`` before a report: the device's secrets shared, and others' boxes opened."""

from typing import Any

from shoal_edge.jobs.state import Stop, WorkerState
from shoal_edge.single_jobs import boxes_opened, shares_for


def single_shares(
    _state: WorkerState, *, plan: bytes, device: str, own: bytes, prekeys: bytes, should_stop: Stop
) -> dict[str, Any]:
    """Share the device's secrets of a round of mode ``single``; ``own`` and ``prekeys`` are packed."""
    del should_stop
    return shares_for(plan, device, own, prekeys)


def single_boxes(
    _state: WorkerState,
    *,
    plan: bytes,
    device: str,
    own: bytes,
    prekeys: bytes,
    members: bytes,
    draws: dict[str, bytes],
    boxes: dict[str, bytes],
    should_stop: Stop,
) -> dict[str, Any]:
    """Open the boxes of others' shares of their secrets, in a round of mode ``single``."""
    del should_stop
    return boxes_opened(plan, device, own, prekeys, members=members, draws=draws, boxes=boxes)
