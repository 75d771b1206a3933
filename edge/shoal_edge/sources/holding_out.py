"""Which of overlapping examples are held out: the last ones, with none in training that shares a step."""

import numpy as np
import numpy.typing as npt

from shoal_edge.data import MINIMUM_EXAMPLES
from shoal_edge.sources.rows import Indices
from shoal_edge.sources.settings import HELD_OUT_FRACTION


def window_starts(steps: int, length: int, stride: int) -> Indices:
    """Return where windows of ``length`` begin in a series of ``steps``, ``stride`` apart."""
    return np.arange(0, max(steps - length + 1, 0), stride)


def last_aside(starts: Indices, length: int) -> tuple[Indices, npt.NDArray[np.bool_]]:
    """Return (windows to keep, which of those are held out), of ascending ``starts`` (n,).

    The last fifth is held out. Windows before it that reach into it are left out, so that no step is both
    trained on and judged by.
    """
    count = len(starts)
    held = max(round(count * HELD_OUT_FRACTION), int(count >= MINIMUM_EXAMPLES))
    if not held:
        return np.arange(count), np.zeros(count, np.bool_)
    first = starts[count - held]
    aside = np.arange(count) >= count - held
    kept = np.flatnonzero(aside | (starts + length <= first))
    return kept, aside[kept]
