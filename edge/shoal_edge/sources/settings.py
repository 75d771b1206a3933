"""Where the device's examples come from: the table ``[data]`` of its settings. Without numpy."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec

from shoal_codecs.settings import AtLeastOne, Count, PartialShare, Positive
from shoal_codecs.wire.packing import pack, unpack

Kind = Literal["npz", "csv", "mnist", "cifar10", "images", "text", "buffer"]
Part = Literal["train", "test", "all"]
DEFAULT_MOST_BYTES = 512 << 20
HELD_OUT_FRACTION = 0.2


class ShareSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A virtual device's part of a set: part ``index`` (from 0) of ``parts``.

    ``partition`` splits the set by ``seed``; ``held_out`` of a part is not trained on. ``training`` and
    ``testing`` examples are what heartbeats tell before the set is read.
    """

    partition: str = "iid"
    parts: AtLeastOne = 1
    index: Count = 0
    seed: Count = 1
    held_out: PartialShare = HELD_OUT_FRACTION
    training: Count = 0
    testing: Count = 0

    def __post_init__(self) -> None:
        """Refuse a part that is not there."""
        if self.index >= self.parts:
            raise ValueError(f"there is no part {self.index} of {self.parts}: they are counted from 0")


class DataSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One source of examples, and how its values become the task's.

    ``path`` is a file or folder, relative to the device's folder; empty means ``examples``. ``part`` chooses
    among the files of a published set. Of a table ``label_column`` has the label, or ``target_columns`` the
    values to be predicted; ``columns`` are the features in their order (none: all others). ``window`` rows
    make one example, ``stride`` rows after the one before (0: ``window``), and none spans two values of
    ``group_column``; the label is that of the ``last`` row, or only windows whose ``whole`` has one label are
    taken. Images get ``image_size`` (height, width, channels), or the task's. ``tokens`` says what a text is
    cut into, ``unknown`` which label stands for what is not among them.

    Values are multiplied by ``scale``, then ``offset`` is added, where either is not neutral. ``cast`` lets
    values of another type become the task's, if every one of them can; ``reshape`` lets examples of another
    shape and the same count become the task's. ``labels`` maps the source's labels to the task's.
    At least ``min_examples`` with labels, at most ``most_bytes`` in memory. With ``share`` the device has
    that part only, of a set that virtual devices of one machine share.
    """

    kind: Kind = "npz"
    path: str = ""
    part: Part = "train"
    label_column: str = ""
    target_columns: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    group_column: str = ""
    delimiter: Annotated[str, msgspec.Meta(min_length=1, max_length=1)] = ","
    window: Count = 0
    stride: Count = 0
    image_size: tuple[AtLeastOne, ...] = ()
    window_label: Literal["last", "whole"] = "last"
    tokens: Literal["characters", "words"] = "characters"
    lower: bool = False
    unknown: str = ""
    scale: Positive = 1.0
    offset: float = 0.0
    cast: bool = False
    reshape: bool = False
    labels: dict[str, str] = {}
    min_examples: AtLeastOne = 5
    most_bytes: AtLeastOne = DEFAULT_MOST_BYTES
    share: ShareSettings | None = None

    @property
    def held_out(self) -> float:
        """The share of examples that is not trained on."""
        return self.share.held_out if self.share else HELD_OUT_FRACTION

    def place(self, home: Path, examples: str) -> Path:
        """Return the file or folder, of a device whose folder is ``home``."""
        return home / (self.path or examples)

    @property
    def packed(self) -> bytes:
        """The table as the worker is told it."""
        return pack(self)


def unpack_data(data: bytes) -> DataSettings:
    """Return what ``DataSettings.packed`` made; the defaults for nothing."""
    return unpack(data, DataSettings) if data else DataSettings()
