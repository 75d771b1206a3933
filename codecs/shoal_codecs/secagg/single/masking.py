"""The masks of mode ``single``: put on by a device, taken off a sum by the coordinator. Needs numpy.

A masked vector is words + PRG(b) + the pair masks with every peer whose name sorts later - those with every
peer whose name sorts earlier, modulo 2^w: in a sum over both ends of a pair its mask is gone.
"""

from collections.abc import Iterable, Mapping, Sequence

from shoal_codecs.secagg.prg import fold_masks, pair_mask_key, self_mask_key
from shoal_codecs.secagg.single.boxes import agreed_secret
from shoal_codecs.security.stream_cipher import common_cipher
from shoal_codecs.updates.keystream import StreamKey, Words
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey


def mask_words(
    words: Words,
    bits: int,
    *,
    seed: bytes,
    mask_private: bytes,
    device: str,
    peers: Iterable[str],
    plan: Plan,
    plan_hash: bytes,
    prekeys: Sequence[Prekey],
) -> None:
    """Mask ``words`` (uint[count] modulo 2**bits) in place, as ``device`` with its secrets.

    ``seed`` is its own mask's, ``mask_private`` its bundle's; ``peers`` share masks with it.

    Raises:
        BadKeyError: a peer's key that is none.
        RingWidthError: words of another width.
    """
    keys = dict(zip(plan.cohort, prekeys, strict=True))
    cipher = keys[device].cipher
    added, subtracted = [self_mask_key(seed, plan_hash, device, cipher)], list[StreamKey]()
    for peer in peers:
        side = added if device < peer else subtracted
        side.append(_pair_key(mask_private, device, peer, plan_hash, keys))
    fold_masks(words, added, subtracted, bits)


def unmask_sum(
    total: Words,
    bits: int,
    *,
    seeds: Mapping[str, bytes],
    mask_privates: Mapping[str, bytes],
    edges: Mapping[str, Iterable[str]],
    plan: Plan,
    plan_hash: bytes,
    prekeys: Sequence[Prekey],
    threads: int = 1,
) -> None:
    """Take the masks off ``total``, the sum (uint[count] modulo 2**bits) of masked vectors, in place.

    ``seeds`` are those of everybody in the sum, ``mask_privates`` the keys of the dead, ``edges`` for each of
    the dead those in the sum that share a mask with it.

    Raises:
        BadKeyError: a key that is none.
        RingWidthError: words of another width.
    """
    keys = dict(zip(plan.cohort, prekeys, strict=True))
    added = list[StreamKey]()
    subtracted = [
        self_mask_key(seed, plan_hash, device, keys[device].cipher) for device, seed in seeds.items()
    ]
    for dead, private in mask_privates.items():
        for peer in edges[dead]:
            # The peer has added this mask if its name sorts first.
            side = subtracted if peer < dead else added
            side.append(_pair_key(private, dead, peer, plan_hash, keys))
    fold_masks(total, added, subtracted, bits, threads)


def _pair_key(
    private: bytes, device: str, peer: str, plan_hash: bytes, keys: Mapping[str, Prekey]
) -> StreamKey:
    """Return the key of the mask that ``device``, whose mask key is ``private``, shares with ``peer``."""
    secret = agreed_secret(private, keys[peer].mask_key)
    cipher = common_cipher(keys[device].cipher, keys[peer].cipher)
    return pair_mask_key(secret, plan_hash, device, peer, cipher)
