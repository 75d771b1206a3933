"""Opening a buffer, and making it where there is none."""

import fcntl
import os
from pathlib import Path

import msgspec

from shoal_edge.buffer.errors import BufferDataError, BufferFolderError, BufferMismatchError
from shoal_edge.buffer.layout import LAYOUT_FILE, LOCK_FILE, DType, Layout, read_layout, write_layout
from shoal_edge.buffer.writer import Buffer


def open_buffer(
    folder: str | os.PathLike[str],
    *,
    shape: tuple[int, ...] | None = None,
    dtype: DType = "float32",
    values: int = 0,
    capacity_examples: int = 0,
    capacity_bytes: int = 0,
) -> Buffer:
    """Open the buffer in ``folder`` for appending and labelling; with a ``shape``, make it if there is none.

    ``shape`` and ``dtype`` are the task's input; ``values`` is how many numbers are to be predicted for an
    example, 0 for a label. ``capacity_examples`` or ``capacity_bytes`` (of disk), or both, bound it.

    Raises:
        BufferDataError: no buffer can be of such examples.
        BufferMismatchError: there is one already, of others.
        BufferFolderError: the folder cannot be used, or there is no buffer and no ``shape`` to make one.
    """
    place = Path(folder)
    if shape is None:
        layout = read_layout(place)
        return Buffer(place, layout, _locked(place))
    wanted = _wanted(shape, dtype, values, capacity_examples, capacity_bytes)
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = _locked(place)
        try:
            # Of two that begin at once one makes it.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (place / LAYOUT_FILE).exists():
                write_layout(place, wanted)
            fcntl.flock(lock, fcntl.LOCK_UN)
            return Buffer(place, _same(place, wanted), lock)
        except BaseException:
            os.close(lock)
            raise
    except OSError as error:
        raise BufferFolderError(
            f"cannot make a buffer in {place} ({error.strerror}): name a folder that can be written"
        ) from error


def _same(folder: Path, wanted: Layout) -> Layout:
    layout = read_layout(folder)
    if layout != wanted:
        raise BufferMismatchError(
            f"{folder} is a buffer of {layout.dtype} {layout.shape} with other settings than these: "
            "open it as it was made, or move it away"
        )
    return layout


def _wanted(
    shape: tuple[int, ...], dtype: DType, values: int, capacity_examples: int, capacity_bytes: int
) -> Layout:
    content = {
        "shape": shape,
        "dtype": dtype,
        "values": values,
        "capacity_examples": capacity_examples,
        "capacity_bytes": capacity_bytes,
    }
    try:
        layout = msgspec.convert(content, Layout)
    except msgspec.ValidationError as error:
        raise BufferDataError(f"no buffer can be like that ({error}): correct its settings") from error
    layout.check()
    return layout


def _locked(folder: Path) -> int:
    try:
        return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise BufferFolderError(
            f"cannot use the folder {folder} ({error.strerror}): check the path and its permissions"
        ) from error
