"""Mode ``single`` in the worker: shares, boxes and masks, which need numpy and cryptography."""

import os
from typing import Any

from shoal_codecs.secagg.single.bundles import OwnBundle
from shoal_codecs.secagg.single.masking import mask_words
from shoal_codecs.secagg.single.sharing import make_shares, open_delivery
from shoal_codecs.updates.keystream import Words
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import Plan, decode_plan, plan_hash
from shoal_codecs.wire.single import Prekey
from shoal_edge.single_records import Masks


def shares_for(plan: bytes, device: str, own: bytes, prekeys: bytes) -> dict[str, Any]:
    """Return the packed ``MadeShares`` of ``device``; see ``sharing.make_shares``."""
    keys, bundle = unpack(prekeys, tuple[Prekey, ...]), unpack(own, OwnBundle)
    made = make_shares(bundle, device, decode_plan(plan), plan_hash(plan), keys, os.urandom)
    return {"shares": pack(made)}


def boxes_opened(
    plan: bytes,
    device: str,
    own: bytes,
    prekeys: bytes,
    *,
    members: bytes,
    draws: dict[str, bytes],
    boxes: dict[str, bytes],
) -> dict[str, Any]:
    """Return the packed ``Neighbourly`` of a delivery; see ``sharing.open_delivery``."""
    keys, bundle = unpack(prekeys, tuple[Prekey, ...]), unpack(own, OwnBundle)
    found = open_delivery(bundle, device, decode_plan(plan), plan_hash(plan), keys, members, draws, boxes)
    return {"neighbourly": pack(found)}


def put_masks_on(words: Words, bits: int, plan: Plan, digest: bytes, device: str, masks: bytes) -> None:
    """Mask ``words`` (uint[count] modulo 2**bits) in place with the packed ``Masks``.

    ``digest`` is the hash of ``plan``.
    """
    given = unpack(masks, Masks)
    mask_words(
        words,
        bits,
        seed=given.seed,
        mask_private=given.mask_private,
        device=device,
        peers=given.peers,
        plan=plan,
        plan_hash=digest,
        prekeys=given.prekeys,
    )
