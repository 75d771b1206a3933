"""Mode ``single``: key bundles parked at the broker, sets of devices as bitmaps, what is signed for both."""

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import prefixed
from shoal_codecs.wire.plan import PREKEY_ID_BYTES

_PREKEY_LABEL = b"shoal/1 prekey\x00"
_DRAW_LABEL = b"shoal/1 draw\x00"
_CONSENT_LABEL = b"shoal/1 consent\x00"
_UNMASK_LABEL = b"shoal/1 unmask\x00"


class Prekey(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A bundle of a device's public keys for one round; used once.

    ``mask_key`` and ``seal_key`` are X25519 keys, ``draw`` the commitment to the nonce (32 bytes each) that
    draws the device's neighbours, ``signature`` the device's over ``prekey_signing_bytes``.
    """

    mask_key: bytes
    seal_key: bytes
    draw: bytes
    signature: bytes


def draw_commitment(nonce: bytes) -> bytes:
    """Return the commitment (32 bytes) to a draw nonce (32 bytes)."""
    return hashlib.sha256(_DRAW_LABEL + nonce).digest()


def prekey_signing_bytes(fleet: str, device: str, mask_key: bytes, seal_key: bytes, draw: bytes) -> bytes:
    """Return what a device signs for a bundle of its keys."""
    return _PREKEY_LABEL + prefixed(fleet) + prefixed(device) + mask_key + seal_key + draw


def prekey_id(fleet: str, device: str, prekey: Prekey) -> bytes:
    """Return the id (16 bytes) under which a plan names a bundle of ``device``."""
    signed = prekey_signing_bytes(fleet, device, prekey.mask_key, prekey.seal_key, prekey.draw)
    return hashlib.sha256(signed).digest()[:PREKEY_ID_BYTES]


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
