"""CIFAR-10 as published, the binary and the python version (A. Krizhevsky 2009).

Binary: rows of one label byte and 3,072 bytes of red, green and blue planes, row by row. Python: pickled
dicts with the same bytes under ``data`` and the labels under ``labels``.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_edge.data import Examples
from shoal_edge.sources.errors import DamagedDataError
from shoal_edge.sources.files import MOST_BYTES, check_size, file_version, opened, read_rest
from shoal_edge.sources.pickled import read_batch
from shoal_edge.sources.rows import Growing
from shoal_edge.sources.settings import DataSettings, Part
from shoal_edge.sources.source import Found, Version, Wanted
from shoal_edge.trainers.errors import MissingLabelsError, UnreadableDataError

SIDE, PLANES = 32, 3
_VALUES = SIDE * SIDE * PLANES
_TRAIN = tuple(f"data_batch_{number}" for number in range(1, 6))
_BATCHES: dict[Part, tuple[str, ...]] = {
    "train": _TRAIN,
    "test": ("test_batch",),
    "all": (*_TRAIN, "test_batch"),
}
_FOLDERS = ("", "cifar-10-batches-bin", "cifar-10-batches-py")
Batch = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


def read_cifar10(folder: Path, part: Part = "train", *, most_bytes: int = MOST_BYTES) -> Examples:
    """Return images (n, 32, 32, 3) uint8, red first, and labels (n,) of the published batches in ``folder``.

    ``part`` is ``train`` (50,000), ``test`` (10,000) or ``all``; ``folder`` may be the one above.

    Raises:
        UnreadableDataError, DamagedDataError, ChangedDataError: a batch is missing or not whole.
        MissingLabelsError: not one label for each image.
        DataTooLargeError: over ``most_bytes``.
    """
    paths = batch_paths(folder, part)
    check_size(sum(size for _, size, _ in file_version(*paths)), most_bytes, folder)
    planes, labels = Growing((_VALUES,), np.uint8), Growing((), np.int32)
    for path in paths:
        images, found = _read(path, most_bytes - planes.nbytes)
        planes.add(images)
        labels.add(found)
    # Channels last, as models take them; a view, so that only batches are copied.
    return Examples(planes.done().reshape(-1, PLANES, SIDE, SIDE).transpose(0, 2, 3, 1), labels.done())


def batch_paths(folder: Path, part: Part) -> list[Path]:
    """Return the files of ``part``, of whichever version is there.

    Raises:
        UnreadableDataError: neither version is whole.
    """
    for inner in _FOLDERS:
        for ending in (".bin", ""):
            paths = [folder / inner / f"{name}{ending}" for name in _BATCHES[part]]
            if all(path.is_file() for path in paths):
                return paths
    raise UnreadableDataError(
        f"{folder} has no {_BATCHES[part][0]} (or .bin) and its fellows: unpack the published archive there"
    )


def _read(path: Path, most: int) -> Batch:
    with opened(path) as file:
        data = read_rest(file, most, path)
    return _of_binary(data, path) if path.suffix == ".bin" else _of_pickle(data, path)


def _of_binary(data: bytearray, path: Path) -> Batch:
    if not data or len(data) % (1 + _VALUES):
        raise DamagedDataError(f"{path} holds no whole images: copy it again")
    rows = np.frombuffer(data, np.uint8).reshape(-1, 1 + _VALUES)
    return rows[:, 1:], rows[:, 0].astype(np.int32)


def _of_pickle(data: bytearray, path: Path) -> Batch:
    batch = read_batch(data, str(path))
    images: Any = batch.get("data")
    labels: Any = batch.get("labels")
    if not isinstance(images, np.ndarray) or images.ndim != 2 or images.shape[1] != _VALUES:
        raise DamagedDataError(f"{path} holds no images under `data`: take the published archive")
    if not isinstance(labels, list) or len(labels) != len(images):
        raise MissingLabelsError(f"{path} has not one label for each image: take the published archive")
    if not all(type(label) is int and 0 <= label < 256 for label in labels):
        raise DamagedDataError(f"{path} has labels that are no small integers: take the published archive")
    return images, np.array(labels, np.int32)


class CifarSource:
    """The published batches in the folder ``place``."""

    needs_task = False

    def __init__(self, settings: DataSettings, place: Path) -> None:
        self._settings, self._folder = settings, place

    def version(self) -> Version:
        """Return sizes and times of the batches."""
        return file_version(*batch_paths(self._folder, self._settings.part))

    def count(self) -> int:
        """Count the examples with labels."""
        return len(self.read(Wanted.any()))

    def read(self, wanted: Wanted) -> Found:
        """Read the images as bytes; they are converted batch by batch."""
        del wanted
        found = read_cifar10(self._folder, self._settings.part, most_bytes=self._settings.most_bytes)
        return Found(found.x, found.y, image=True)
