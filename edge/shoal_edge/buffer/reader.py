"""Reading a buffer while others write: what was there at one moment, in the order in which it came."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from shoal_edge.buffer.errors import BufferFolderError
from shoal_edge.buffer.layout import EXAMPLE, Layout, read_layout, segments

_ATTEMPTS = 20
Value = int | tuple[float, ...]


@dataclass(frozen=True)
class Snapshot:
    """The labelled examples of one moment, the oldest first.

    ``data`` has their bytes one behind the other, each in C order and little-endian; ``numbers`` and
    ``labels`` are theirs in the same order. ``unlabelled`` counts the others.
    """

    layout: Layout
    numbers: list[int]
    labels: list[Value]
    data: bytearray
    unlabelled: int

    def __len__(self) -> int:
        return len(self.numbers)


def read_snapshot(folder: str | os.PathLike[str]) -> Snapshot:
    """Return what the buffer in ``folder`` holds now.

    A writer may append and remove meanwhile: what is returned was the buffer's content at one moment. Takes
    memory for the labelled examples, and one segment, an eighth of the buffer.

    Raises:
        BufferFolderError: there is no buffer, or it cannot be read.
    """
    place = Path(folder)
    layout = read_layout(place)
    try:
        files = _opened(place)
        try:
            return _read(layout, files)
        finally:
            for file, _ in files:
                file.close()
    except OSError as error:
        raise BufferFolderError(f"cannot read {place} ({error.strerror}): check its permissions") from error


def buffer_version(folder: str | os.PathLike[str]) -> tuple[tuple[str, int], ...]:
    """Return what changes whenever the buffer does; reads nothing.

    Raises:
        BufferFolderError: there is no folder.
    """
    try:
        with os.scandir(folder) as entries:
            found = [(entry.name, entry.stat().st_size) for entry in entries if entry.name.endswith(".seg")]
    except FileNotFoundError as error:
        if Path(folder).is_dir():
            # A segment went while it was looked at.
            return (("changing", 0),)
        raise BufferFolderError(
            f"{folder} is not there: let the sensor's process open its buffer, or check `path` in [data]"
        ) from error
    except OSError as error:
        raise BufferFolderError(f"cannot read {folder} ({error.strerror}): check its permissions") from error
    return tuple(sorted(found))


def _opened(folder: Path) -> list[tuple[BinaryIO, int]]:
    """Open all segments, each with its size, such that none was removed or begun meanwhile.

    Records are only ever appended, to the last segment, so that all sizes together are one moment: that
    between the last size's reading and the look that finds the same segments.
    """
    for _ in range(_ATTEMPTS):
        files: list[tuple[BinaryIO, int]] = []
        paths = segments(folder)
        try:
            for path in paths:
                file: BinaryIO = path.open("rb")
                files.append((file, os.fstat(file.fileno()).st_size))
            if segments(folder) == paths:
                return files
        except FileNotFoundError:
            pass
        for file, _ in files:
            file.close()
    raise BufferFolderError(f"{folder} changes faster than it can be read: give the buffer more capacity")


def _read(layout: Layout, files: list[tuple[BinaryIO, int]]) -> Snapshot:
    # Which examples there are and with which label, before memory is taken for any.
    labels: dict[int, bytes] = {}
    # No writer makes a longer one.
    most = layout.segment_bytes + layout.record_bytes(EXAMPLE)
    for file, size in files:
        for record in layout.records(file.read(min(size, most))):
            if record.kind == EXAMPLE or record.number in labels:
                labels[record.number] = record.label or labels.get(record.number, b"")
    if layout.capacity_examples:
        for number in list(labels)[: -layout.capacity_examples]:
            del labels[number]
    wanted = {number for number, label in labels.items() if label}
    data, numbers = bytearray(), []
    for file, size in files:
        file.seek(0)
        segment = file.read(min(size, most))
        for record in layout.records(segment):
            if record.kind == EXAMPLE and record.number in wanted:
                wanted.discard(record.number)
                numbers.append(record.number)
                data += memoryview(segment)[record.begin : record.end]
    return Snapshot(
        layout,
        numbers,
        [layout.unpack_label(labels[number]) for number in numbers],
        data,
        len(labels) - len(numbers),
    )
