"""A vector on disk, read twice in a round and held in neither pause."""

import math
from pathlib import Path

import numpy as np
import pytest

from shoal_codecs.updates.base import all_finite, length
from shoal_codecs.wire.blob import digest_of
from shoal_edge.errors import DivergedError, VectorFileError
from shoal_edge.vectors import StoredVector, write_vector

VALUES = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
DIGEST = digest_of(VALUES.tobytes())


def test_it_is_read_again_after_its_file_has_gone(tmp_path: Path) -> None:
    path = tmp_path / "v"
    write_vector(path, VALUES)
    with StoredVector(path, DIGEST) as stored:
        first = stored.read()
        first += 1
        path.unlink()
        np.testing.assert_array_equal(stored.read(), VALUES)


@pytest.mark.parametrize("data", [b"", VALUES.tobytes()[:-1], VALUES.tobytes() + b"\0", VALUES.tobytes()[4:]])
def test_what_is_not_the_vector_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "v").write_bytes(data)
    with (
        StoredVector(tmp_path / "v", DIGEST) as stored,
        pytest.raises(VectorFileError, match="fetch it again"),
    ):
        stored.read()
    with pytest.raises(VectorFileError, match="cannot read"):
        StoredVector(tmp_path / "none", DIGEST)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_with_no_numbers_is_refused(tmp_path: Path, value: float) -> None:
    values = VALUES.copy()
    values[199_999] = value
    assert not all_finite(values)
    write_vector(tmp_path / "v", values)
    with StoredVector(tmp_path / "v", digest_of(values.tobytes())) as stored, pytest.raises(DivergedError):
        stored.read()


def test_a_length_is_that_of_exact_arithmetic() -> None:
    assert length(VALUES) == pytest.approx(math.sqrt(math.fsum(x * x for x in VALUES.tolist())), rel=1e-12)
    assert length(VALUES[:0]) == 0
    assert all_finite(VALUES)
    assert all_finite(VALUES[:0])
