"""One process at a time in a folder: two would share its keys and overwrite each other's state."""

import fcntl
import os
from pathlib import Path


def take_lock(path: Path) -> int:
    """Return a descriptor that keeps everybody else from taking ``path``, until it is closed.

    The file, and its folder, are made where they are missing. The kernel lets go when this process ends,
    however it ends; children do not hold it.

    Raises:
        BlockingIOError: another has it, in this process or another.
        OSError: the file cannot be made, or the disk has no locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(lock)
        raise
    return lock
