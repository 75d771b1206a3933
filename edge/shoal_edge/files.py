"""Files that survive a power cut at any instruction, and a shard's counts without numpy."""

import ast
import contextlib
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from shoal_codecs.durable import replace_whole
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.packing import unpack
from shoal_edge.errors import StoreError

_TEMPORARY = ".new"
_MOST_HEADER_BYTES = 10_000
"""Of an array in an archive: what numpy itself takes at most."""
T = TypeVar("T")


def write_durably(path: Path, data: bytes, *, private: bool = False) -> None:
    """Put ``data`` at ``path``: whole and on disk when this returns, or not at all.

    A ``private`` file is its owner's alone to read.

    Raises:
        StoreError: the disk is full, or the folder cannot be written.
    """
    beside = path.with_name(path.name + _TEMPORARY)
    try:
        replace_whole(path, data, beside, mode=0o600 if private else 0o666)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise StoreError(
            f"cannot write {path}: {error.strerror}; free some space or mend the disk"
        ) from error


def read_record(path: Path, kind: type[T]) -> T | None:
    """Return what ``path`` holds, or None where there is nothing; a damaged file is set aside."""
    try:
        return unpack(path.read_bytes(), kind)
    except FileNotFoundError:
        return None
    except (msgspec.ValidationError, WireError):
        with disk_faults(path):
            path.replace(path.with_suffix(".damaged"))
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what a power cut left half written in ``folder``."""
    for path in folder.glob(f"*{_TEMPORARY}"):
        path.unlink(missing_ok=True)


def shard_counts(path: Path) -> tuple[int, int]:
    """Return how many (training, held-out) examples the .npz at ``path`` holds, (0, 0) if unreadable.

    Reads the header of its label array only; the worker checks the file in full before it trains.
    """
    # An agent without data, or one that is asked again, needs no zip reader in memory.
    import zipfile  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    # What a damaged archive makes the readers raise: all of it means that there are no counts.
    unreadable = (
        *(OSError, KeyError, IndexError, ValueError, TypeError, SyntaxError, EOFError, RuntimeError),
        *(MemoryError, OverflowError, RecursionError, struct.error, zlib.error, zipfile.BadZipFile),
    )
    try:
        with zipfile.ZipFile(path) as archive, archive.open("y.npy") as labels:
            head = labels.read(12)
            wide = head[6] >= 2
            (length,) = struct.unpack_from("<I" if wide else "<H", head, 8)
            if length > _MOST_HEADER_BYTES:
                return 0, 0
            text = (b"" if wide else head[10:]) + labels.read(length - (0 if wide else 2))
            count = int(ast.literal_eval(text.decode("latin1"))["shape"][0])
    except unreadable:
        return 0, 0
    # As shoal_edge.data splits them, which imports numpy; a test holds both together.
    held = max(round(count * 0.2), int(count >= 5))
    return count - held, held


@contextlib.contextmanager
def disk_faults(path: Path) -> Iterator[None]:
    """Turn faults of the disk into a StoreError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}; free some space or mend the disk"
        ) from error
