"""How a message names a blob: content digest, size and the list of chunk hashes."""

import msgspec
from blake3 import blake3

from shoal_codecs.wire.errors import InvalidBlobError

DIGEST_BYTES = 32
MIN_CHUNK_BYTES = 1024
MAX_CHUNK_BYTES = 1024 * 1024
DEFAULT_CHUNK_BYTES = 64 * 1024
MAX_BLOB_BYTES = 1 << 32


def digest_of(data: bytes | bytearray | memoryview) -> bytes:
    """Return the BLAKE3 digest (32 bytes) that names ``data``."""
    return blake3(data).digest()


class BlobRef(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A blob's signed description.

    ``digest`` is the BLAKE3 of the whole, ``size`` and ``chunk_bytes`` are in bytes, ``chunks`` holds
    one BLAKE3 per chunk. A blob of one chunk leaves ``chunks`` empty: its digest is the chunk's.
    """

    digest: bytes
    size: int
    chunk_bytes: int = DEFAULT_CHUNK_BYTES
    chunks: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Refuse numbers that do not fit together.

        Raises:
            InvalidBlobError: a digest of the wrong length, or sizes that contradict the chunk list.
        """
        if len(self.digest) != DIGEST_BYTES or any(len(c) != DIGEST_BYTES for c in self.chunks):
            raise InvalidBlobError("a blob digest is not 32 bytes: describe the blob again")
        if not 0 < self.size <= MAX_BLOB_BYTES:
            raise InvalidBlobError(
                f"a blob of {self.size} bytes is outside 1..{MAX_BLOB_BYTES}: describe the blob again"
            )
        if not MIN_CHUNK_BYTES <= self.chunk_bytes <= MAX_CHUNK_BYTES:
            raise InvalidBlobError(
                f"chunks of {self.chunk_bytes} bytes are outside {MIN_CHUNK_BYTES}..{MAX_CHUNK_BYTES}: "
                "describe the blob again"
            )
        if len(self.chunks) != (self.count if self.count > 1 else 0):
            raise InvalidBlobError(
                f"{len(self.chunks)} chunk hashes do not describe {self.size} bytes "
                f"in chunks of {self.chunk_bytes}: describe the blob again"
            )

    @property
    def count(self) -> int:
        """Number of chunks."""
        return -(-self.size // self.chunk_bytes)

    @property
    def name(self) -> str:
        """The digest in hexadecimal: the blob's place in topics and folders."""
        return self.digest.hex()

    def chunk_digest(self, index: int) -> bytes:
        """Return the BLAKE3 that chunk ``index`` must have."""
        return self.chunks[index] if self.chunks else self.digest

    def chunk_size(self, index: int) -> int:
        """Return the length in bytes of chunk ``index``."""
        return min(self.chunk_bytes, self.size - index * self.chunk_bytes)


def describe(data: bytes | memoryview, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> BlobRef:
    """Describe ``data`` as a blob cut into chunks of ``chunk_bytes``.

    Raises:
        InvalidBlobError: empty data, or a chunk size outside the limits.
    """
    view = memoryview(data)
    chunks: tuple[bytes, ...] = ()
    if len(view) > chunk_bytes > 0:
        chunks = tuple(
            digest_of(view[start : start + chunk_bytes]) for start in range(0, len(view), chunk_bytes)
        )
    return BlobRef(digest_of(view), len(view), chunk_bytes, chunks)
