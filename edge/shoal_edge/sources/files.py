"""Reading files that nobody vouches for: never more than a bound, never half of a change, gzip or plain."""

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from shoal_edge.sources.errors import ChangedDataError, DamagedDataError, DataTooLargeError
from shoal_edge.sources.settings import DEFAULT_MOST_BYTES
from shoal_edge.trainers.errors import UnreadableDataError

MOST_BYTES = DEFAULT_MOST_BYTES
_CHUNK = 1 << 20


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open ``path`` for reading, unpacked if it ends in ``.gz``; faults get their names on the way out.

    Raises:
        UnreadableDataError: it cannot be read.
        DamagedDataError: it is no sound gzip file.
        ChangedDataError: it was written to while it was open.
    """
    try:
        with path.open("rb") as file:
            before = os.fstat(file.fileno())
            if path.suffix == ".gz":
                with gzip.GzipFile(fileobj=file) as unpacked:
                    yield io.BufferedReader(unpacked)
            else:
                yield file
            after = os.fstat(file.fileno())
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DamagedDataError(f"{path} is no sound gzip file ({error}): copy it again") from error
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read {path} ({error.strerror or error}): check the path and its permissions"
        ) from error
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise ChangedDataError(f"{path} changed while it was read: write a new file and rename it into place")


def read_exactly(file: BinaryIO, count: int, path: Path) -> bytearray:
    """Return the next ``count`` bytes; memory follows what is there, not what a header claims.

    Raises:
        DamagedDataError: the file ends before.
    """
    found = bytearray()
    while len(found) < count:
        part = file.read(min(_CHUNK, count - len(found)))
        if not part:
            raise DamagedDataError(f"{path} ends after {len(found)} of {count} bytes: copy it again")
        found += part
    return found


def read_rest(file: BinaryIO, most: int, path: Path) -> bytearray:
    """Return everything up to the end of the file, at most ``most`` bytes.

    Raises:
        DataTooLargeError: there is more.
    """
    found = bytearray()
    while part := file.read(_CHUNK):
        found += part
        check_size(len(found), most, path)
    return found


def check_end(file: BinaryIO, path: Path) -> None:
    """Raise DamagedDataError unless the file ends here."""
    if file.read(1):
        raise DamagedDataError(f"{path} goes on after what its header tells: copy it again")


def check_size(count: int, most: int, path: Path) -> None:
    """Raise DataTooLargeError if ``count`` bytes are more than ``most``."""
    if count > most:
        raise DataTooLargeError(
            f"{path} holds or claims {count} bytes, {most} are allowed: give less, or raise `most_bytes`"
        )


def file_version(*paths: Path) -> tuple[tuple[str, int, int], ...]:
    """Return name, size and time of change of every file.

    Raises:
        UnreadableDataError: one of them is not there.
    """
    found = []
    for path in paths:
        try:
            about = path.stat()
        except OSError as error:
            raise UnreadableDataError(
                f"cannot read {path} ({error.strerror}): check `path` in [data], or `examples`"
            ) from error
        found.append((str(path), about.st_size, about.st_mtime_ns))
    return tuple(found)
