"""Files that are there whole or not at all, also after a power cut at any instruction."""

import os
from pathlib import Path


def replace_whole(path: Path, data: bytes | memoryview, beside: Path, *, mode: int = 0o666) -> None:
    """Put ``data`` at ``path``, on the disk when this returns; ``beside`` holds it until it is whole.

    ``beside`` lies in the same folder; ``mode`` is its permissions, less the process's mask.

    Raises:
        OSError: the disk does not take it; ``path`` is as it was.
    """
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and new names in ``folder`` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
