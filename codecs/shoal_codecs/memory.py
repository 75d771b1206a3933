"""What the C library does with memory that was freed."""

import contextlib
import ctypes
import os
from pathlib import Path

_HEAP_BYTES, _KEPT_BYTES = 8 * 1024 * 1024, 64 * 1024 * 1024
SERVER_BYTES = 32 * 1024 * 1024, 160 * 1024 * 1024
"""For parties that take in many reports: those of ten million parameters are kept room for, too."""
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def give_back_freed_memory() -> None:
    """Give the system what the C library holds of freed memory, as after something large that is over."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def resident_bytes() -> int:
    """Return how much memory this process has now, 0 where that is not known."""
    try:
        return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf(
            "SC_PAGESIZE"
        )
    except (OSError, ValueError, IndexError):
        return 0


def keep_freed_memory(heap_bytes: int = _HEAP_BYTES, kept_bytes: int = _KEPT_BYTES) -> None:
    """Let the C library keep some freed memory instead of giving each vector's back and fetching it again.

    Fresh pages cost as much as all that is done with the megabytes of a report. At most ``kept_bytes`` at
    the heap's end stay; vectors over ``heap_bytes`` (at most 32 MiB) come and go as before. Other C libraries
    than glibc are left as they are, and so is one whose environment says what it shall do.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version()
        library.mallopt(_M_MMAP_THRESHOLD, heap_bytes)
        library.mallopt(_M_TRIM_THRESHOLD, kept_bytes)
