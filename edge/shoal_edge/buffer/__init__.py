"""A rolling buffer of examples on disk: a sensor's process appends, the agent trains on what is labelled.

    from shoal_edge.buffer import open_buffer

    buffer = open_buffer("windows", shape=(256, 3), dtype="float32", capacity_examples=2000)
    number = buffer.append(window)        # bytes, array.array, numpy array: anything with those bytes
    buffer.label(number, 2)               # now, later, or from another process

A sensor's process loads neither numpy nor the agent by it.
"""

from shoal_edge.buffer.errors import (
    BufferDataError,
    BufferFolderError,
    BufferMismatchError,
    UnknownExampleError,
)
from shoal_edge.buffer.layout import Layout
from shoal_edge.buffer.opening import open_buffer
from shoal_edge.buffer.reader import Snapshot, buffer_version, read_snapshot
from shoal_edge.buffer.writer import Buffer

__all__ = [
    "Buffer",
    "BufferDataError",
    "BufferFolderError",
    "BufferMismatchError",
    "Layout",
    "Snapshot",
    "UnknownExampleError",
    "buffer_version",
    "open_buffer",
    "read_snapshot",
]
