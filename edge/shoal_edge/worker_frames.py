"""What agent and worker say to each other over a pipe: a length, then a MessagePack map."""

import struct
from typing import Any, BinaryIO

from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.packing import pack, unpack_plain
from shoal_edge.errors import WorkerFrameError

HEADER = struct.Struct(">I")
MAX_FRAME_BYTES = 1 << 30


def encode_worker_frame(content: dict[str, Any]) -> bytes:
    """Return ``content`` as a frame."""
    data = pack(content)
    return HEADER.pack(len(data)) + data


def decode_worker_frame(data: bytes) -> dict[str, Any]:
    """Return the map in a frame's ``data``, header taken off.

    Raises:
        WorkerFrameError: no map.
    """
    try:
        content = unpack_plain(data)
    except WireError as error:
        raise WorkerFrameError(f"no frame between agent and worker: {error}") from error
    if not isinstance(content, dict):
        raise WorkerFrameError("a frame between agent and worker holds a map")
    return content


def frame_length(header: bytes) -> int:
    """Return how many bytes follow ``header`` (4 bytes).

    Raises:
        WorkerFrameError: more than ``MAX_FRAME_BYTES``; something else wrote to the pipe.
    """
    (length,) = HEADER.unpack(header)
    if length > MAX_FRAME_BYTES:
        raise WorkerFrameError(
            f"a frame of {length} bytes is over {MAX_FRAME_BYTES}: the pipe is out of step"
        )
    return int(length)


def read_worker_frame(stream: BinaryIO) -> dict[str, Any] | None:
    """Return the next frame of a blocking ``stream``, or None at its end.

    Raises:
        WorkerFrameError: the stream ends inside a frame, or holds something else.
    """
    header = stream.read(HEADER.size)
    if not header:
        return None
    if len(header) < HEADER.size:
        raise WorkerFrameError("the pipe ended inside a frame")
    length = frame_length(header)
    data = stream.read(length)
    if len(data) < length:
        raise WorkerFrameError("the pipe ended inside a frame")
    return decode_worker_frame(data)
