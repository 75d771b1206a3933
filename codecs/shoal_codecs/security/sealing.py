"""Sealing: bytes that one X25519 key opens, in the context they were sealed for and no other.

A fresh sender key per seal; the AEAD key is BLAKE2b over the Diffie-Hellman secret, both public keys and the
cipher's number; the context is the associated data. The sender takes AES-256-GCM (NIST SP 800-38D) where its
processor has instructions for it, four times as fast there on the megabytes of a share, and elsewhere
ChaCha20-Poly1305 (RFC 8439), which is several times as fast without them; every receiver opens both. The
nonce is zero, for every key is used once.
"""

from typing import TYPE_CHECKING, TypeAlias

from nacl.bindings import crypto_scalarmult, crypto_scalarmult_base
from nacl.encoding import RawEncoder
from nacl.exceptions import CryptoError
from nacl.hash import blake2b
from nacl.utils import random

from shoal_codecs.buffers import written
from shoal_codecs.processor import has_aes
from shoal_codecs.security.errors import UnsealError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

    Cipher: TypeAlias = AESGCM | ChaCha20Poly1305

KEY_BYTES = 32
CIPHER_BYTES = 1
CHACHA20_POLY1305, AES_256_GCM = b"\x01", b"\x02"
OVERHEAD_BYTES = CIPHER_BYTES + KEY_BYTES + 16
_NONCE = bytes(12)
_HEAD_BYTES = CIPHER_BYTES + KEY_BYTES


def new_sealing_key() -> tuple[bytes, bytes]:
    """Return a fresh X25519 pair, private and public, 32 bytes each."""
    private: bytes = random(KEY_BYTES)
    return private, public_sealing_key(private)


def public_sealing_key(private: bytes) -> bytes:
    """Return the public half of an X25519 key."""
    public: bytes = crypto_scalarmult_base(private)
    return public


def seal(public: bytes, plaintext: bytes | memoryview, context: bytes, cipher: bytes = b"") -> bytes:
    """Seal ``plaintext`` to ``public`` (32 bytes) under ``context``; ``OVERHEAD_BYTES`` longer.

    ``cipher`` is ``CHACHA20_POLY1305`` or ``AES_256_GCM``; empty takes what this processor does best.

    Raises:
        UnsealError: ``public`` is no usable key.
    """
    return written(
        len(plaintext) + OVERHEAD_BYTES, lambda room: seal_into(room, public, plaintext, context, cipher)
    )


def seal_into(
    room: memoryview, public: bytes, plaintext: bytes | memoryview, context: bytes, cipher: bytes = b""
) -> None:
    """Seal as ``seal`` does, into ``room``, which is ``OVERHEAD_BYTES`` longer than ``plaintext``.

    Raises:
        UnsealError: ``public`` is no usable key.
    """
    private, sender = new_sealing_key()
    cipher = cipher or (AES_256_GCM if has_aes() else CHACHA20_POLY1305)
    key = _key(private, public, sender + public + cipher)
    room[:_HEAD_BYTES] = cipher + sender
    _cipher(cipher, key).encrypt_into(_NONCE, plaintext, context, room[_HEAD_BYTES:])


def unseal(private: bytes, sealed: bytes | memoryview, context: bytes, public: bytes = b"") -> bytes:
    """Open what was sealed to this key under ``context``; ``public`` is its other half, where that is known.

    Raises:
        UnsealError: another key, another context, changed bytes, or a cipher this party does not know.
    """
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - see _cipher

    if len(sealed) < OVERHEAD_BYTES:
        raise UnsealError(f"{len(sealed)} bytes are too few to be sealed bytes: seal and send it again")
    cipher, sender = bytes(sealed[:CIPHER_BYTES]), bytes(sealed[CIPHER_BYTES:_HEAD_BYTES])
    if cipher not in {CHACHA20_POLY1305, AES_256_GCM}:
        raise UnsealError(f"sealed with cipher {cipher[0]}, which this party does not know: update it")
    key = _key(private, sender, sender + (public or public_sealing_key(private)) + cipher)
    try:
        return _cipher(cipher, key).decrypt(_NONCE, memoryview(sealed)[_HEAD_BYTES:], context)
    except InvalidTag as error:
        raise UnsealError(
            "sealed for another key or another context, or changed on the way: seal it anew to the plan's key"
        ) from error


def _cipher(cipher: bytes, key: bytes) -> "Cipher":
    # Whoever signs and waits between two rounds does without this library in its memory.
    from cryptography.hazmat.primitives.ciphers import aead  # noqa: PLC0415 - the line above

    return aead.AESGCM(key) if cipher == AES_256_GCM else aead.ChaCha20Poly1305(key)


def _key(private: bytes, peer: bytes, bound: bytes) -> bytes:
    # The binding reads 32 bytes whatever it is given.
    if len(private) != KEY_BYTES or len(peer) != KEY_BYTES:
        raise UnsealError(f"not a usable X25519 key: it has {KEY_BYTES} bytes")
    try:
        shared = crypto_scalarmult(private, peer)
    except (CryptoError, ValueError, TypeError, RuntimeError) as error:
        raise UnsealError("not a usable X25519 key: take the one in the plan or on the roster") from error
    key: bytes = blake2b(shared + bound, person=b"shoal/1 seal", encoder=RawEncoder)
    return key
