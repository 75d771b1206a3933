"""The ChaCha20 keystream in cache-sized pieces, read as little-endian words."""

from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, CipherContext
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20

Words: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]

# Keystream and accumulator of one piece stay in the second-level cache; a multiple of 64 bytes,
# because a piece that ended inside a cipher block would make the stream depend on the piece size.
PIECE_BYTES = 128 * 1024
ZEROS = memoryview(bytes(PIECE_BYTES))
BLOCK_BYTES = 64
# ChaCha20 (RFC 8439, section 2.3) in the library's form: a 32-bit counter, then a zero nonce. Every
# key is used for one stream only, so the nonce has nothing to tell apart.
_NONCE = bytes(12)


def stream_cipher(key: bytes, block: int = 0) -> CipherContext:
    """Return the stream of a 32-byte `key` from a block of 64 bytes on, to be drawn by encrypting zeros."""
    return Cipher(ChaCha20(key, block.to_bytes(4, "little") + _NONCE), mode=None).encryptor()


def keystream_pieces(key: bytes, count: int, dtype: np.dtype[Any]) -> Iterator[tuple[int, Words]]:
    """Yield (position, words) for the first `count` words of the stream of a 32-byte `key`.

    `dtype` is an unsigned type; words are little-endian on every platform. The words of one piece
    share a buffer with the next piece: use them before going on.
    """
    little = dtype.newbyteorder("<")
    total = count * little.itemsize
    stream = stream_cipher(key)
    buffer = np.empty(min(PIECE_BYTES, total), dtype=np.uint8)
    words: Words = buffer.view(little)
    for start in range(0, total, PIECE_BYTES):
        size = min(PIECE_BYTES, total - start)
        stream.update_into(ZEROS[:size], buffer.data[:size])
        yield start // little.itemsize, words[: size // little.itemsize]
