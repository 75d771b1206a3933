"""Identities: an Ed25519 key per party, kept in a file that only its owner reads."""

import os
from pathlib import Path

from nacl.exceptions import BadSignatureError as NaclBadSignatureError
from nacl.signing import SigningKey, VerifyKey

from shoal_codecs.security.errors import BadKeyFileError, BadSignatureError

SIGNATURE_BYTES = 64
KEY_BYTES = 32


class Identity:
    """A party's name and signing key."""

    __slots__ = ("_key", "name")

    def __init__(self, name: str, seed: bytes) -> None:
        self.name = name
        self._key = SigningKey(seed)

    @property
    def public(self) -> bytes:
        """The Ed25519 public key, 32 bytes."""
        return bytes(self._key.verify_key)

    def sign(self, data: bytes) -> bytes:
        """Return the 64-byte signature over ``data`` (RFC 8032)."""
        return self._key.sign(data).signature

    def sealing_private(self) -> bytes:
        """Return the X25519 private key (32 bytes) that opens what was sealed to this identity."""
        return self._key.to_curve25519_private_key().encode()

    def derive(self, purpose: bytes) -> bytes:
        """Return 32 secret bytes for ``purpose`` (at most 16 bytes) that only this identity can make."""
        from nacl.encoding import RawEncoder  # noqa: PLC0415 - only hubs need it
        from nacl.hash import blake2b  # noqa: PLC0415

        derived: bytes = blake2b(
            b"shoal/1 derive", key=bytes(self._key), person=purpose[:16], encoder=RawEncoder
        )
        return derived


def verify(public: bytes, data: bytes, signature: bytes) -> None:
    """Check an Ed25519 signature.

    Raises:
        BadSignatureError: it is not ``public``'s over ``data``.
    """
    try:
        VerifyKey(public).verify(data, signature)
    except (NaclBadSignatureError, ValueError, TypeError) as error:
        raise BadSignatureError(
            "the signature is not this party's over these bytes: check its key against the roster"
        ) from error


def create_identity(name: str, path: Path) -> Identity:
    """Make a fresh identity and write its key to ``path``, readable by its owner only."""
    seed = os.urandom(KEY_BYTES)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(seed)
        file.flush()
        os.fsync(file.fileno())
    return Identity(name, seed)


def load_identity(name: str, path: Path) -> Identity:
    """Read an identity back.

    Raises:
        BadKeyFileError: no such file, readable by others, or not a key.
    """
    try:
        if path.stat().st_mode & 0o077:
            raise BadKeyFileError(f"{path} can be read by others: chmod 600 it, or make a new key")
        seed = path.read_bytes()
    except OSError as error:
        raise BadKeyFileError(
            f"cannot read the key {path} ({error.strerror}): make it with `shoal roster key`, or name "
            "a folder that has one (--data-dir)"
        ) from error
    if len(seed) != KEY_BYTES:
        raise BadKeyFileError(f"{path} holds {len(seed)} bytes, a key has {KEY_BYTES}: make a new key")
    return Identity(name, seed)


def sealing_public_of(public: bytes) -> bytes:
    """Return the X25519 key (32 bytes) that belongs to an Ed25519 public key.

    Raises:
        BadKeyFileError: ``public`` is no Ed25519 key.
    """
    try:
        return VerifyKey(public).to_curve25519_public_key().encode()
    except (RuntimeError, ValueError, TypeError) as error:
        raise BadKeyFileError("not an Ed25519 public key: ask the authority for a new roster") from error
