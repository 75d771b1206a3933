"""Model vectors on disk: little-endian float32, named by their BLAKE3 digest. Worker only: needs numpy."""

from pathlib import Path
from typing import Self

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
    with StoredVector(path, digest) as stored:
        return stored.read()


class StoredVector:
    """The float32[D] with ``digest`` at ``path``, read whenever it is asked for and not held in between.

    It is there until this is closed, whatever becomes of the path meanwhile.

    Raises:
        VectorFileError: it is missing.
    """

    def __init__(self, path: Path, digest: bytes) -> None:
        self._name, self._digest = path.name[:16], digest
        try:
            self._file = path.open("rb", buffering=0)
        except OSError as error:
            raise _unread(self._name, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self) -> Vector:
        """Return the vector.

        Raises:
            VectorFileError: damaged, or not the vector with the digest.
            DivergedError: it holds NaN or infinity.
        """
        try:
            self._file.seek(0)
            vector = np.fromfile(self._file, "<f4")
            whole = not self._file.read(1)
        except OSError as error:
            raise _unread(self._name, error) from error
        if not whole or digest_of(vector.view(np.uint8).data) != self._digest:
            raise VectorFileError(f"the model {self._name} on disk is damaged: fetch it again")
        return check_finite(vector.astype(np.float32, copy=False))


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


def _unread(name: str, error: OSError) -> VectorFileError:
    return VectorFileError(f"cannot read the model {name}: {error.strerror}")
