"""Keystreams in cache-sized pieces, read as little-endian words: ChaCha20, and AES-256 for masks."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from shoal_codecs.security.stream_cipher import StreamCipher

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import CipherContext

Words: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
Draw: TypeAlias = Callable[[int, memoryview], object]
"""Writes the stream's next piece of so many bytes; the buffer has room for ``SPARE_BYTES`` more."""

# Keystream and accumulator of one piece stay in the second-level cache; a multiple of 64 bytes,
# because a piece that ended inside a cipher block would make the stream depend on the piece size.
PIECE_BYTES = 128 * 1024
ZEROS = memoryview(bytes(PIECE_BYTES))
BLOCK_BYTES = 64
# ChaCha20 (RFC 8439, section 2.3) in the library's form: a 32-bit counter, then a zero nonce. Every
# key is used for one stream only, so the nonce has nothing to tell apart.
_NONCE = bytes(12)
_NONCE_BYTES = len(_NONCE)
SPARE_BYTES = 16
"""What a piece of AES-256 spills after its end: the tag, which nobody reads."""


class StreamKey(NamedTuple):
    """A key of 32 bytes, for one stream only, and what expands it."""

    cipher: StreamCipher
    key: bytes


def stream_cipher(key: bytes, block: int = 0) -> "CipherContext":
    """Return the stream of a 32-byte `key` from a block of 64 bytes on, to be drawn by encrypting zeros."""
    # Megabytes, which a device that trains has not got for a stream that nobody draws yet.
    from cryptography.hazmat.primitives.ciphers import Cipher  # noqa: PLC0415
    from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20  # noqa: PLC0415

    return Cipher(ChaCha20(key, block.to_bytes(4, "little") + _NONCE), mode=None).encryptor()


def draw_pieces(stream: StreamKey, first: int = 0) -> Draw:
    """Return what draws `stream` from piece `first` on: pieces of `PIECE_BYTES`, the last may be shorter.

    AES-256 is taken from GCM, whose counter mode is the fast one of the two in the library. Piece p, from 0,
    is what it makes of zeros under nonce p (12 bytes, little-endian), without the tag.
    """
    if stream.cipher is StreamCipher.AES_256:
        return _AesPieces(stream.key, first).draw
    chacha = stream_cipher(stream.key, first * PIECE_BYTES // BLOCK_BYTES)

    def draw(size: int, buffer: memoryview) -> None:
        chacha.update_into(ZEROS[:size], buffer[:size])

    return draw


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


class _AesPieces:
    """A stream of AES-256; knows the number of its next piece."""

    def __init__(self, key: bytes, first: int) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - see above

        self._cipher = AESGCM(key)
        self._next = first

    def draw(self, size: int, buffer: memoryview) -> None:
        nonce = self._next.to_bytes(_NONCE_BYTES, "little")
        self._cipher.encrypt_into(nonce, ZEROS[:size], None, buffer[: size + SPARE_BYTES])
        self._next += 1
