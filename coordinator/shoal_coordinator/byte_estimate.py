"""What a round costs one device in bytes up and down, from the codec's own formulas; pure.

Up: the share in clear, what sealing and framing add, and the words of a round. Down: the plan, the words of
a round, and the step to the next version. Tests hold the formulas against real payloads and real rounds.
"""

import math
from dataclasses import dataclass

from msgspec.structs import replace

from shoal_codecs.security.sealing import OVERHEAD_BYTES
from shoal_codecs.updates.base import kept_for
from shoal_codecs.updates.bitpack import packed_size
from shoal_codecs.updates.blocks import INT4, INT8
from shoal_codecs.updates.registry import INDEXED, SPARSE
from shoal_codecs.updates.ring import handy_bits, ring_bits_for
from shoal_codecs.wire.report import SHARE_SEED_BYTES
from shoal_coordinator.planning import RING_LEVELS, PlanSettings

HUBS = 2
BLOCK = 256
FLOAT_BYTES = 4
# Measured in rounds of real processes (MQTT 5, no TLS): reply, evaluation, acknowledgements; a report's
# signature, digests and frame for every hub.
WORDS_UP_BYTES = 600
REPORT_BYTES = 170
# Invitation, evaluation, receipts and acknowledgements; the plan's fixed part, and what a member adds to it.
WORDS_DOWN_BYTES = 1500
PLAN_BYTES = 800
MEMBER_BYTES = 12
# Mode ``single``: a box with shares of the secrets, and the words about it, for each neighbour and each way.
NEIGHBOUR_BYTES = 250
MOST_NEIGHBOURS = 64
# Levels of half a move's root mean square, normally distributed, coded; what is heavier-tailed takes less.
STEP_BITS = 3.15
STEP_BYTES = 20


@dataclass(frozen=True, slots=True)
class RoundBytes:
    """Bytes of one device in one round."""

    up: int
    down: int

    @property
    def total(self) -> int:
        """Both ways."""
        return self.up + self.down


@dataclass(frozen=True, slots=True)
class CodecChoice:
    """A codec that a round may use."""

    codec: str
    kept_share: float = 1.0
    levels: int = 8

    def applied(self, settings: PlanSettings) -> PlanSettings:
        """Return ``settings`` with this codec."""
        clamp, range_factor = RING_LEVELS[self.levels]
        return replace(
            settings,
            codec=self.codec,
            kept_share=self.kept_share,
            clamp=clamp,
            range_factor=range_factor,
        )

    @property
    def text(self) -> str:
        """The codec in words."""
        share = f" {100 * self.kept_share:g} %" if self.codec in SPARSE else ""
        return f"{self.codec}{share} in {self.levels} bits"


# In the order of the trade-off table: what keeps most accuracy first. Secret-shared, it is the bytes that
# decide: down to 5 % of the coordinates the differences are within chance.
SHARED_CHOICES = (
    CodecChoice("randk", 1.0, 8),
    CodecChoice("randk", 1.0, 4),
    CodecChoice("randk", 0.2, 4),
    CodecChoice("randk", 0.1, 8),
    CodecChoice("randk", 0.1, 4),
    CodecChoice("randk", 0.05, 8),
    CodecChoice("randk", 0.05, 4),
    CodecChoice("randk", 0.02, 4),
    CodecChoice("randk", 0.01, 4),
)
PLAIN_CHOICES = (
    CodecChoice("dense", levels=8),
    CodecChoice("topk", 0.05, 8),
    CodecChoice("topk4", 0.05, 4),
    CodecChoice("topk", 0.01, 8),
    CodecChoice("topk4", 0.01, 4),
    CodecChoice("topk4", 0.002, 4),
)


def share_bytes(settings: PlanSettings, dimension: int, devices: int) -> int:
    """Return the bytes of one device's share in clear: what the codec makes of ``dimension`` parameters."""
    kept = kept_for(dimension, settings.kept_share) if settings.codec in SPARSE else dimension
    if settings.mode != "plain":
        bits = handy_bits(ring_bits_for(devices, settings.clamp), settings.mode)
        return packed_size(kept + _limbs(settings.weight_cap, bits, devices), bits)
    if settings.codec == "dense":
        return FLOAT_BYTES * dimension
    coder = INT4 if settings.codec.endswith("4") else INT8
    indices = _index_bytes(dimension, kept) if settings.codec in INDEXED else 0
    return coder.size(kept, BLOCK) + indices


def step_bytes(settings: PlanSettings, dimension: int, devices: int) -> int:
    """Return about how many bytes the step to the next version takes."""
    kept = kept_for(dimension, settings.kept_share) if settings.codec in SPARSE else dimension
    if settings.codec in INDEXED:
        # The union of what each device sends moves, and each place that moves is told.
        moved = dimension * (1.0 - (1.0 - kept / dimension) ** devices)
        told = _index_bytes(dimension, max(1, int(moved))) + moved / 4
        return STEP_BYTES + math.ceil(min(told, dimension * STEP_BITS / 8))
    return STEP_BYTES + math.ceil(kept * STEP_BITS / 8)


def round_bytes(settings: PlanSettings, dimension: int, devices: int, hubs: int = HUBS) -> RoundBytes:
    """Return what a round with these settings costs each of ``devices`` devices."""
    receivers = hubs if settings.mode == "hubs" else 1
    share = share_bytes(settings, dimension, devices)
    up = (
        share
        + (receivers - 1) * SHARE_SEED_BYTES
        + receivers * (OVERHEAD_BYTES + REPORT_BYTES)
        + WORDS_UP_BYTES
    )
    down = WORDS_DOWN_BYTES + PLAN_BYTES + MEMBER_BYTES * devices + step_bytes(settings, dimension, devices)
    if "control" in settings.tells:
        # SCAFFOLD: the fleet's control comes down whole, and the change of one's own goes up.
        up, down = up + share, down + FLOAT_BYTES * dimension
    if settings.mode == "single":
        masks = NEIGHBOUR_BYTES * min(devices - 1, MOST_NEIGHBOURS)
        up, down = up + masks, down + masks
    return RoundBytes(up, down)


def _limbs(weight_cap: int, bits: int, devices: int) -> int:
    base = ((1 << bits) - 1) // devices + 1
    return math.floor(math.log(weight_cap, base)) + 1 if weight_cap > 1 else 1


def _index_bytes(dimension: int, count: int) -> int:
    """Return the bytes of ``count`` sorted coordinates of ``dimension``: Rice codes are near the entropy."""
    share = count / dimension
    if share >= 1:
        return (dimension + 7) // 8
    entropy = -(share * math.log2(share) + (1 - share) * math.log2(1 - share)) * dimension
    return min((dimension + 7) // 8, math.ceil(entropy / 8 * 1.04)) + 2
