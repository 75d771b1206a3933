"""SHA-256 from the library that every party signs with: the standard library's would bring OpenSSL."""


def sha256(data: bytes) -> bytes:
    """Return the SHA-256 of ``data``: 32 bytes."""
    # Megabytes of OpenSSL are memory that a small board has not got; this much it has when it hashes.
    from nacl.bindings import crypto_hash_sha256  # noqa: PLC0415

    digest: bytes = crypto_hash_sha256(data)
    return digest
