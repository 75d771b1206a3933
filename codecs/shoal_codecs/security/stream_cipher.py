"""Which keystream a seed expands to: chosen by what processors have instructions for. No cryptography yet."""

from enum import IntEnum

from shoal_codecs.processor import has_aes


class StreamCipher(IntEnum):
    """A generator of keystreams, by its number on the wire: that of the seal with the same cipher."""

    CHACHA20 = 1
    """RFC 8439: four times as fast as the other where a processor has no instructions for AES."""
    AES_256 = 2
    """In the counter mode of GCM (NIST SP 800-38D): more than twice as fast where it has them."""


def best_cipher() -> StreamCipher:
    """Return the one that this processor is faster at."""
    return StreamCipher.AES_256 if has_aes() else StreamCipher.CHACHA20


def common_cipher(one: StreamCipher, other: StreamCipher) -> StreamCipher:
    """Return what two parties expand the same seed with: AES-256 where it is what both are faster at."""
    return one if one is other else StreamCipher.CHACHA20
