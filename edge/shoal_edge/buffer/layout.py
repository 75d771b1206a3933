"""How a buffer lies on disk: one small file that says what it holds, and segments of records.

``buffer.json`` is the layout. Segment ``SSSSSSSSSSSS-NNNNNNNNNNNN.seg`` (its own number, and that of the
first example that is or would have been in it) is a run of records, each appended whole:

    kind (1 byte: E or L), example's number (8), labelled (1), label or values (8 or 4 a value),
    the example's bytes (E only), CRC-32 of all before (4)

All little-endian; every record of a kind has the same length. A label that comes later is a record of its
own, always behind its example. The oldest segments are removed as a whole; what is over the capacity in the
one that is left is not shown. A record that was half written when its writer died has a wrong sum: it and all
behind it in its segment count as not written.
"""

import math
import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import msgspec

from shoal_codecs.durable import replace_whole
from shoal_edge.buffer.errors import BufferDataError, BufferFolderError

DType = Literal["uint8", "int32", "float32"]
ITEM_BYTES: dict[DType, int] = {"uint8": 1, "int32": 4, "float32": 4}
LAYOUT_FILE = "buffer.json"
LOCK_FILE = "lock"
FORMAT = 1
MOST_EXAMPLE_BYTES = 64 << 20
_SEGMENT = re.compile(r"\d{12}-\d{12}\.seg")
_HEAD = struct.Struct("<cQB")
_LABEL = struct.Struct("<q")
_SUM = struct.Struct("<I")
EXAMPLE, LABEL = b"E", b"L"
_MOST_BYTES = 1 << 50
_MOST_LAYOUT_BYTES = 1 << 16
Label = int | Sequence[float]
Side = Annotated[int, msgspec.Meta(ge=1, le=1 << 31)]


class Record(NamedTuple):
    """One record: ``label`` as it lies on disk, empty for none, and where the example's bytes are."""

    kind: bytes
    number: int
    label: bytes
    begin: int
    end: int


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a buffer holds: examples of ``shape`` and ``dtype``, with a label or ``values`` float32 each.

    ``values`` 0 is one integer label. At most ``capacity_examples`` and ``capacity_bytes`` on disk (0: the
    other one alone).
    """

    format: int = FORMAT
    shape: Annotated[tuple[Side, ...], msgspec.Meta(max_length=8)]
    dtype: DType
    values: Annotated[int, msgspec.Meta(ge=0, le=1 << 16)] = 0
    capacity_examples: Annotated[int, msgspec.Meta(ge=0, le=1 << 40)] = 0
    capacity_bytes: Annotated[int, msgspec.Meta(ge=0, le=_MOST_BYTES)] = 0

    @property
    def example_bytes(self) -> int:
        """Of one example's values."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def label_bytes(self) -> int:
        """Of one label."""
        return 4 * self.values if self.values else _LABEL.size

    def record_bytes(self, kind: bytes) -> int:
        """Return the length of a record."""
        inner = self.example_bytes if kind == EXAMPLE else 0
        return _HEAD.size + self.label_bytes + inner + _SUM.size

    @property
    def most_bytes(self) -> int:
        """What the segments may take on disk; with a capacity in examples, room for a few labels of each."""
        if self.capacity_bytes:
            return self.capacity_bytes
        # An eighth more, for the segment that is partly over the capacity already.
        each = self.record_bytes(EXAMPLE) + 4 * self.record_bytes(LABEL)
        return (self.capacity_examples + self.segment_examples + 1) * each

    @property
    def segment_examples(self) -> int:
        """After how many examples a segment is full."""
        if self.capacity_examples:
            return max(self.capacity_examples // 8, 1)
        return max(self.capacity_bytes // (8 * self.record_bytes(EXAMPLE)), 1)

    @property
    def segment_bytes(self) -> int:
        """After how many bytes a segment is full."""
        return max(self.most_bytes // 8, self.record_bytes(EXAMPLE))

    def check(self) -> None:
        """Raise BufferDataError unless such a buffer can be."""
        if not self.capacity_examples and not self.capacity_bytes:
            raise BufferDataError("a buffer needs capacity_examples or capacity_bytes: give one of them")
        if self.example_bytes > MOST_EXAMPLE_BYTES:
            raise BufferDataError(
                f"{self.example_bytes} bytes an example, {MOST_EXAMPLE_BYTES} is the most: give smaller ones"
            )
        least = 2 * self.record_bytes(EXAMPLE)
        if self.capacity_bytes and self.capacity_bytes < least:
            raise BufferDataError(
                f"{self.capacity_bytes} bytes hold no two examples, which take {least}: give it more"
            )

    def pack_label(self, label: Label | None) -> bytes:
        """Return ``label`` as it lies on disk, zeros for None.

        Raises:
            BufferDataError: it is not what this buffer takes.
        """
        if label is None:
            return bytes(self.label_bytes)
        try:
            if self.values:
                given = [label] if isinstance(label, int | float) else list(label)
                packed = struct.pack(f"<{self.values}f", *given)
                finite = all(map(math.isfinite, given))
            else:
                packed, finite = _LABEL.pack(label), True
        except (struct.error, TypeError, ValueError, OverflowError) as error:
            raise self._no_label() from error
        if not finite:
            raise self._no_label()
        return packed

    def _no_label(self) -> BufferDataError:
        wanted = f"{self.values} finite float32" if self.values else "one integer"
        return BufferDataError(f"a label of this buffer is {wanted}: give such")

    def unpack_label(self, data: bytes) -> int | tuple[float, ...]:
        """Return the label in ``data``."""
        if self.values:
            return struct.unpack(f"<{self.values}f", data)
        (label,) = _LABEL.unpack(data)
        return int(label)

    def pack_record(self, kind: bytes, number: int, label: Label | None, example: bytes = b"") -> bytes:
        """Return a record."""
        labelled = int(label is not None)
        record = _HEAD.pack(kind, number, labelled) + self.pack_label(label) + example
        return record + _SUM.pack(zlib.crc32(record))

    def records(self, data: bytes | bytearray) -> Iterator[Record]:
        """Yield the whole records of a segment's ``data``, up to the first that is not."""
        view, begin = memoryview(data), 0
        while begin + _HEAD.size <= len(data):
            kind, number, labelled = _HEAD.unpack_from(data, begin)
            if kind not in {EXAMPLE, LABEL} or labelled > 1:
                return
            end = begin + self.record_bytes(kind)
            if end > len(data):
                return
            if zlib.crc32(view[begin : end - _SUM.size]) != _SUM.unpack_from(data, end - _SUM.size)[0]:
                return
            inner = begin + _HEAD.size + self.label_bytes
            label = bytes(view[begin + _HEAD.size : inner]) if labelled else b""
            yield Record(kind, number, label, inner, end - _SUM.size)
            begin = end


def read_layout(folder: Path) -> Layout:
    """Return the layout of the buffer in ``folder``.

    Raises:
        BufferFolderError: there is none, or it cannot be read.
    """
    try:
        with (folder / LAYOUT_FILE).open("rb") as file:
            layout = msgspec.json.decode(file.read(_MOST_LAYOUT_BYTES), type=Layout)
        layout.check()
    except OSError as error:
        raise BufferFolderError(
            f"{folder} holds no buffer ({error.strerror}): let the sensor's process open it first"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, BufferDataError) as error:
        raise BufferFolderError(
            f"{folder / LAYOUT_FILE} is damaged: move the folder away, and let the sensor begin anew"
        ) from error
    if layout.format != FORMAT:
        raise BufferFolderError(f"{folder} is a buffer of format {layout.format}: update the agent")
    return layout


def write_layout(folder: Path, layout: Layout) -> None:
    """Put the layout there, durably."""
    path = folder / LAYOUT_FILE
    replace_whole(path, msgspec.json.encode(layout), path.with_suffix(".new"))


def segments(folder: Path) -> list[Path]:
    """Return the segments, the oldest first."""
    return sorted(path for path in folder.iterdir() if _SEGMENT.fullmatch(path.name))


def segment_path(folder: Path, number: int, first: int) -> Path:
    """Return where segment ``number`` is whose first example is ``first``."""
    return folder / f"{number:012}-{first:012}.seg"


def segment_numbers(path: Path) -> tuple[int, int]:
    """Return (segment's number, its first example's) of the one at ``path``."""
    number, _, first = path.stem.partition("-")
    return int(number), int(first)
