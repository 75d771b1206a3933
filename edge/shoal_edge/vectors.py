"""Model vectors on disk: little-endian float32, named by their BLAKE3 digest. Worker only: needs numpy."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from shoal_codecs.updates.base import all_finite
from shoal_codecs.wire.blob import digest_of
from shoal_edge.errors import DivergedError, VectorFileError
from shoal_edge.files import write_durably

Vector = npt.NDArray[np.float32]


def read_vector(path: Path, digest: bytes) -> Vector:
    """Return the float32[D] at ``path``.

    Raises:
        VectorFileError: missing, damaged, or not the vector with ``digest``.
        DivergedError: it holds NaN or infinity.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise VectorFileError(f"cannot read the model {path.name[:16]}: {error.strerror}") from error
    if digest_of(data) != digest or len(data) % 4:
        raise VectorFileError(f"the model {path.name[:16]} on disk is damaged: fetch it again")
    return check_finite(np.frombuffer(data, dtype="<f4").astype(np.float32))


def write_vector(path: Path, vector: Vector) -> None:
    """Put ``vector`` at ``path``, whole or not at all."""
    write_durably(path, vector.astype("<f4", copy=False).tobytes())


def check_finite(vector: Vector) -> Vector:
    """Return ``vector`` if every weight is a number.

    Raises:
        DivergedError: it holds NaN or infinity.
    """
    if not all_finite(vector):
        raise DivergedError("the model holds NaN or infinity: go back to an earlier version")
    return vector
