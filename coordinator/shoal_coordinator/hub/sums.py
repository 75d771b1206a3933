"""A hub's numbers: how long shares are, whether one can be added, and the sum. Imports numpy."""

from collections.abc import Iterable

import numpy as np

from shoal_codecs.secagg.packed_sum import PackedSum
from shoal_codecs.secagg.prg import SEED_BYTES, expand, fold_masks, ring_dtype, share_key
from shoal_codecs.updates.bitpack import check_padding, packed_size
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import pack_ring, unpack_ring
from shoal_codecs.wire.plan import Plan

PREVIEW_WORDS = 8


def share_bytes(plan: Plan, position: int) -> int:
    """Return the length of a share in clear for the hub at ``position`` (from 0) of ``plan``.

    Raises:
        RingSpecError: the plan's numbers make no ring.
    """
    spec = ring_spec(plan)
    return SEED_BYTES if position else packed_size(spec.words, spec.ring_bits)


def check_share(plan: Plan, position: int, share: bytes) -> None:
    """Refuse a share of the right length that cannot be added.

    Raises:
        UpdateError: bits set that no encoder sets.
    """
    if position == 0:
        spec = ring_spec(plan)
        check_padding(share, spec.words, spec.ring_bits)


def preview_share(plan: Plan, share: bytes) -> list[int]:
    """Return the last coordinates' words of a share in full, as the first hub sees it."""
    spec = ring_spec(plan)
    words = unpack_ring(share, spec.words, spec.ring_bits)[: spec.kept]
    return [int(word) for word in words[-PREVIEW_WORDS:]]


def share_words(plan: Plan, plan_hash: bytes, position: int, device: str, share: bytes) -> Words:
    """Return the words (uint[spec.words]) that a share in clear stands for at the hub at ``position``."""
    spec = ring_spec(plan)
    if position == 0:
        return unpack_ring(share, spec.words, spec.ring_bits)
    return expand(share, plan_hash, device, position + 1, spec.words, spec.ring_bits)


def add_shares(plan: Plan, plan_hash: bytes, position: int, shares: Iterable[tuple[str, bytes]]) -> bytes:
    """Return the packed sum of ``shares`` (device, share in clear) at the hub at ``position``."""
    spec = ring_spec(plan)
    if position == 0:
        total = PackedSum(spec.words, spec.ring_bits)
        for _, share in shares:
            total.add(share)
        return total.packed()
    words: Words = np.zeros(spec.words, ring_dtype(spec.ring_bits))
    keys = [share_key(seed, plan_hash, device, position + 1) for device, seed in shares]
    fold_masks(words, keys, [], spec.ring_bits)
    return pack_ring(words, spec.ring_bits)
