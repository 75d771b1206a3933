"""What the C library does with memory that was freed."""

import contextlib
import ctypes
import os

_HEAP_BYTES, _KEPT_BYTES = 8 * 1024 * 1024, 64 * 1024 * 1024
# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def keep_freed_memory() -> None:
    """Let the C library keep some freed memory instead of giving each vector's back and fetching it again.

    Fresh pages cost as much as all that is done with the megabytes of a report. At most ``_KEPT_BYTES`` at
    the heap's end stay; vectors over ``_HEAP_BYTES`` come and go as before. Other C libraries than glibc are
    left as they are, and so is one whose environment says what it shall do.
    """
    if {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        return
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version()
        library.mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)
        library.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
