"""A hub's numbers: how long shares are, whether one can be added, and the sum. Imports numpy."""

from collections.abc import Iterable
from dataclasses import dataclass

from shoal_codecs.secagg.packed_sum import PackedSum
from shoal_codecs.secagg.prg import expand, fold_masks, share_key
from shoal_codecs.updates.base import Payload
from shoal_codecs.updates.bitpack import check_padding, packed_size
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import pack_ring, unpack_ring
from shoal_codecs.wire.plan import Plan, whole_share_devices, whole_share_place

PREVIEW_WORDS = 8


@dataclass(frozen=True, slots=True)
class WholeShares:
    """What a round's shares in full are: ``words`` of ``bits``, packed."""

    words: int
    bits: int

    @property
    def size(self) -> int:
        """Bytes of one."""
        return packed_size(self.words, self.bits)

    def check(self, share: Payload) -> None:
        """Refuse a share of the right length that cannot be added.

        Raises:
            UpdateError: bits set that no encoder sets.
        """
        check_padding(share, self.words, self.bits)


def whole_shares(plan: Plan) -> WholeShares:
    """Return what shares in full are in the round of ``plan``.

    Raises:
        RingSpecError: the plan's numbers make no ring.
    """
    spec = ring_spec(plan)
    return WholeShares(spec.words, spec.ring_bits)


def preview_share(plan: Plan, share: Payload) -> list[int]:
    """Return the last coordinates' words of a share in full, as a hub sees it."""
    spec = ring_spec(plan)
    words = unpack_ring(share, spec.words, spec.ring_bits)[: spec.kept]
    return [int(word) for word in words[-PREVIEW_WORDS:]]


def share_words(plan: Plan, plan_hash: bytes, position: int, device: str, share: bytes) -> Words:
    """Return the words (uint[spec.words]) that a share in clear stands for at the hub at ``position``."""
    spec = ring_spec(plan)
    if whole_share_place(plan, device) == position:
        return unpack_ring(share, spec.words, spec.ring_bits)
    return expand(share, plan_hash, device, position + 1, spec.words, spec.ring_bits)


def add_shares(
    plan: Plan,
    plan_hash: bytes,
    position: int,
    shares: Iterable[tuple[str, bytes]],
    added: bytes = b"",
) -> bytes:
    """Return the packed sum of ``shares`` (device, share in clear) at the hub at ``position``.

    ``added`` is the packed sum of shares that are not among them.
    """
    spec = ring_spec(plan)
    whole = PackedSum(spec.words, spec.ring_bits)
    if added:
        whole.add(added)
    keys, own = [], whole_share_devices(plan, position)
    for device, share in shares:
        if device in own:
            whole.add(share)
        else:
            keys.append(share_key(share, plan_hash, device, position + 1))
    if not keys:
        return whole.packed()
    words = whole.words()
    fold_masks(words, keys, [], spec.ring_bits)
    return pack_ring(words, spec.ring_bits)
