"""What hubs promise before a plan and certify after one, and the bytes that are signed for both."""

import hashlib

import msgspec

from shoal_codecs.wire.packing import prefixed
from shoal_codecs.wire.plan import HubOffer

_PROMISE_LABEL = b"shoal/1 hub promise\x00"
_COMMITMENT_LABEL = b"shoal/1 hub commitment\x00"
_CHALLENGE_LABEL = b"shoal/1 norm challenge\x00"
_SET_LABEL = b"shoal/1 promise set\x00"
_NEVER_LABEL = b"shoal/1 never released\x00"


class HubPromise(msgspec.Struct, frozen=True, array_like=True):
    """What a hub offers to the next plan before it shows its nonce.

    ``key`` is a fresh X25519 key, ``commitment`` binds key, nonce and challenge, ``signature`` is the hub's
    over ``promise_signing_bytes``.
    """

    hub: str
    key: bytes
    commitment: bytes
    signature: bytes


class NeverReleased(msgspec.Struct, frozen=True, array_like=True):
    """Every hub's word that the sum of one plan was not released and never will be.

    ``signatures`` are by hub, over ``never_released_bytes`` of the plan's hash.
    """

    plan_hash: bytes
    signatures: dict[str, bytes]


def challenge_digest(challenge: bytes) -> bytes:
    """Return the digest (32 bytes) under which a plan names a hub's secret ``challenge`` (32 bytes)."""
    return hashlib.sha256(_CHALLENGE_LABEL + challenge).digest()


def promise_commitment(hub: str, key: bytes, nonce: bytes, challenge: bytes) -> bytes:
    """Return the commitment (32 bytes) to ``nonce`` and to ``challenge``, which is a ``challenge_digest``."""
    return hashlib.sha256(_COMMITMENT_LABEL + prefixed(hub) + key + nonce + challenge).digest()


def promise_signing_bytes(fleet: str, hub: str, key: bytes, commitment: bytes) -> bytes:
    """Return what a hub signs for its promise."""
    return _PROMISE_LABEL + prefixed(fleet) + prefixed(hub) + key + commitment


def promise_set_digest(promises: tuple[HubPromise, ...]) -> bytes:
    """Return the digest (32 bytes) of the promises that belong to one plan, whatever their order."""
    digest = hashlib.sha256(_SET_LABEL)
    for promise in sorted(promises, key=lambda one: one.hub):
        digest.update(prefixed(promise.hub) + promise.key + promise.commitment)
    return digest.digest()


def never_released_bytes(plan_hash: bytes) -> bytes:
    """Return what a hub signs when it has destroyed the key of the plan with ``plan_hash``."""
    return _NEVER_LABEL + plan_hash


def promise_of(offer: HubOffer) -> HubPromise:
    """Return the promise, unsigned, that ``offer`` as a plan names it keeps."""
    commitment = promise_commitment(offer.hub, offer.key, offer.nonce, offer.challenge)
    return HubPromise(offer.hub, offer.key, commitment, b"")
