"""A .npz archive of the arrays x and y, as numpy.savez writes it."""

from pathlib import Path

from shoal_edge.data import read_arrays
from shoal_edge.sources.files import file_version
from shoal_edge.sources.settings import DataSettings
from shoal_edge.sources.source import Found, Version, Wanted
from shoal_edge.trainers.errors import MissingLabelsError


class NpzSource:
    """The archive at ``place``."""

    needs_task = False

    def __init__(self, settings: DataSettings, place: Path) -> None:
        self._most, self._place = settings.most_bytes, place

    def version(self) -> Version:
        """Return the file's size and time."""
        return file_version(self._place)

    def count(self) -> int:
        """Count the examples with labels."""
        return len(self.read(Wanted.any()))

    def read(self, wanted: Wanted) -> Found:
        """Read both arrays; whole."""
        del wanted
        arrays = read_arrays(self._place, self._most)
        absent = [name for name in ("x", "y") if name not in arrays]
        if absent:
            raise MissingLabelsError(
                f"{self._place} has no array {absent[0]}: save examples as x and labels as y (numpy.savez)"
            )
        x, y = arrays["x"], arrays["y"]
        if not x.ndim or not y.ndim:
            raise MissingLabelsError(f"{self._place} holds single values: save arrays of examples and labels")
        return Found(x, y)
