"""Writing a buffer: appends that survive the writer's death, labels that come later, the oldest go first."""

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from shoal_codecs.durable import sync_folder
from shoal_edge.buffer.errors import (
    BufferDataError,
    BufferFolderError,
    UnknownExampleError,
)
from shoal_edge.buffer.layout import (
    EXAMPLE,
    ITEM_BYTES,
    LABEL,
    DType,
    Label,
    Layout,
    segment_numbers,
    segment_path,
    segments,
)

_GENERATION_BYTES = 8
_FORMATS: dict[DType, frozenset[str]] = {
    "uint8": frozenset("B"),
    "int32": frozenset("il"),
    "float32": frozenset("f"),
}


class _Segment:
    """One segment as its writer knows it: numbers of its examples, bytes that are whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number, self.first = segment_numbers(path)
        self.examples = 0
        self.size = 0


class Buffer:
    """A buffer open for appending and labelling; threads and processes take turns, by a lock on the folder.

    Every ``append`` and ``label`` is with the operating system when it returns, and survives the end of the
    process; on disk it is at the latest when its segment is full or the buffer is closed.
    """

    def __init__(self, folder: Path, layout: Layout, lock: int) -> None:
        self.folder = folder
        self.layout = layout
        self._lock = lock
        self._turn = threading.Lock()
        self._segments: list[_Segment] = []
        self._next = 0
        self._file = -1
        self._generation = b""
        with self._alone():
            pass

    def append(self, example: object, label: Label | None = None) -> int:
        """Append one example and return its number, by which it can be labelled.

        ``example`` has the buffer's bytes: bytes in C order and little-endian, or an array of the buffer's
        shape and type that shows its memory (``array.array``, numpy). ``label`` is an integer, or as many
        floats as the buffer's ``values``; None if it is not known yet.

        Raises:
            BufferDataError: another shape or type, or no label of this buffer.
            BufferFolderError: the disk does not take it; nothing of it is there.
        """
        data = self._checked(example)
        with self._alone():
            number = self._next
            record = self.layout.pack_record(EXAMPLE, number, label, data)
            segment = self._room(len(record), example=True)
            self._write(segment, record)
            segment.examples += 1
            self._next += 1
        return number

    def label(self, number: int, label: Label) -> None:
        """Give example ``number`` its label, or another than it has.

        Raises:
            UnknownExampleError: it is not there, or no longer.
            BufferDataError: no label of this buffer.
            BufferFolderError: the disk does not take it.
        """
        with self._alone():
            if not self._oldest <= number < self._next:
                raise UnknownExampleError(
                    f"example {number} is not in the buffer, which holds {self._oldest} to {self._next - 1}: "
                    "label sooner, or give the buffer more capacity"
                )
            record = self.layout.pack_record(LABEL, number, label)
            self._write(self._room(len(record), example=False), record)

    def __len__(self) -> int:
        """Count of examples, labelled or not."""
        with self._alone():
            return self._next - self._oldest

    def close(self) -> None:
        """Put everything on disk and let go."""
        with self._turn:
            if self._lock >= 0:
                if self._file >= 0:
                    os.fsync(self._file)
                self._close_file()
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- inside -----------------------------------------------------------------------------------

    @property
    def _oldest(self) -> int:
        held = self._segments[0].first if self._segments else self._next
        most = self.layout.capacity_examples
        return max(held, self._next - most) if most else held

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold threads and processes off, with what others wrote known."""
        with self._turn:
            if self._lock < 0:
                raise BufferFolderError(f"the buffer {self.folder} is closed: open it again")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX)
                try:
                    self._catch_up()
                    yield
                finally:
                    fcntl.flock(self._lock, fcntl.LOCK_UN)
            except OSError as error:
                raise BufferFolderError(
                    f"cannot write the buffer {self.folder} ({error.strerror}): free some space or mend it"
                ) from error

    def _catch_up(self) -> None:
        """Read what changed on disk since this writer's last turn: another's records, or a torn one."""
        generation = os.pread(self._lock, _GENERATION_BYTES, 0)
        last = self._segments[-1] if self._segments else None
        if generation == self._generation and last and last.path.stat().st_size == last.size:
            return
        self._generation = generation
        paths = segments(self.folder)
        known = {segment.path: segment for segment in self._segments}
        self._close_file()
        self._segments = []
        for path in paths:
            segment = known.get(path)
            if segment is None or segment.size != path.stat().st_size:
                segment = self._read(path)
            self._segments.append(segment)
            self._next = max(self._next, segment.first + segment.examples)
        if self._segments and self._segments[-1].size < self._segments[-1].path.stat().st_size:
            # A writer died in the middle of a record, which nobody was told of.
            os.truncate(self._segments[-1].path, self._segments[-1].size)

    def _read(self, path: Path) -> _Segment:
        segment = _Segment(path)
        for record in self.layout.records(path.read_bytes()):
            segment.size += self.layout.record_bytes(record.kind)
            if record.kind == EXAMPLE:
                segment.examples = record.number - segment.first + 1
        return segment

    def _room(self, size: int, *, example: bool) -> _Segment:
        """Return the segment to write to, with room made by letting the oldest go."""
        layout = self.layout
        last = self._segments[-1] if self._segments else None
        if (
            last is None
            or last.size + size > layout.segment_bytes
            or (example and last.examples >= layout.segment_examples)
        ):
            self._announce()
            if last:
                self._sync(last.path)
            number = last.number + 1 if last else 0
            last = _Segment(segment_path(self.folder, number, self._next))
            self._segments.append(last)
        while len(self._segments) > 1 and self._over(size):
            self._announce()
            gone = self._segments.pop(0)
            gone.path.unlink(missing_ok=True)
        if self._file < 0:
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
            self._file = os.open(last.path, flags, 0o666)
        return last

    def _announce(self) -> None:
        """Tell the others, before it happens, that segments come or go: they need not look at every turn."""
        number = int.from_bytes(self._generation, "little") + 1
        self._generation = (number % (1 << 64)).to_bytes(_GENERATION_BYTES, "little")
        os.pwrite(self._lock, self._generation, 0)

    def _over(self, size: int) -> bool:
        if sum(segment.size for segment in self._segments) + size > self.layout.most_bytes:
            return True
        most = self.layout.capacity_examples
        # The second one's first example is the oldest that stays.
        return bool(most) and self._next - self._segments[1].first >= most

    def _write(self, segment: _Segment, record: bytes) -> None:
        try:
            _write_whole(self._file, record)
        except OSError:
            os.ftruncate(self._file, segment.size)
            raise
        segment.size += len(record)

    def _sync(self, path: Path) -> None:
        """Put a segment on disk, whoever wrote to it, and let go of it."""
        self._close_file()
        file = os.open(path, os.O_WRONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)
        sync_folder(self.folder)

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _checked(self, example: object) -> bytes:
        layout = self.layout
        try:
            view = memoryview(example)  # type: ignore[arg-type]  # what shows no memory is refused just here
        except TypeError as error:
            raise BufferDataError(
                "an example is bytes, or an array that shows its memory: give one of those"
            ) from error
        plain = view.format in {"B", "b", "c"} and view.ndim == 1 and layout.dtype != "uint8"
        kind = view.format.lstrip("@=<")
        if not plain and (kind not in _FORMATS[layout.dtype] or view.itemsize != ITEM_BYTES[layout.dtype]):
            raise BufferDataError(f"an example of another type than the buffer's {layout.dtype}: convert it")
        if view.nbytes != layout.example_bytes or (view.ndim > 1 and view.shape != layout.shape):
            raise BufferDataError(
                f"an example of {view.nbytes} bytes and shape {view.shape}, the buffer's have "
                f"{layout.example_bytes} and {layout.shape}: bring it into that shape"
            )
        return view.tobytes("C")


def _write_whole(file: int, record: bytes) -> None:
    if os.write(file, record) < len(record):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
