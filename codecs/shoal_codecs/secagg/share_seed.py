"""What a hub gets that gets no share in full: the seed of its share, after the cipher that expands it.

No numpy and no cryptography: hubs look at seeds before they need either.
"""

import os

from shoal_codecs.secagg.errors import SeedError
from shoal_codecs.security.stream_cipher import StreamCipher, best_cipher
from shoal_codecs.wire.report import SHARE_SEED_BYTES

_CIPHERS = {bytes([one]): one for one in StreamCipher}
_CIPHER_BYTES = 1


def new_share_seed() -> bytes:
    """Return a fresh seed for what this processor expands fastest, ``SHARE_SEED_BYTES``; use it once."""
    return bytes([best_cipher()]) + os.urandom(SHARE_SEED_BYTES - _CIPHER_BYTES)


def open_share_seed(data: bytes) -> tuple[StreamCipher, bytes]:
    """Return the cipher and the 32 random bytes in ``data``.

    Raises:
        SeedError: another length, or a cipher this party does not know.
    """
    if len(data) != SHARE_SEED_BYTES:
        raise SeedError(f"the seed of a share has {SHARE_SEED_BYTES} bytes with its cipher, got {len(data)}")
    cipher = _CIPHERS.get(data[:_CIPHER_BYTES])
    if cipher is None:
        raise SeedError(f"a share expanded with cipher {data[0]}, which this party does not know: update it")
    return cipher, data[_CIPHER_BYTES:]
