"""Sealing: bytes that one X25519 key opens, in the context they were sealed for and no other.

A fresh sender key per seal; the AEAD key is BLAKE2b over the Diffie-Hellman secret and both public keys;
ChaCha20-Poly1305 (RFC 8439) with the context as associated data, from the library whose vector code is three
times as fast on the megabytes of a share. The nonce is zero, for every key is used once.
"""

from typing import TYPE_CHECKING

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.encoding import RawEncoder
from nacl.exceptions import CryptoError
from nacl.hash import blake2b
from nacl.utils import random

from shoal_codecs.buffers import written
from shoal_codecs.security.errors import UnsealError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

KEY_BYTES = 32
OVERHEAD_BYTES = 32 + 16
_NONCE = bytes(12)


def new_sealing_key() -> tuple[bytes, bytes]:
    """Return a fresh X25519 pair, private and public, 32 bytes each."""
    private: bytes = random(KEY_BYTES)
    return private, public_sealing_key(private)


def public_sealing_key(private: bytes) -> bytes:
    """Return the public half of an X25519 key."""
    public: bytes = crypto_scalarmult_base(private)
    return public


def seal(public: bytes, plaintext: bytes, context: bytes) -> bytes:
    """Seal ``plaintext`` to ``public`` (32 bytes) under ``context``; ``OVERHEAD_BYTES`` longer.

    Raises:
        UnsealError: ``public`` is no usable key.
    """
    private, sender = new_sealing_key()
    key = _key(private, public, sender, public)

    def write(buffer: memoryview) -> None:
        buffer[:KEY_BYTES] = sender
        _cipher(key).encrypt_into(_NONCE, plaintext, context, buffer[KEY_BYTES:])

    return written(len(plaintext) + OVERHEAD_BYTES, write)


def unseal(private: bytes, sealed: bytes, context: bytes) -> bytes:
    """Open what was sealed to this key under ``context``.

    Raises:
        UnsealError: another key, another context, or changed bytes.
    """
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - see _cipher

    if len(sealed) < OVERHEAD_BYTES:
        raise UnsealError(f"{len(sealed)} bytes are too few to be sealed bytes: seal and send it again")
    sender = sealed[:KEY_BYTES]
    key = _key(private, sender, sender, public_sealing_key(private))
    try:
        return _cipher(key).decrypt(_NONCE, memoryview(sealed)[KEY_BYTES:], context)
    except InvalidTag as error:
        raise UnsealError(
            "sealed for another key or another context, or changed on the way: seal it anew to the plan's key"
        ) from error


def _cipher(key: bytes) -> "ChaCha20Poly1305":
    # Whoever signs and waits between two rounds does without this library in its memory.
    from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305  # noqa: PLC0415 - the line above

    return ChaCha20Poly1305(key)


def _key(private: bytes, peer: bytes, sender: bytes, receiver: bytes) -> bytes:
    # The binding reads 32 bytes whatever it is given.
    if len(private) != KEY_BYTES or len(peer) != KEY_BYTES:
        raise UnsealError(f"not a usable X25519 key: it has {KEY_BYTES} bytes")
    try:
        shared = crypto_scalarmult(private, peer)
    except (CryptoError, ValueError, TypeError, RuntimeError) as error:
        raise UnsealError("not a usable X25519 key: take the one in the plan or on the roster") from error
    key: bytes = blake2b(shared + sender + receiver, person=b"shoal/1 seal", encoder=RawEncoder)
    return key
