"""IDX, the format of the MNIST files: a big-endian header of type and sides, then the values.

Magic number: two zero bytes, a type, the count of sides; each side is a big-endian uint32
(http://yann.lecun.com/exdb/mnist, "the IDX file format").
"""

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_edge.data import Examples
from shoal_edge.sources.errors import DamagedDataError
from shoal_edge.sources.files import (
    MOST_BYTES,
    check_end,
    check_size,
    file_version,
    opened,
    read_exactly,
)
from shoal_edge.sources.settings import DataSettings, Part
from shoal_edge.sources.source import Found, Version, Wanted
from shoal_edge.trainers.errors import MissingLabelsError, UnreadableDataError

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_MOST_SIDES = 8
_PREFIXES: dict[Part, tuple[str, ...]] = {"train": ("train",), "test": ("t10k",), "all": ("train", "t10k")}


def read_idx(path: Path, *, most_bytes: int = MOST_BYTES) -> npt.NDArray[Any]:
    """Return the array in the IDX file at ``path``, which may be packed with gzip (``.gz``).

    Raises:
        UnreadableDataError, DamagedDataError, ChangedDataError: no such file, or not a whole one.
        DataTooLargeError: over ``most_bytes`` unpacked.
    """
    with opened(path) as file:
        zeros, kind, sides = struct.unpack(">HBB", read_exactly(file, 4, path))
        if zeros or kind not in _TYPES or not 1 <= sides <= _MOST_SIDES:
            raise DamagedDataError(f"{path} is no IDX file: give the MNIST files as they were published")
        shape = struct.unpack(f">{sides}I", read_exactly(file, 4 * sides, path))
        dtype = np.dtype(_TYPES[kind])
        count = math.prod(shape) * dtype.itemsize
        # A side of 0 makes nothing of the others, and numpy still multiplies them.
        check_size(math.prod(max(side, 1) for side in shape) * dtype.itemsize, most_bytes, path)
        data = read_exactly(file, count, path)
        check_end(file, path)
    array = np.frombuffer(data, dtype).reshape(shape)
    return array.astype(dtype.newbyteorder("="), copy=False)


def read_mnist(folder: Path, part: Part = "train", *, most_bytes: int = MOST_BYTES) -> Examples:
    """Return images (n, 28, 28) uint8 and labels (n,) of the MNIST files in ``folder``, as published.

    ``part`` is ``train`` (60,000), ``test`` (10,000) or ``all``. Other sets in the same files, such as
    Fashion-MNIST, have other sides or labels and are read all the same.

    Raises:
        UnreadableDataError, DamagedDataError, ChangedDataError: a file is missing or not whole.
        MissingLabelsError: not one label for each image.
        DataTooLargeError: over ``most_bytes``.
    """
    images: list[npt.NDArray[Any]] = []
    labels: list[npt.NDArray[np.int32]] = []
    left = most_bytes
    for prefix in _PREFIXES[part]:
        image = read_idx(_found(folder, f"{prefix}-images", "idx3-ubyte"), most_bytes=left)
        label = read_idx(_found(folder, f"{prefix}-labels", "idx1-ubyte"), most_bytes=left)
        left -= image.nbytes
        if label.shape != image.shape[:1] or label.dtype.kind not in "iu":
            raise MissingLabelsError(
                f"{folder} has labels {label.shape} for images {image.shape}: give the files of one set"
            )
        if images and image.shape[1:] != images[0].shape[1:]:
            raise DamagedDataError(f"{folder} mixes images of different sides: give the files of one set")
        images.append(image)
        labels.append(label.astype(np.int32))
    if len(images) == 1:
        return Examples(images[0], labels[0])
    return Examples(np.concatenate(images), np.concatenate(labels))


class MnistSource:
    """The published files in the folder ``place``."""

    needs_task = False

    def __init__(self, settings: DataSettings, place: Path) -> None:
        self._settings, self._folder = settings, place

    def version(self) -> Version:
        """Return sizes and times of the files."""
        return file_version(
            *(
                _found(self._folder, f"{prefix}-{kind}", ending)
                for prefix in _PREFIXES[self._settings.part]
                for kind, ending in (("images", "idx3-ubyte"), ("labels", "idx1-ubyte"))
            )
        )

    def count(self) -> int:
        """Count the examples with labels."""
        return len(self.read(Wanted.any()))

    def read(self, wanted: Wanted) -> Found:
        """Read the images as bytes; they are converted batch by batch."""
        del wanted
        found = read_mnist(self._folder, self._settings.part, most_bytes=self._settings.most_bytes)
        return Found(found.x, found.y, image=True)


def _found(folder: Path, stem: str, ending: str) -> Path:
    """Return the file in one of the spellings it is spread under."""
    names = [f"{stem}{mark}{ending}{packed}" for mark in "-." for packed in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise UnreadableDataError(f"{folder} has no {names[0]} (or .gz): put the published files there")
