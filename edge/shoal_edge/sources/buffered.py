"""A rolling buffer that a sensor's process fills: the labelled examples of this moment."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shoal_edge.buffer.layout import read_layout
from shoal_edge.buffer.reader import buffer_version, read_snapshot
from shoal_edge.data import MINIMUM_EXAMPLES
from shoal_edge.sources.files import check_size
from shoal_edge.sources.settings import HELD_OUT_FRACTION, DataSettings
from shoal_edge.sources.source import Found, Version, Wanted


class BufferSource:
    """The buffer in the folder ``place``."""

    needs_task = False

    def __init__(self, settings: DataSettings, place: Path) -> None:
        self._most, self._folder = settings.most_bytes, place

    def version(self) -> Version:
        """Return names and sizes of the segments."""
        return buffer_version(self._folder)

    def count(self) -> int:
        """Count the examples with labels."""
        return len(self.read(Wanted.any()))

    def read(self, wanted: Wanted) -> Found:
        """Read what is labelled now."""
        del wanted
        layout = read_layout(self._folder)
        check_size(layout.most_bytes, self._most, self._folder)
        snapshot = read_snapshot(self._folder)
        values = np.frombuffer(snapshot.data, np.dtype(layout.dtype).newbyteorder("<"))
        x = values.reshape(len(snapshot), *layout.shape).astype(layout.dtype, copy=False)
        y = np.array(snapshot.labels, np.float32 if layout.values else np.int64)
        if layout.values:
            y = y.reshape(len(snapshot), layout.values)
        return Found(x, y, aside=aside_by_number(np.array(snapshot.numbers, np.uint64)))


def aside_by_number(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
    """Return which of the examples ``numbers`` (n,) are held out: about a fifth, and always the same ones.

    An example keeps its side while others come and go, so that none is judged by that was trained on before.
    Only where there are few must one change sides, for none of either is no use.
    """
    # The finaliser of SplitMix64 (Steele, Lea and Flood 2014, figure 16): no rhythm of a sensor survives it.
    with np.errstate(over="ignore"):
        mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    aside = mixed < np.uint64(int(HELD_OUT_FRACTION * 2**64))
    if len(numbers) >= MINIMUM_EXAMPLES:
        aside[mixed.argmin()] = True
        aside[mixed.argmax()] = False
    return aside
