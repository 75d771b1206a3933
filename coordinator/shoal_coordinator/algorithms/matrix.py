"""All updates of a round as one matrix, worked through in blocks of coordinates."""

import contextlib
import tempfile
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from shoal_coordinator.plain_reports import Reports

Block = npt.NDArray[np.float32]
IN_MEMORY_BYTES = 256 << 20
"""A larger matrix lies in a file of the system's folder for temporary ones."""
BLOCK_BYTES = 8 << 20


class UpdateMatrix:
    """``rows`` float32[n, D], one for each report."""

    def __init__(self, rows: Block) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def blocks(self, block_bytes: int = BLOCK_BYTES) -> Iterator[tuple[slice, Block]]:
        """Yield places and copies (float32[n, c]) of all columns, at most ``block_bytes`` at a time."""
        count, dimension = self._rows.shape
        width = max(1, block_bytes // (4 * count))
        for start in range(0, dimension, width):
            place = slice(start, min(start + width, dimension))
            yield place, np.array(self._rows[:, place])


@contextlib.contextmanager
def update_matrix(reports: Reports, in_memory_bytes: int = IN_MEMORY_BYTES) -> Iterator[UpdateMatrix]:
    """Open every report once and hold all updates meanwhile, over ``in_memory_bytes`` of them in a file."""
    shape = (len(reports), reports.dimension)
    with contextlib.ExitStack() as stack:
        rows: Block
        if 4 * shape[0] * shape[1] <= in_memory_bytes:
            rows = np.empty(shape, np.float32)
        else:
            file = stack.enter_context(tempfile.TemporaryFile(prefix="shoal-updates-"))
            rows = np.memmap(file, np.float32, "w+", shape=shape)
        for row, one in zip(rows, reports, strict=True):
            row[:] = one.update
        yield UpdateMatrix(rows)
