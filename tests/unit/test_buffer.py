"""The rolling buffer: what it keeps, what its readers see meanwhile, and what a crash leaves."""

import os
import signal
import subprocess
import sys
import threading
import time
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shoal_codecs.wire.task import InputDescription, TargetDescription
from shoal_edge.buffer import (
    BufferDataError,
    BufferFolderError,
    BufferMismatchError,
    UnknownExampleError,
    buffer_version,
    open_buffer,
    read_snapshot,
)
from shoal_edge.buffer.layout import EXAMPLE, LABEL, LAYOUT_FILE
from shoal_edge.data import Examples
from shoal_edge.sources.buffered import aside_by_number
from shoal_edge.sources.errors import DataTooLargeError
from shoal_edge.sources.registry import Shards, open_source
from shoal_edge.sources.settings import DataSettings
from shoal_edge.sources.source import Wanted
from shoal_edge.trainers.errors import DataError, ExampleShapeError, LabelRangeError, TooFewExamplesError
from source_parts import QUICK, bounded

ABOUT = InputDescription((2,), "int32", 0, 1 << 20)
LABELS = tuple("abcdefg")
SHAPE: dict[str, Any] = {"shape": (2,), "dtype": "int32"}


def example(number: int) -> "array[int]":
    return array("i", [number, 2 * number])


def held(folder: Path) -> list[tuple[int, list[int], Any]]:
    """What a reader sees: number, values, label."""
    found = read_snapshot(folder)
    values = np.frombuffer(found.data, "<i4").reshape(-1, 2).tolist()
    return list(zip(found.numbers, values, found.labels, strict=True))


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.seg"))


def read(folder: Path, **options: Any) -> Examples:
    return open_source(DataSettings(kind="buffer", **options), folder).examples(Wanted(ABOUT, LABELS))


def test_what_is_labelled_is_read_and_what_is_not_yet_waits(tmp_path: Path) -> None:
    with open_buffer(tmp_path / "b", capacity_examples=10, **SHAPE) as buffer:
        numbers = [buffer.append(example(n), n % 3 if n < 2 else None) for n in range(4)]
        assert numbers == [0, 1, 2, 3]
        assert len(buffer) == 4
        assert held(tmp_path / "b") == [(0, [0, 0], 0), (1, [1, 2], 1)]
        assert read_snapshot(tmp_path / "b").unlabelled == 2
        buffer.label(3, 5)
        buffer.label(0, 2)
    assert held(tmp_path / "b") == [(0, [0, 0], 2), (1, [1, 2], 1), (3, [3, 6], 5)]
    with open_buffer(tmp_path / "b") as again:
        assert again.append(example(4), 0) == 4


def test_all_forms_of_the_same_bytes_are_taken_and_no_others(tmp_path: Path) -> None:
    with open_buffer(tmp_path, shape=(2, 3), dtype="float32", capacity_examples=9) as buffer:
        good = np.arange(6, dtype=np.float32).reshape(2, 3)
        for form in (good, good.tobytes(), bytearray(good.tobytes()), array("f", range(6)), good.ravel()):
            buffer.append(form, 0)
        buffer.append(np.arange(12, dtype=np.float32).reshape(3, 4)[:2, ::2][:, :1].repeat(3, axis=1), 0)
        assert read_snapshot(tmp_path).data[: 5 * 24] == 5 * good.tobytes()
        bad: list[Any] = [
            good.T,
            good.astype(np.float64),
            good.astype(np.int32),
            good.astype(">f4"),
            good[:1],
            good.tobytes()[:-1],
            [0.0] * 6,
            7,
        ]
        for form in bad:
            with pytest.raises(BufferDataError):
                buffer.append(form, 0)
        for label in ("one", 1.5, (1, 2), 1 << 70):
            with pytest.raises(BufferDataError, match="one integer"):
                buffer.append(good, label)  # type: ignore[arg-type]
        assert len(buffer) == 6


def test_values_to_be_predicted_are_labels_too(tmp_path: Path) -> None:
    with open_buffer(tmp_path, values=2, capacity_examples=9, **SHAPE) as buffer:
        for n in range(6):
            buffer.append(example(n), (n, 0.5))
        buffer.label(5, [1, 2])
        for label in (3, (1, 2, 3), (1, float("nan")), (1, 1e60)):
            with pytest.raises(BufferDataError, match="2 finite"):
                buffer.label(0, label)
    target = TargetDescription("values", (2,))
    found = open_source(DataSettings(kind="buffer"), tmp_path).examples(Wanted(ABOUT, (), target))
    assert found.y.tolist() == [*([n, 0.5] for n in range(5)), [1, 2]]


@pytest.mark.parametrize(
    ("capacity", "labels"), [({"capacity_examples": 20}, 4), ({"capacity_bytes": 1500}, 5)]
)
def test_the_oldest_go_first_and_the_capacity_holds(
    tmp_path: Path, capacity: dict[str, Any], labels: int
) -> None:
    with open_buffer(tmp_path, **SHAPE, **capacity) as buffer:
        most = buffer.layout.most_bytes
        for n in range(300):
            buffer.append(example(n))
            for label in range(labels):
                buffer.label(n, label)
            assert on_disk(tmp_path) <= most
            numbers = [number for number, _, _ in held(tmp_path)]
            assert numbers == list(range(numbers[0], n + 1))
            assert len(numbers) <= capacity.get("capacity_examples", 1500)
        assert len(numbers) == len(buffer)
        assert len(numbers) >= capacity.get("capacity_examples", 5)
        with pytest.raises(UnknownExampleError, match="not in the buffer"):
            buffer.label(numbers[0] - 1, 0)
        with pytest.raises(UnknownExampleError):
            buffer.label(300, 0)


def test_labels_alone_do_not_make_it_forget_its_numbers(tmp_path: Path) -> None:
    with open_buffer(tmp_path, capacity_examples=1, **SHAPE) as buffer:
        buffer.append(example(0))
        for label in range(100):
            if len(buffer):
                buffer.label(0, label)
        with open_buffer(tmp_path) as other:
            assert other.append(example(1), 0) == 1


def test_a_buffer_is_opened_as_it_was_made(tmp_path: Path) -> None:
    open_buffer(tmp_path, capacity_examples=9, **SHAPE).close()
    for other in ({"shape": (3,)}, {"dtype": "uint8"}, {"values": 1}, {"capacity_examples": 8}):
        with pytest.raises(BufferMismatchError, match="as it was made"):
            open_buffer(tmp_path, **(SHAPE | {"capacity_examples": 9} | other))
    for bad in (
        {},
        {"capacity_examples": -1},
        {"capacity_bytes": 30},
        {"capacity_examples": 9, "shape": (1 << 30, 4)},
        {"capacity_examples": 9, "shape": (0,)},
        {"capacity_examples": 9, "dtype": "float16"},
    ):
        with pytest.raises(BufferDataError):
            open_buffer(tmp_path / "new", **(SHAPE | bad))
    with pytest.raises(BufferFolderError, match="let the sensor's process"):
        open_buffer(tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(BufferFolderError):
        open_buffer(tmp_path / "file" / "b", capacity_examples=9, **SHAPE)
    closed = open_buffer(tmp_path)
    closed.close()
    with pytest.raises(BufferFolderError, match="open it again"):
        closed.append(example(0))


class Model(RuleBasedStateMachine):
    """Any run of appends, labels and openings, by two writers in turn, against a list."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile  # noqa: PLC0415

        self.place = tempfile.TemporaryDirectory()
        self.folder = Path(self.place.name)
        self.made: list[int | None] = []
        self.writers = [open_buffer(self.folder, capacity_examples=7, **SHAPE) for _ in range(2)]

    @rule(writer=st.integers(0, 1), label=st.none() | st.integers(-5, 5))
    def append(self, writer: int, label: int | None) -> None:
        assert self.writers[writer].append(example(len(self.made)), label) == len(self.made)
        self.made.append(label)

    @precondition(lambda self: self.made)
    @rule(writer=st.integers(0, 1), back=st.integers(0, 9), label=st.integers(-5, 5))
    def label(self, writer: int, back: int, label: int) -> None:
        number = len(self.made) - 1 - back
        if back < 7 and number >= 0:
            self.writers[writer].label(number, label)
            self.made[number] = label
        else:
            with pytest.raises(UnknownExampleError):
                self.writers[writer].label(number, label)

    @rule(writer=st.integers(0, 1))
    def open_again(self, writer: int) -> None:
        self.writers[writer].close()
        self.writers[writer] = open_buffer(self.folder)

    @rule(junk=st.binary(min_size=1, max_size=60))
    def die_in_a_record(self, junk: bytes) -> None:
        segments = sorted(self.folder.glob("*.seg"))
        if segments:
            whole = self.writers[0].layout.pack_record(EXAMPLE, 99, 3, bytes(example(9)))
            with segments[-1].open("ab") as file:
                file.write((whole[:-1] + junk)[: len(whole) - 1])

    @invariant()
    def readers_see_the_newest_that_are_labelled(self) -> None:
        first = max(len(self.made) - 7, 0)
        wanted = [
            (n, [n, 2 * n], label) for n, label in enumerate(self.made) if n >= first and label is not None
        ]
        assert held(self.folder) == wanted

    def teardown(self) -> None:
        for writer in self.writers:
            writer.close()
        self.place.cleanup()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)

SENSOR = """
import os, sys
from array import array
from itertools import count
from shoal_edge.buffer import UnknownExampleError, open_buffer
buffer = open_buffer(sys.argv[1], shape=(2,), dtype="int32", capacity_examples=int(sys.argv[2]))
assert "numpy" not in sys.modules and "aiomqtt" not in sys.modules
for n in count():
    if os.path.exists(sys.argv[3]):
        break
    number = buffer.append(array("i", [n, 2 * n]))
    try:
        buffer.label(number, 1)
    except UnknownExampleError:
        # This process was put aside while the other filled the whole buffer.
        pass
    if n == 50:
        print("going", flush=True)
print(n)
"""


@pytest.fixture
def sensors() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def start(sensors: list[subprocess.Popen[str]], folder: Path, capacity: int) -> subprocess.Popen[str]:
    """Start a sensor that goes on until there is a file ``stop`` in ``folder``."""
    command = [sys.executable, "-c", SENSOR, str(folder), str(capacity), str(folder / "stop")]
    sensors.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    return sensors[-1]


def test_what_a_killed_sensor_appended_is_there(tmp_path: Path, sensors: list[subprocess.Popen[str]]) -> None:
    sensor = start(sensors, tmp_path, 5000)
    assert sensor.stdout
    assert sensor.stdout.readline() == "going\n"
    time.sleep(0.05)
    sensor.send_signal(signal.SIGKILL)
    sensor.wait()
    found = held(tmp_path)
    assert len(found) >= 51
    assert found == [(n, [n, 2 * n], 1) for n in range(found[0][0], found[-1][0] + 1)]
    with open_buffer(tmp_path) as buffer:
        assert buffer.append(example(0), 1) in {found[-1][0] + 1, found[-1][0] + 2}


def test_readers_see_one_moment_while_two_sensors_append(
    tmp_path: Path, sensors: list[subprocess.Popen[str]]
) -> None:
    both = [start(sensors, tmp_path, 1000) for _ in range(2)]
    for sensor in both:
        assert sensor.stdout
        assert sensor.stdout.readline() == "going\n"
    seen: set[int] = set()
    newest = 0
    # Long enough for the oldest to have gone, however the machine shares its time among the three.
    while len(seen) < 20 or newest < 3000:
        assert [sensor.poll() for sensor in both] == [None, None]
        found = held(tmp_path)
        numbers = [number for number, _, _ in found]
        newest = numbers[-1]
        # All that the buffer holds, but for one of each sensor whose label may be on its way.
        first = max(newest - 997, 0)
        assert len(set(range(first, newest)) - set(numbers)) <= 2
        assert all(values[1] == 2 * values[0] for _, values, _ in found)
        seen.add(newest)
    (tmp_path / "stop").touch()
    appended = sum(int(sensor.communicate()[0]) for sensor in both)
    assert [sensor.returncode for sensor in both] == [0, 0]
    numbers = [number for number, _, _ in held(tmp_path)]
    assert numbers == list(range(appended - 1000, appended))


def test_threads_of_one_process_take_turns(tmp_path: Path) -> None:
    with open_buffer(tmp_path, capacity_examples=1000, **SHAPE) as buffer:
        threads = [
            threading.Thread(target=lambda: [buffer.append(example(7), 1) for _ in range(100)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [number for number, _, _ in held(tmp_path)] == list(range(400))


def test_a_full_disk_leaves_nothing_of_an_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_buffer(tmp_path, capacity_examples=10, **SHAPE) as buffer:
        buffer.append(example(0), 1)
        write = os.write
        monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
        with pytest.raises(BufferFolderError, match="free some space"):
            buffer.append(example(1), 1)
        monkeypatch.undo()
        assert buffer.append(example(2), 1) == 1
    assert held(tmp_path) == [(0, [0, 0], 1), (1, [2, 4], 1)]


@QUICK
@given(
    segment=st.binary(max_size=120),
    layout=st.none()
    | st.binary(max_size=60)
    | st.sampled_from([b'{"shape":[1],"dtype":"uint8"}', b"{}", b"[]"]),
)
def test_whatever_a_buffer_holds_it_is_read_or_named(
    tmp_path: Path, segment: bytes, layout: bytes | None
) -> None:
    folder = tmp_path / "b"
    open_buffer(folder, capacity_examples=9, **SHAPE).close()
    kept = (folder / LAYOUT_FILE).read_bytes()
    (folder / f"{0:012}-{0:012}.seg").write_bytes(segment)
    if layout is not None:
        (folder / LAYOUT_FILE).write_bytes(layout)
    bounded(lambda: read(folder))
    bounded(lambda: open_buffer(folder).close())
    (folder / LAYOUT_FILE).write_bytes(kept)


def damaged(folder: Path, place: int, byte: int) -> None:
    path = min(folder.glob("*.seg"))
    data = bytearray(path.read_bytes())
    data[place % len(data)] ^= byte
    path.write_bytes(data)


@QUICK
@given(place=st.integers(0, 500), byte=st.integers(1, 255))
def test_one_wrong_byte_costs_what_follows_in_its_segment_and_no_more(
    tmp_path: Path, place: int, byte: int
) -> None:
    folder = tmp_path / f"{place}-{byte}"
    with open_buffer(folder, capacity_examples=64, **SHAPE) as buffer:
        for n in range(24):
            buffer.append(example(n), 1)
    damaged(folder, place, byte)
    found = held(folder)
    assert found == [(n, [n, 2 * n], 1) for n, _, _ in found]
    assert {n for n, _, _ in found} >= set(range(8, 24))


def test_the_source_trains_on_labelled_ones_and_says_what_is_wrong(tmp_path: Path) -> None:
    folder = tmp_path / "b"
    with pytest.raises(BufferFolderError, match="not there"):
        open_source(DataSettings(kind="buffer"), folder).version()
    with open_buffer(folder, capacity_examples=20, **SHAPE) as buffer:
        for n in range(6):
            buffer.append(example(n), n if n < 4 else None)
        with pytest.raises(TooFewExamplesError):
            read(folder)
        assert read(folder, min_examples=4).y.tolist() == [0, 1, 2, 3]
        buffer.label(5, 9)
        with pytest.raises(LabelRangeError):
            read(folder)
        buffer.label(5, 6)
    assert read(folder).x.tolist() == [[n, 2 * n] for n in (0, 1, 2, 3, 5)]
    with pytest.raises(DataTooLargeError):
        read(folder, most_bytes=100)
    other = Wanted(InputDescription((3,), "int32", 0, 9), LABELS)
    with pytest.raises(ExampleShapeError):
        open_source(DataSettings(kind="buffer"), folder).examples(other)
    assert issubclass(BufferFolderError, DataError)


def test_the_worker_reads_again_only_when_the_buffer_changed(tmp_path: Path) -> None:
    shards, table = Shards(), DataSettings(kind="buffer", min_examples=1)
    with open_buffer(tmp_path, capacity_examples=20, **SHAPE) as buffer:
        buffer.append(example(0), 1)
        first = shards.read(table, tmp_path, Wanted(ABOUT, LABELS))
        assert shards.read(table, tmp_path, Wanted(ABOUT, LABELS)) is first
        version = buffer_version(tmp_path)
        buffer.append(example(1))
        assert buffer_version(tmp_path) != version
        assert shards.read(table, tmp_path, Wanted(ABOUT, LABELS)) is not first


@given(first=st.integers(0, 10_000), count=st.integers(5, 300), later=st.integers(0, 40))
def test_an_example_keeps_its_side_while_others_come_and_go(first: int, count: int, later: int) -> None:
    before = np.arange(first, first + count, dtype=np.uint64)
    aside = aside_by_number(before)
    assert 0 < aside.sum() < count
    after = aside_by_number(before + np.uint64(later))
    kept = min(later, count)
    # One of each side may have been pressed into it, where the buffer holds few.
    assert np.count_nonzero(aside[kept:] != after[: count - kept]) <= 2


def test_a_fifth_is_held_out_whatever_the_rhythm() -> None:
    numbers = np.arange(100_000, dtype=np.uint64)
    for step in (1, 2, 5, 7, 1024):
        assert abs(aside_by_number(numbers * np.uint64(step)).mean() - 0.2) < 0.01


def test_records_are_as_the_page_of_the_layout_says(tmp_path: Path) -> None:
    import struct  # noqa: PLC0415
    import zlib  # noqa: PLC0415

    with open_buffer(tmp_path, capacity_examples=9, **SHAPE) as buffer:
        buffer.append(example(3))
        buffer.label(0, -2)
    (segment,) = tmp_path.glob("*.seg")
    one = struct.pack("<cQBq2i", b"E", 0, 0, 0, 3, 6)
    two = struct.pack("<cQBq", b"L", 0, 1, -2)
    expected = b"".join(part + struct.pack("<I", zlib.crc32(part)) for part in (one, two))
    assert segment.read_bytes() == expected
    assert segment.name == "000000000000-000000000000.seg"
    assert (buffer.layout.record_bytes(EXAMPLE), buffer.layout.record_bytes(LABEL)) == (30, 22)
