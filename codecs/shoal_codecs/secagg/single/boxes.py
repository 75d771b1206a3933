"""Boxes of shares from one device to another, through a coordinator that cannot open or change them.

The key is HKDF-SHA256 of the Diffie-Hellman secret of both bundles' seal keys, salt M, info the label and
both names, sender first: one key for each direction and plan. ChaCha20-Poly1305 (RFC 8439) with a zero
nonce, for a key seals one box; that it opens says that the sender's bundle made it.
"""

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from nacl.bindings import crypto_scalarmult
from nacl.exceptions import CryptoError

from shoal_codecs.secagg.single.errors import BadKeyError, BoxError
from shoal_codecs.security.sealing import KEY_BYTES
from shoal_codecs.wire.packing import prefixed
from shoal_codecs.wire.single import box_context

_LABEL = b"shoal/single-box/v1"
_NONCE = bytes(12)


def agreed_secret(private: bytes, public: bytes) -> bytes:
    """Return the X25519 secret (32 bytes, RFC 7748) of a private and another's public key.

    Raises:
        BadKeyError: a key of another length, or one that makes the secret zero.
    """
    fault = "not a usable X25519 key: its device must park new bundles"
    # The binding reads 32 bytes whatever it is given.
    if len(private) != KEY_BYTES or len(public) != KEY_BYTES:
        raise BadKeyError(fault)
    try:
        # Half the time of the other library's, whose private key objects derive their public half each time.
        secret: bytes = crypto_scalarmult(private, public)
    except (CryptoError, ValueError, TypeError, RuntimeError) as error:
        raise BadKeyError(fault) from error
    return secret


def seal_box(secret: bytes, plan_hash: bytes, sender: str, receiver: str, content: bytes) -> bytes:
    """Return ``content`` sealed; ``secret`` is what the seal keys of both agree on."""
    cipher = ChaCha20Poly1305(_box_key(secret, plan_hash, sender, receiver))
    return cipher.encrypt(_NONCE, content, box_context(plan_hash, sender, receiver))


def open_box(secret: bytes, plan_hash: bytes, sender: str, receiver: str, box: bytes) -> bytes:
    """Return what ``sender`` sealed to ``receiver``.

    Raises:
        BoxError: it did not, or not for this plan and this receiver.
    """
    cipher = ChaCha20Poly1305(_box_key(secret, plan_hash, sender, receiver))
    try:
        return cipher.decrypt(_NONCE, box, box_context(plan_hash, sender, receiver))
    except InvalidTag as error:
        raise BoxError(
            f"the box from {sender!r} does not open: this device holds no share of its secrets"
        ) from error


def _box_key(secret: bytes, plan_hash: bytes, sender: str, receiver: str) -> bytes:
    info = _LABEL + prefixed(sender) + prefixed(receiver)
    return HKDF(algorithm=SHA256(), length=32, salt=plan_hash, info=info).derive(secret)
