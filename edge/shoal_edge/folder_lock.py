"""One process at a time is a device: two would share its keys, its state and its privacy ledger."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal_edge.errors import FolderInUseError, StoreError

LOCK_NAME = ".lock"


@contextmanager
def held_folder(state: Path) -> Iterator[None]:
    """Keep other processes from being the device whose state is in ``state``.

    The kernel lets go when this process ends, however it ends; children do not hold it.

    Raises:
        FolderInUseError: another process holds it.
        StoreError: the folder cannot be made or written.
    """
    path = state / LOCK_NAME
    try:
        state.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreError(
            f"cannot write {path}: {error.strerror}; give the agent a folder of its own user"
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FolderInUseError(
                f"{state} is in use by another agent: stop that one, or give this one a folder and an "
                "enrolment of its own"
            ) from error
        except OSError as error:
            raise StoreError(f"cannot lock {path}: {error.strerror}; use a disk that has locks") from error
        yield
    finally:
        os.close(lock)
