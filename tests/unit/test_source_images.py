"""A folder of images: its labels, its sizes, what is wrong with it, and how little of it is in memory."""

import io
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from shoal_codecs.wire.task import InputDescription
from shoal_edge.data import Examples
from shoal_edge.sources import images
from shoal_edge.sources.errors import (
    DamagedDataError,
    DataSettingsError,
    DataTooLargeError,
    MissingReaderError,
)
from shoal_edge.sources.registry import divide, open_source
from shoal_edge.sources.settings import DataSettings
from shoal_edge.sources.source import Wanted
from shoal_edge.trainers.errors import (
    DataError,
    ExampleRangeError,
    ExampleTypeError,
    LabelRangeError,
    UnreadableDataError,
)
from source_parts import QUICK, bounded

LABELS = ("blue", "green", "red")
COLOURS = {"red": (250, 0, 0), "green": (0, 240, 0), "blue": (0, 0, 230)}
RGB = Wanted(InputDescription((8, 6, 3), "uint8", 0, 255), LABELS)


def folder(place: Path, count: int = 4, suffix: str = "png", side: int = 12) -> Path:
    for label, colour in COLOURS.items():
        (place / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            Image.new("RGB", (side, side), colour).save(place / label / f"{number}.{suffix}")
    return place


def read(place: Path, wanted: Wanted = RGB, **options: Any) -> Examples:
    return open_source(DataSettings(kind="images", **options), place).examples(wanted)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "PPM"])
def test_sub_folders_are_labels_and_images_get_the_tasks_size(tmp_path: Path, suffix: str) -> None:
    found = read(folder(tmp_path, suffix=suffix))
    (tmp_path / "red" / "notes.txt").write_text("no image")
    (tmp_path / ".cache").mkdir()
    assert found.x.shape == (12, 8, 6, 3)
    for row, label in zip(np.asarray(found.x), found.y, strict=True):
        colour = COLOURS[LABELS[label]]
        assert np.abs(row.astype(int) - colour).max() < 12
    assert found.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(read(tmp_path)) == 12


def test_rows_and_columns_keep_their_places(tmp_path: Path) -> None:
    pixels = np.arange(8 * 6, dtype=np.uint8).reshape(8, 6)
    for number in range(5):
        (tmp_path / "red").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "red" / f"{number}.png")
    grey = read(tmp_path, Wanted(InputDescription((8, 6), "uint8", 0, 255), LABELS))
    assert np.array_equal(grey.x[np.array([3])][0], pixels)
    channel = read(tmp_path, Wanted(InputDescription((8, 6, 1), "float32", 0, 1), LABELS), scale=1 / 255)
    assert np.allclose(channel.x[:1][0, :, :, 0], pixels / 255)


def test_only_some_images_are_ever_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path, count=30, side=4)
    big = Wanted(InputDescription((256, 256, 3), "uint8", 0, 255), LABELS)
    monkeypatch.setattr(images, "_KEPT_BYTES", 10 * 256 * 256 * 3)
    whole = 90 * 256 * 256 * 3
    tracemalloc.start()
    try:
        train, _ = divide(read(tmp_path, big), 0.2)
        for _ in range(2):
            for start in range(0, len(train), 8):
                assert len(train.x[np.arange(start, min(start + 8, len(train)))]) <= 8
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < whole / 3


def test_an_image_that_was_kept_is_not_opened_again(tmp_path: Path) -> None:
    found = read(folder(tmp_path))
    first = found.x[np.array([0, 7])]
    for path in tmp_path.rglob("*.png"):
        path.unlink()
    assert np.array_equal(found.x[np.array([7, 0])], first[::-1])
    with pytest.raises(UnreadableDataError, match="image 2 of 12") as caught:
        found.x[np.array([1])]
    assert "blue" not in str(caught.value)
    assert caught.value.__notes__ == [str(tmp_path / "blue" / "1.png")]


def test_what_a_fault_says_names_neither_label_nor_file(tmp_path: Path) -> None:
    (folder(tmp_path) / "red" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    found = read(tmp_path)
    with pytest.raises(DamagedDataError, match="image 11 of 12") as caught:
        np.asarray(found.x)
    assert "red" not in str(caught.value).replace(str(tmp_path), "")
    assert caught.value.__notes__ == [str(tmp_path / "red" / "2.png")]


def png(width: int, height: int) -> bytes:
    """A file whose header claims that many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
    data = zlib.compress(bytes(1000))
    body = struct.pack(">I", len(data)) + b"IDAT" + data + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    return b"\x89PNG\r\n\x1a\n" + chunk + body


@pytest.mark.parametrize("side", [8193, 10_000, 60_000])
def test_an_image_that_claims_to_be_huge_is_not_opened(tmp_path: Path, side: int) -> None:
    (folder(tmp_path) / "blue" / "0.png").write_bytes(png(side, side))
    found = read(tmp_path)
    bounded(lambda: found.x[:1])
    with pytest.raises((DataTooLargeError, DamagedDataError)):
        found.x[:1]


SMALL = io.BytesIO()
Image.new("RGB", (9, 9), (1, 2, 3)).save(SMALL, "JPEG")


@QUICK
@given(
    data=st.binary(max_size=80)
    | st.tuples(st.integers(0, len(SMALL.getvalue()) - 1), st.integers(0, 255)).map(
        lambda change: SMALL.getvalue()[: change[0]] + bytes([change[1]]) + SMALL.getvalue()[change[0] + 1 :]
    ),
    suffix=st.sampled_from(["png", "jpg", "webp", "pgm"]),
)
def test_whatever_an_image_holds_it_is_opened_or_named(tmp_path: Path, data: bytes, suffix: str) -> None:
    place = tmp_path / suffix
    (place / "red").mkdir(parents=True, exist_ok=True)
    (place / "red" / f"0.{suffix}").write_bytes(data)
    bounded(lambda: read(place, min_examples=1).x[:1])


def test_faults_of_the_folder_have_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnreadableDataError, match="one folder for each label"):
        read(tmp_path / "nowhere")
    folder(tmp_path)
    with pytest.raises(LabelRangeError) as caught:
        read(tmp_path, RGB._replace(labels=("blue", "green")))
    assert "red" not in str(caught.value).replace(str(tmp_path), "")
    mapped = read(
        tmp_path,
        RGB._replace(labels=("warm", "cold")),
        labels={"red": "warm"} | dict.fromkeys(("blue", "green"), "cold"),
    )
    assert mapped.y.tolist() == [1] * 8 + [0] * 4
    with pytest.raises(DataSettingsError, match="image_size"):
        read(tmp_path, RGB._replace(input=InputDescription((64,), "uint8", 0, 255)))
    flat = read(tmp_path, RGB._replace(input=InputDescription((48,), "uint8", 0, 255)), image_size=(8, 6, 1))
    assert flat.x[:2].shape == (2, 48)
    with pytest.raises(ExampleTypeError, match="`scale`"):
        read(tmp_path, RGB._replace(input=InputDescription((8, 6, 3), "float32", 0, 255)))
    low = read(tmp_path, RGB._replace(input=InputDescription((8, 6, 3), "uint8", 0, 100)))
    with pytest.raises(ExampleRangeError):
        low.x[:1]
    monkeypatch.setitem(__import__("sys").modules, "PIL", None)
    with pytest.raises(MissingReaderError, match=r"shoal\[images\]"):
        read(tmp_path)


def test_a_new_image_is_a_new_version(tmp_path: Path) -> None:
    source = open_source(DataSettings(kind="images"), folder(tmp_path))
    before = source.version()
    assert source.version() == before
    assert source.count() == 12
    Image.new("RGB", (4, 4)).save(tmp_path / "red" / "new.png")
    assert source.version() != before
    assert issubclass(MissingReaderError, DataError)
