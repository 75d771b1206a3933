"""Mode ``single`` before a report: the device's secrets shared, and others' boxes opened."""

import os
from typing import Any

from shoal_codecs.secagg.single.bundles import OwnBundle
from shoal_codecs.secagg.single.sharing import make_shares, open_delivery
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import decode_plan, plan_hash
from shoal_codecs.wire.single import Prekey
from shoal_edge.jobs.state import Stop, WorkerState


def single_shares(
    _state: WorkerState, *, plan: bytes, device: str, own: bytes, prekeys: bytes, should_stop: Stop
) -> dict[str, Any]:
    """Return the packed ``MadeShares`` of the device's secrets; ``own`` and ``prekeys`` are packed.

    See ``sharing.make_shares``.
    """
    del should_stop
    keys, bundle = unpack(prekeys, tuple[Prekey, ...]), unpack(own, OwnBundle)
    made = make_shares(bundle, device, decode_plan(plan), plan_hash(plan), keys, os.urandom)
    return {"shares": pack(made)}


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
    """Return the packed ``Neighbourly`` of the boxes with others' shares; see ``sharing.open_delivery``."""
    del should_stop
    keys, bundle = unpack(prekeys, tuple[Prekey, ...]), unpack(own, OwnBundle)
    found = open_delivery(bundle, device, decode_plan(plan), plan_hash(plan), keys, members, draws, boxes)
    return {"neighbourly": pack(found)}
