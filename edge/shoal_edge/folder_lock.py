"""One process at a time is a device: two would share its keys, its state and its privacy ledger."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shoal_codecs.folder_lock import take_lock
from shoal_edge.errors import FolderInUseError, StoreError

LOCK_NAME = ".lock"


@contextmanager
def held_folder(state: Path) -> Iterator[None]:
    """Keep others from being the device whose state is in ``state``: agents, and devices of a swarm.

    Raises:
        FolderInUseError: another holds it.
        StoreError: the folder cannot be made or written, or its disk has no locks.
    """
    path = state / LOCK_NAME
    try:
        lock = take_lock(path)
    except BlockingIOError as error:
        raise FolderInUseError(
            f"{state} is in use by another agent, or a swarm: stop that one, or give this one a folder and "
            "an enrolment of its own"
        ) from error
    except OSError as error:
        raise StoreError(
            f"cannot lock {path}: {error.strerror}; give the agent a folder of its own user, on a disk that "
            "has locks"
        ) from error
    try:
        yield
    finally:
        os.close(lock)
