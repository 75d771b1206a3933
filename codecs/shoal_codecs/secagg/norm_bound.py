"""What the L2 check of shares asks of a plan; pure numbers, for hubs and for whoever plans.

Entries of a projection are -1, 0, 0, +1: plus or minus one alone is unsound modulo 2**w, for a vector of
2**(w-1) would always project to 0 or 2**(w-1). Projections larger than the ring wrap around, so the ring is
wide enough that what wraps is uniform and far beyond the limit.
"""

import hashlib
import math
from collections.abc import Mapping

from shoal_codecs.wire.packing import prefixed
from shoal_codecs.wire.plan import CodecPlan, Plan

PROJECTIONS = 16
LEAST_KEPT = 16 * PROJECTIONS
"""Coordinates of a plan with the check: as many projections as coordinates would be the update itself."""
_SEED_LABEL = b"shoal/1 projections\x00"
_CONTEXT_LABEL = b"shoal/1 projections of shares\x00"
_HEADROOM = 4


def norm_bound(codec: CodecPlan) -> float:
    """Return the L2 norm, in levels, of an honest device's words: clipped, scaled, then rounded."""
    scaled = codec.clamp * math.sqrt(codec.kept) / codec.range_factor
    return math.sqrt(scaled**2 + codec.kept / 4)


def checked_ring_bits(codec: CodecPlan, slack: float) -> int:
    """Return the fewest bits of a ring in which the check with ``slack`` tells long from short."""
    return math.ceil(math.log2(2 * _HEADROOM * slack * norm_bound(codec)))


def norm_fault(plan: Plan) -> str:
    """Return why the norm check of ``plan`` would be worthless, or nothing."""
    least = checked_ring_bits(plan.codec, plan.norm_check) if plan.norm_check else 0
    if plan.norm_check and plan.norm_check < 1:
        return f"a norm check with slack {plan.norm_check:g} refuses honest devices: take 1.6"
    if plan.norm_check and plan.codec.kept < LEAST_KEPT:
        return (
            f"{PROJECTIONS} projections of {plan.codec.kept} coordinates would show too much of an update: "
            f"keep {LEAST_KEPT} for a norm check"
        )
    if plan.codec.ring_bits < least:
        return f"a norm check needs a ring of {least} bits, the plan has {plan.codec.ring_bits}: widen it"
    return ""


def projection_seed(plan_hash: bytes, set_digest: bytes, secrets: Mapping[str, bytes]) -> bytes:
    """Return the seed (32 bytes) of the projections: of the plan, the fixed reports, every hub's secret."""
    digest = hashlib.sha256(_SEED_LABEL + plan_hash + set_digest)
    for hub in sorted(secrets):
        digest.update(prefixed(hub) + secrets[hub])
    return digest.digest()


def projection_context(plan_hash: bytes, set_digest: bytes, sender: str, receiver: str) -> bytes:
    """Return the associated data under which ``sender`` seals its projections to ``receiver``."""
    return _CONTEXT_LABEL + plan_hash + set_digest + prefixed(sender) + prefixed(receiver)
