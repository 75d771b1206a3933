"""A report of mode ``single`` under its masks."""

from shoal_codecs.secagg.single.masking import mask_words
from shoal_codecs.updates.keystream import Words
from shoal_codecs.wire.packing import unpack
from shoal_codecs.wire.plan import Plan
from shoal_edge.single_records import Masks


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
