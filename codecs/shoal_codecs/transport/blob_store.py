"""A folder of content-addressed files, each written durably."""

import contextlib
import errno
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

from shoal_codecs.transport.errors import BlobStorageError
from shoal_codecs.wire.blob import DEFAULT_CHUNK_BYTES, BlobRef, describe, digest_of

_DIGEST = re.compile(r"[0-9a-f]{64}")
_READ_BYTES = 1024 * 1024
# A part that was written to within this time may belong to a fetch that goes on.
ABANDONED_S = 3600.0


class BlobStore:
    """Files named by their BLAKE3 digest in hexadecimal; ``cap_bytes`` bounds their sum.

    ``chunk_bytes`` is how large the chunks of blobs are that are put here.

    Every method that touches the disk blocks: call it from a thread where the blob is large.

    Raises:
        BlobStorageError: the folder cannot be made.
    """

    def __init__(
        self, folder: Path, cap_bytes: int | None = None, chunk_bytes: int = DEFAULT_CHUNK_BYTES
    ) -> None:
        self._folder = folder
        self._chunk_bytes = chunk_bytes
        self._cap_bytes = cap_bytes
        with _disk_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def path(self, digest_hex: str) -> Path:
        """Return where the blob is, or would be.

        Raises:
            BlobStorageError: not a digest.
        """
        if not _DIGEST.fullmatch(digest_hex):
            raise BlobStorageError(f"{digest_hex[:80]!r} is no blob's name: take BlobRef.name")
        return self._folder / digest_hex

    def has(self, digest_hex: str) -> bool:
        """Return whether the whole blob is here."""
        return self.path(digest_hex).is_file()

    def read(self, digest_hex: str) -> bytes:
        """Return the blob, verified.

        Raises:
            BlobStorageError: it is not here, cannot be read, or has changed on disk.
        """
        path = self.path(digest_hex)
        with _disk_faults(path):
            data = path.read_bytes()
        if digest_of(data).hex() != digest_hex:
            raise BlobStorageError(f"{path} changed on disk: drop it and fetch or make it again")
        return data

    def read_chunk(self, ref: BlobRef, index: int) -> bytes:
        """Return chunk ``index``, verified.

        Raises:
            BlobStorageError: as ``read``.
        """
        path = self.path(ref.name)
        with _disk_faults(path), path.open("rb") as file:
            data = os.pread(file.fileno(), ref.chunk_size(index), index * ref.chunk_bytes)
        if digest_of(data) != ref.chunk_digest(index):
            raise BlobStorageError(f"{path} changed on disk: drop it and fetch or make it again")
        return data

    def put(self, data: bytes, chunk_bytes: int = 0) -> BlobRef:
        """Keep ``data`` and return its description; on return it has survived a power cut.

        ``chunk_bytes`` 0 is the store's.

        Raises:
            BlobStorageError: no room under the cap or on the disk.
            InvalidBlobError: empty data, or a chunk size outside the limits.
        """
        ref = describe(data, chunk_bytes or self._chunk_bytes)
        path = self.path(ref.name)
        if path.is_file():
            return ref
        self._check_room(len(data))
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with _disk_faults(path):
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
            self._sync_folder()
        return ref

    def drop(self, digest_hex: str) -> None:
        """Delete the blob and what there is of it in part."""
        path = self.path(digest_hex)
        with _disk_faults(path):
            path.unlink(missing_ok=True)
            path.with_suffix(".part").unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """Return the room taken by blobs, whole and in part."""
        with _disk_faults(self._folder):
            return sum(file.stat().st_size for file in self._folder.iterdir() if file.is_file())

    def open_part(self, ref: BlobRef) -> "PartFile":
        """Return the place where a blob grows; what an earlier life wrote there is kept.

        Raises:
            BlobStorageError: no room under the cap or on the disk.
        """
        path = self.path(ref.name)
        part = path.with_suffix(".part")
        if not part.is_file():
            self._check_room(ref.size)
        with _disk_faults(part):
            return PartFile(self, ref, part, path)

    def _check_room(self, size: int) -> None:
        if self._cap_bytes is None or self.size_bytes() + size <= self._cap_bytes:
            return
        self._drop_abandoned()
        if self.size_bytes() + size > self._cap_bytes:
            raise BlobStorageError(
                f"{size} bytes more would exceed the {self._cap_bytes} that {self._folder} may hold: "
                "drop old blobs or raise the cap"
            )

    def _drop_abandoned(self) -> None:
        """Delete parts that nobody has added to for long: their fetch was given up."""
        oldest = time.time() - ABANDONED_S
        with _disk_faults(self._folder):
            for part in self._folder.glob("*.part"):
                if part.stat().st_mtime < oldest:
                    part.unlink(missing_ok=True)

    def _sync_folder(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class PartFile:
    """A blob that arrives in any order: each chunk at its offset, verified before it is written."""

    def __init__(self, store: BlobStore, ref: BlobRef, part: Path, final: Path) -> None:
        self._store = store
        self._ref = ref
        self._part = part
        self._final = final
        self._handle = os.open(part, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._handle, ref.size)

    def missing(self) -> list[int]:
        """Return the chunks that are not, or not rightly, on disk: each is hashed."""
        with _disk_faults(self._part):
            return [index for index in range(self._ref.count) if not self._is_right(index)]

    def write(self, index: int, data: bytes) -> None:
        """Write a verified chunk at its offset.

        Raises:
            BlobStorageError: the disk is full or broken.
        """
        view = memoryview(data)
        offset = index * self._ref.chunk_bytes
        with _disk_faults(self._part):
            while view:
                written = os.pwrite(self._handle, view, offset)
                view, offset = view[written:], offset + written

    def finish(self) -> Path | None:
        """Make the blob durable under its name and return the path; None if the whole is not right.

        Raises:
            BlobStorageError: the disk is full or broken.
        """
        with _disk_faults(self._part):
            os.fsync(self._handle)
            hasher = blake3()
            for offset in range(0, self._ref.size, _READ_BYTES):
                hasher.update(os.pread(self._handle, _READ_BYTES, offset))
            if hasher.digest() != self._ref.digest:
                self._part.unlink()
                return None
            self._part.replace(self._final)
            self._store._sync_folder()  # noqa: SLF001 - the store's other half
        return self._final

    def close(self) -> None:
        """Close the file; what was written stays for the next attempt."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1

    def _is_right(self, index: int) -> bool:
        ref = self._ref
        data = os.pread(self._handle, ref.chunk_size(index), index * ref.chunk_bytes)
        return digest_of(data) == ref.chunk_digest(index)


@contextlib.contextmanager
def _disk_faults(path: Path) -> Iterator[None]:
    """Turn an OSError into the area's own, with its remedy."""
    try:
        yield
    except FileNotFoundError as exc:
        raise BlobStorageError(f"{path} is not here: fetch or make it again") from exc
    except OSError as exc:
        remedy = (
            "free some space on this disk"
            if exc.errno in {errno.ENOSPC, errno.EDQUOT}
            else "check the disk and who may write there"
        )
        raise BlobStorageError(f"{path}: {exc.strerror}: {remedy}") from exc
