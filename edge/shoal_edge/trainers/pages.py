"""Memory that an interpreter keeps and does not need in between."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from typing import Any

import numpy.typing as npt

_LEAST_BYTES = 1 << 20
_MOVED_VALUES = 1 << 18


def give_back_pages(values: npt.NDArray[Any], least_bytes: int = _LEAST_BYTES) -> None:
    """Give the system the whole pages under ``values``, which are lost: they read as zeros from now on.

    What is under ``least_bytes`` stays, and so does everything where there is no ``madvise``.
    """
    if values.nbytes < least_bytes or not hasattr(mmap, "MADV_DONTNEED"):
        return
    first = -(-values.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    last = (values.ctypes.data + values.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    with contextlib.suppress(OSError, AttributeError):
        advise = ctypes.CDLL(None).madvise
        advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
        advise(first, last - first, mmap.MADV_DONTNEED)


def move_out(values: npt.NDArray[Any], out: npt.NDArray[Any]) -> None:
    """Copy ``values`` into ``out``, both contiguous and of one shape, and give back what was copied.

    Of large ones there are never much more than one at a time: ``values`` are lost as ``give_back_pages``
    says.
    """
    source, target = values.reshape(-1), out.reshape(-1)
    for start in range(0, source.size, _MOVED_VALUES):
        piece = source[start : start + _MOVED_VALUES]
        target[start : start + _MOVED_VALUES] = piece
        give_back_pages(piece)
