"""CIFAR-10 as published, and pickles that want to be more than data."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_edge.sources.cifar import read_cifar10
from shoal_edge.sources.errors import DamagedDataError, DataTooLargeError
from shoal_edge.sources.pickled import read_batch
from shoal_edge.trainers.errors import MissingLabelsError, UnreadableDataError
from source_parts import QUICK, bounded

PIXELS = np.arange(8 * 3072, dtype=np.uint32).reshape(8, 3072).astype(np.uint8)
OF_PYTHON_2 = (
    b"\x80\x02}q\x01(U\x0bbatch_labelq\x02U\x15training batch 1 of 5q\x03U\x06labelsq\x04]q\x05(K\x06K\te"
    b"U\x04dataq\x06cnumpy.core.multiarray\n_reconstruct\nq\x07cnumpy\nndarray\nq\x08K\x00\x85U\x01b\x87Rq\t"
    b"(K\x01K\x02M\x00\x0c\x86cnumpy\ndtype\nq\nU\x02u1K\x00K\x01\x87Rq\x0b(K\x03U\x01|NNNJ\xff\xff\xff\xff"
    b"J\xff\xff\xff\xffK\x00tb\x89T\x00\x18\x00\x00" + PIXELS[:2].tobytes() + b"tbU\tfilenamesq\x0c"
    b"]q\r(U\x05a.pngU\x05b.pngeu."
)
"""What Python 2's cPickle writes, opcode by opcode, as in the published batches."""


def cifar(folder: Path, *, binary: bool, protocol: int = 2) -> Path:
    for number, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        labels = [(number + n) % 10 for n in range(8)]
        if binary:
            rows = np.column_stack([np.array(labels, np.uint8), PIXELS])
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            batch = {b"data": PIXELS, b"labels": labels, b"batch_label": b"x", b"filenames": [b"a.png"] * 8}
            (folder / name).write_bytes(pickle.dumps(batch, protocol))
    return folder


@pytest.mark.parametrize(("binary", "protocol"), [(True, 2), (False, 2), (False, 3), (False, 4)])
def test_both_versions_of_cifar_are_read_alike(tmp_path: Path, protocol: int, *, binary: bool) -> None:
    found = read_cifar10(cifar(tmp_path, binary=binary, protocol=protocol))
    assert (found.x.shape, found.x.dtype.name) == ((40, 32, 32, 3), "uint8")
    assert found.y[:8].tolist() == list(range(8))
    assert found.y[32:].tolist() == [4, 5, 6, 7, 8, 9, 0, 1]
    # Planes of red, green and blue, each row by row.
    assert found.x[1, 2, 3].tolist() == [PIXELS[1, plane * 1024 + 2 * 32 + 3] for plane in range(3)]
    assert len(read_cifar10(tmp_path, "test")) == 8
    assert len(read_cifar10(tmp_path, "all")) == 48


def test_a_batch_of_python_2_is_read_as_pickle_reads_it() -> None:
    found = read_batch(OF_PYTHON_2, "batch")
    assert np.array_equal(found["data"], PIXELS[:2])
    assert found["labels"] == [6, 9]
    reference = pickle.loads(OF_PYTHON_2, encoding="bytes")  # noqa: S301 - these bytes are written above
    assert np.array_equal(reference[b"data"], found["data"])


class Call:
    """Pickles into a call of what is not to be called."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._call = (function, arguments)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._call


def test_nothing_in_a_pickle_is_called(tmp_path: Path) -> None:
    target = tmp_path / "touched"
    calls = (Call(os.mkdir, str(target)), Call(eval, "1"), Call(np.zeros, 10**9), Call(str, "u1"))
    for call in calls:
        with pytest.raises(DamagedDataError, match="no pickled batch"):
            read_batch(pickle.dumps({"data": call}, 2), "batch")
    assert not target.exists()


def test_a_small_pickle_cannot_grow() -> None:
    # A key of tuples that hold one another twice: hashing it would take for ever.
    twice = b"\x80\x02}" + b")q\x00" + b"h\x00h\x00\x86q\x00" * 40 + b"K\x01s."
    with pytest.raises(DamagedDataError):
        read_batch(twice, "batch")
    text = b"X" + (1 << 20).to_bytes(4, "little") + b"a" * (1 << 20) + b"q\x00"
    encode = b"c_codecs\nencode\nh\x00X\x06\x00\x00\x00latin1\x86R"
    bounded(lambda: read_batch(b"\x80\x02" + text + encode * 500 + b".", "batch"), most=32 << 20)


PIECES = [
    *(
        b"(",
        b"}",
        b"]",
        b")",
        b"\x85",
        b"\x86",
        b"\x87",
        b"t",
        b"l",
        b"d",
        b"a",
        b"e",
        b"s",
        b"u",
        b"R",
        b"b",
    ),
    *(
        b"N",
        b"K\x01",
        b"J\xff\xff\xff\xff",
        b"q\x00",
        b"h\x00",
        b"\x94",
        b"\x93",
        b"U\x02u1",
        b"U\x04data",
        b".",
    ),
    *(
        b"cnumpy\ndtype\n",
        b"cnumpy\nndarray\n",
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"\x80\x02",
        b"\x89",
    ),
    *(
        b"T\xff\xff\xff\x7fab",
        b"B\xff\xff\xff\x7fab",
        b"X\xff\xff\xff\xffab",
        b"S'\\q'\n",
        b"I1\n",
        b"\x8b\xff" * 3,
    ),
    *(b"cos\nsystem\n", b"\x8c\x02os", b"\x8c\x06system", b"c_codecs\nencode\n", b"X\x06\x00\x00\x00latin1"),
]


@QUICK
@given(data=st.binary(max_size=100) | st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join))
def test_whatever_a_pickle_holds_it_is_read_or_named(data: bytes) -> None:
    bounded(lambda: read_batch(data, "batch"))


@QUICK
@given(place=st.integers(0, len(OF_PYTHON_2) - 6144 - 60), byte=st.integers(0, 255))
def test_a_batch_with_one_wrong_byte_is_read_or_named(tmp_path: Path, place: int, byte: int) -> None:
    data = bytearray(OF_PYTHON_2)
    data[place] = byte
    (tmp_path / "test_batch").write_bytes(data)
    bounded(lambda: read_cifar10(tmp_path, "test"))


@QUICK
@given(data=st.binary(max_size=50), whole=st.integers(0, 2))
def test_a_binary_batch_of_any_length_is_read_or_named(tmp_path: Path, data: bytes, whole: int) -> None:
    (tmp_path / "test_batch.bin").write_bytes(bytes(3073 * whole) + data)
    bounded(lambda: read_cifar10(tmp_path, "test"))


def test_faults_of_a_folder_of_batches_have_their_names(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDataError, match="data_batch_1"):
        read_cifar10(tmp_path)
    cifar(tmp_path, binary=False)
    with pytest.raises(DataTooLargeError):
        read_cifar10(tmp_path, most_bytes=100_000)
    batch = {b"data": PIXELS, b"labels": [1, 2]}
    (tmp_path / "test_batch").write_bytes(pickle.dumps(batch, 2))
    with pytest.raises(MissingLabelsError):
        read_cifar10(tmp_path, "test")
