"""Mode ``single``: key bundles parked at the broker, sets of devices as bitmaps, what is signed for both."""

from collections.abc import Iterable, Sequence

import msgspec

from shoal_codecs.security.stream_cipher import StreamCipher
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, prefixed, unpack
from shoal_codecs.wire.plan import PREKEY_ID_BYTES
from shoal_codecs.wire.sha256 import sha256

_PREKEY_LABEL = b"shoal/1 prekey\x00"
_DRAW_LABEL = b"shoal/1 draw\x00"
_CONSENT_LABEL = b"shoal/1 consent\x00"
_UNMASK_LABEL = b"shoal/1 unmask\x00"
_SEED_LABEL = b"shoal/1 self seed\x00"
_BOX_LABEL = b"shoal/1 single box\x00"
SHARE_BYTES = 32
BOX_BYTES = 2 * SHARE_BYTES + 16


class Prekey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A bundle of a device's public keys for one round; used once.

    ``mask_key`` and ``seal_key`` are X25519 keys, ``draw`` the commitment to the nonce (32 bytes each) that
    draws the device's neighbours, ``signature`` the device's over ``prekey_signing_bytes``. ``cipher`` is
    what it expands masks with: its own, and those it shares with devices whose bundles say the same.
    """

    mask_key: bytes
    seal_key: bytes
    draw: bytes
    signature: bytes
    cipher: StreamCipher = StreamCipher.CHACHA20


class MaskOpening(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What a device gives to open the masks of one split of the members.

    ``own`` is the seed of its own mask. ``shares`` (32 bytes each) follow the cohort's order over the set
    ``senders`` (a bitmap): of the seed of a sender that is alive, of the mask key of one that is dead.
    """

    own: bytes
    senders: bytes
    shares: bytes


def encode_opening(opening: MaskOpening) -> bytes:
    """Return the opening as bytes, to be sealed."""
    return pack(opening)


def decode_opening(data: bytes, cohort: Sequence[str]) -> tuple[bytes, dict[str, bytes]]:
    """Return the sender's own seed and its shares by whose secret they are of.

    Raises:
        MalformedMessageError: not an opening for this cohort.
    """
    try:
        opening = unpack(data, MaskOpening)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(f"not an opening of masks ({error}): update the device") from error
    names = names_in(opening.senders, cohort)
    if len(opening.own) != SHARE_BYTES or len(opening.shares) != SHARE_BYTES * len(names):
        raise MalformedMessageError(
            f"{len(opening.shares)} bytes are not {len(names)} shares of {SHARE_BYTES}: update the device"
        )
    return opening.own, {
        name: opening.shares[place * SHARE_BYTES : (place + 1) * SHARE_BYTES]
        for place, name in enumerate(names)
    }


def seed_commitment(plan_hash: bytes, device: str, seed: bytes) -> bytes:
    """Return the commitment (32 bytes) to the seed (32 bytes) of the mask that ``device`` alone has."""
    return sha256(_SEED_LABEL + plan_hash + prefixed(device) + seed)


def box_context(plan_hash: bytes, sender: str, receiver: str) -> bytes:
    """Return what a box of shares from ``sender`` to ``receiver`` is bound to."""
    return _BOX_LABEL + plan_hash + prefixed(sender) + prefixed(receiver)


def draw_commitment(nonce: bytes) -> bytes:
    """Return the commitment (32 bytes) to a draw nonce (32 bytes)."""
    return sha256(_DRAW_LABEL + nonce)


def prekey_signing_bytes(fleet: str, device: str, prekey: Prekey) -> bytes:
    """Return what a device signs for a bundle of its keys: all of ``prekey`` but the signature."""
    keys = prekey.mask_key + prekey.seal_key + prekey.draw + bytes([prekey.cipher])
    return _PREKEY_LABEL + prefixed(fleet) + prefixed(device) + keys


def prekey_id(fleet: str, device: str, prekey: Prekey) -> bytes:
    """Return the id (16 bytes) under which a plan names a bundle of ``device``."""
    return sha256(prekey_signing_bytes(fleet, device, prekey))[:PREKEY_ID_BYTES]


def consent_bytes(plan_hash: bytes, alive: bytes, dead: bytes) -> bytes:
    """Return what a device signs for one split of the members (bitmaps over the cohort) into two sets."""
    return _CONSENT_LABEL + plan_hash + len(alive).to_bytes(4, "big") + alive + dead


def unmask_context(plan_hash: bytes, device: str) -> bytes:
    """Return the associated data under which a device seals the shares that open others' masks."""
    return _UNMASK_LABEL + plan_hash + prefixed(device)


def bitmap_of(names: Iterable[str], cohort: Sequence[str]) -> bytes:
    """Return the set ``names`` as bits over ``cohort``: device i is bit i % 8 of byte i // 8.

    Raises:
        MalformedMessageError: a name outside the cohort.
    """
    places = {name: place for place, name in enumerate(cohort)}
    bits = bytearray(-(-len(cohort) // 8))
    for name in names:
        if name not in places:
            raise MalformedMessageError(f"{name[:64]!r} is not in the cohort: take names from the plan")
        bits[places[name] // 8] |= 1 << places[name] % 8
    return bytes(bits)


def names_in(bitmap: bytes, cohort: Sequence[str]) -> tuple[str, ...]:
    """Return the devices of ``cohort`` whose bits are set, in the cohort's order.

    Raises:
        MalformedMessageError: another length than the cohort needs, or a bit beyond it.
    """
    if len(bitmap) != -(-len(cohort) // 8) or int.from_bytes(bitmap, "little") >> len(cohort):
        raise MalformedMessageError(
            f"{len(bitmap)} bytes are no set of {len(cohort)} devices: make it from the plan's cohort"
        )
    return tuple(name for place, name in enumerate(cohort) if bitmap[place // 8] >> place % 8 & 1)
