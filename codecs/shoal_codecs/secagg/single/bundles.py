"""Key bundles: made by a device ahead of time, parked at the broker, checked by everybody of a cohort."""

from collections.abc import Callable, Sequence

import msgspec

from shoal_codecs.secagg.single.errors import (
    BundleMismatchError,
    BundleSignatureError,
    RepeatedKeyError,
)
from shoal_codecs.security.errors import BadSignatureError, UnknownPartyError
from shoal_codecs.security.identity import Identity, verify
from shoal_codecs.security.roster import Roster
from shoal_codecs.security.sealing import public_sealing_key
from shoal_codecs.security.stream_cipher import StreamCipher, best_cipher
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey, draw_commitment, prekey_id, prekey_signing_bytes

KEY_BYTES = 32


class OwnBundle(msgspec.Struct, frozen=True, array_like=True):
    """A bundle with its private half; never leaves the device. All but ``prekey`` are 32 secret bytes."""

    mask_private: bytes
    seal_private: bytes
    nonce: bytes
    prekey: Prekey


def make_bundle(
    identity: Identity,
    fleet: str,
    random: Callable[[int], bytes],
    cipher: StreamCipher | None = None,
) -> OwnBundle:
    """Return a fresh bundle signed by ``identity``; ``random`` gives bytes nobody can guess.

    ``cipher``: what masks are expanded with; None takes what this processor does best.
    """
    mask_private, seal_private, nonce = (random(KEY_BYTES) for _ in range(3))
    mask_key, seal_key = public_sealing_key(mask_private), public_sealing_key(seal_private)
    unsigned = Prekey(mask_key, seal_key, draw_commitment(nonce), b"", cipher or best_cipher())
    signature = identity.sign(prekey_signing_bytes(fleet, identity.name, unsigned))
    return OwnBundle(
        mask_private, seal_private, nonce, msgspec.structs.replace(unsigned, signature=signature)
    )


def check_bundle(device: str, prekey: Prekey, fleet: str, roster: Roster) -> None:
    """Check that ``device``, which the authority enrolled, signed this bundle.

    Raises:
        BundleSignatureError: it did not, or is none of the fleet's devices.
    """
    keys = (prekey.mask_key, prekey.seal_key, prekey.draw)
    try:
        if roster.role(device) != "device" or any(len(key) != KEY_BYTES for key in keys):
            raise BundleSignatureError(
                f"{device!r} parked keys that are none, or is no device of the roster: leave it out"
            )
        verify(roster.party(device).key, prekey_signing_bytes(fleet, device, prekey), prekey.signature)
    except (BadSignatureError, UnknownPartyError) as error:
        raise BundleSignatureError(
            f"the key bundle of {device!r} is not signed by it: leave it out, and see who wrote on its topic"
        ) from error


def check_bundles(plan: Plan, prekeys: Sequence[Prekey], roster: Roster) -> None:
    """Check that ``prekeys`` are those the plan names, each its device's own and no key in two places.

    A device checks those it shares no mask with as well: a bundle that the coordinator made up is a member
    it plays itself, and its floor and threshold count on members of whom only a share is corrupt. That the
    neighbours are real does not make the set real in which their sum hides.

    Raises:
        BundleMismatchError: others than the plan names.
        BundleSignatureError: one that its device did not sign.
        RepeatedKeyError: a key that stands twice.
    """
    named = plan.single.prekeys if plan.single else ()
    found = tuple(
        prekey_id(plan.fleet, device, prekey) for device, prekey in zip(plan.cohort, prekeys, strict=False)
    )
    if len(prekeys) != len(plan.cohort) or found != named:
        raise BundleMismatchError("the key bundles beside the plan are not those it names: publish it again")
    keys = [key for prekey in prekeys for key in (prekey.mask_key, prekey.seal_key)]
    if len(set(keys)) != len(keys) or len({prekey.draw for prekey in prekeys}) != len(prekeys):
        raise RepeatedKeyError("one key stands in two places of the cohort: leave those devices out")
    for device, prekey in zip(plan.cohort, prekeys, strict=True):
        check_bundle(device, prekey, plan.fleet, roster)
