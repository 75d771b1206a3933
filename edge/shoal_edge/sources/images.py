"""A folder of images, one sub-folder for each label, opened when a batch asks for them.

Names of sub-folders are labels and names of files may tell whom they show: neither is in what a fault says,
which travels; ``shoal-edge data check`` prints the file from the fault's notes, on the device.
"""

import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from shoal_edge.sources.errors import (
    DamagedDataError,
    DataSettingsError,
    DataTooLargeError,
    MissingReaderError,
)
from shoal_edge.sources.rows import Array, Indices, Rows
from shoal_edge.sources.settings import DataSettings
from shoal_edge.sources.source import Found, Version, Wanted
from shoal_edge.trainers.errors import DataError, UnreadableDataError

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm"})
FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM")
MOST_FILES = 1 << 20
MOST_PIXELS = 64 << 20
"""Of one image, before it is made small; three bytes each."""
_KEPT_BYTES = 64 << 20
_MODES = {1: "L", 3: "RGB"}


class ImagesSource:
    """The folder ``place``: ``place/LABEL/IMAGE``."""

    needs_task = True

    def __init__(self, settings: DataSettings, place: Path) -> None:
        self._settings, self._folder = settings, place

    def version(self) -> Version:
        """Return names, sizes and times of all images."""
        return tuple(
            (entry.path, about.st_size, about.st_mtime_ns)
            for folder in _labels(self._folder)
            for entry in _images(folder, self._folder)
            for about in (entry.stat(),)
        )

    def count(self) -> int:
        """Count the images."""
        return len(self.version())

    def read(self, wanted: Wanted) -> Found:
        """List the images; each is opened, and brought to the task's size, when a batch asks for it."""
        _pillow()
        size = _size(self._settings.image_size or wanted.input.shape)
        names: list[str] = []
        paths: list[str] = []
        codes: list[int] = []
        for folder in _labels(self._folder):
            found = [entry.path for entry in _images(folder, self._folder)]
            if not found:
                continue
            codes += [len(names)] * len(found)
            names.append(Path(folder).name)
            paths += found
            if len(paths) > MOST_FILES:
                raise DataTooLargeError(f"{self._folder} has over {MOST_FILES} images: give fewer")
        rows = ImageRows(self._folder, paths, size, min(_KEPT_BYTES, self._settings.most_bytes))
        return Found(rows.as_array(), np.array(codes, np.int32), tuple(names), image=True, lazy=True)


class ImageRows(Rows):
    """Images of ``size`` (height, width, channels), red first; the first ones read stay in memory.

    At most ``kept_bytes`` of them do, so that a set that fits is opened once and not in every epoch.
    """

    def __init__(self, folder: Path, paths: list[str], size: tuple[int, int, int], kept_bytes: int) -> None:
        self._folder, self._paths = folder, paths
        self.shape = (len(paths), *size)
        self.dtype = np.dtype(np.uint8)
        kept = min(len(paths), kept_bytes // max(int(np.prod(size)), 1))
        self._kept = np.empty((kept, *size), np.uint8)
        self._slots: dict[int, int] = {}

    def take(self, chosen: Indices) -> Array:
        """Return the images ``chosen``.

        Raises:
            DamagedDataError, UnreadableDataError, DataTooLargeError: one that cannot be opened.
        """
        out = np.empty((len(chosen), *self.shape[1:]), np.uint8)
        for place, number in enumerate(chosen.tolist()):
            slot = self._slots.get(number, -1)
            if slot >= 0:
                out[place] = self._kept[slot]
                continue
            out[place] = self._opened(number)
            if len(self._slots) < len(self._kept):
                slot = self._slots[number] = len(self._slots)
                self._kept[slot] = out[place]
        return out

    def _opened(self, number: int) -> npt.NDArray[np.uint8]:
        image = _pillow()
        path = self._paths[number]
        height, width, channels = self.shape[1:]
        which = f"image {number + 1} of {len(self._paths)} in {self._folder}"
        try:
            with image.open(path, formats=FORMATS) as found:
                if found.width * found.height > MOST_PIXELS:
                    raise _noted(
                        DataTooLargeError(f"{which} has over {MOST_PIXELS} pixels: make it smaller"), path
                    )
                # JPEG can be decoded at a half, a quarter or an eighth, at a fraction of the work.
                found.draft(_MODES[channels], (width, height))
                small = found.convert(_MODES[channels]).resize(
                    (width, height), image.Resampling.BILINEAR, reducing_gap=2.0
                )
                return np.asarray(small, np.uint8).reshape(height, width, channels)
        except FileNotFoundError as error:
            raise _noted(
                UnreadableDataError(f"{which} is gone: it is looked for again in the next round"), path
            ) from error
        except _faults(image) as error:
            raise _noted(
                DamagedDataError(
                    f"{which} cannot be opened ({type(error).__name__}): `shoal-edge data check` names the "
                    "file; mend or remove it"
                ),
                path,
            ) from error


def _faults(image: Any) -> tuple[type[Exception], ...]:
    """Return what Pillow raises on files that are none, or damaged, or made to harm."""
    return (
        *(OSError, ValueError, TypeError, SyntaxError, EOFError, MemoryError, OverflowError, struct.error),
        *(image.DecompressionBombError, image.DecompressionBombWarning),
    )


def _noted(error: DataError, path: str) -> DataError:
    error.add_note(path)
    return error


def _size(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """Return (height, width, channels) of a task's input."""
    if len(shape) == 2:
        return (shape[0], shape[1], 1)
    if len(shape) == 3 and shape[2] in _MODES:
        return (shape[0], shape[1], shape[2])
    raise DataSettingsError(
        f"no image has the shape {shape}, but (height, width) or (height, width, 1 or 3): set "
        "`image_size`, or give the task another kind of source"
    )


def _labels(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_dir() and entry.name[0] != ".")
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read {folder} ({error.strerror}): it has one folder for each label; check `path`"
        ) from error


def _images(label: str, folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(label) as entries:
            found = [entry for entry in entries if Path(entry.name).suffix.lower() in SUFFIXES]
    except OSError as error:
        raise UnreadableDataError(
            f"cannot read a sub-folder of {folder} ({error.strerror}): check its permissions"
        ) from error
    return sorted((entry for entry in found if entry.is_file()), key=lambda entry: entry.name)


def _pillow() -> Any:
    try:
        from PIL import Image  # noqa: PLC0415 - an extra, for those with images
    except ImportError as error:
        raise MissingReaderError("images are opened by Pillow: install shoal[images]") from error
    return Image
