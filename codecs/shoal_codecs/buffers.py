"""Bytes that are written where they stay: megabytes are not copied to become immutable."""

import io
from collections.abc import Callable


def written(size: int, write: Callable[[memoryview], object], spare: int = 0) -> bytes:
    """Return ``size`` bytes that ``write`` has put into a buffer it is given, of zeros.

    The buffer has ``spare`` bytes more, which are thrown away.
    """
    stream = io.BytesIO()
    if size + spare:
        stream.seek(size + spare - 1)
        stream.write(b"\0")
    with stream.getbuffer() as buffer:
        write(buffer)
    stream.truncate(size)
    # The stream hands over its own bytes.
    return stream.getvalue()
