"""Sources of a device's examples: what they give, what they refuse by which name, what memory they take."""

import gzip
import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import convert

from edge_parts import DEMO_DATA, TASK_BYTES, TASK_REF
from shoal_codecs.wire.task import InputDescription, TargetDescription, decode_task
from shoal_edge.data import Examples
from shoal_edge.errors import WorkerRefusedError
from shoal_edge.sources.errors import DamagedDataError, DataSettingsError, DataTooLargeError
from shoal_edge.sources.registry import divide, open_source
from shoal_edge.sources.rows import Growing
from shoal_edge.sources.settings import DataSettings, unpack_data
from shoal_edge.sources.source import Wanted
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.errors import (
    DataError,
    ExampleRangeError,
    ExampleShapeError,
    ExampleTypeError,
    LabelRangeError,
    MissingLabelsError,
    TooFewExamplesError,
    UnreadableDataError,
)
from shoal_edge.trainers.litert import LiteRtTrainer
from shoal_edge.worker_client import WorkerClient
from source_parts import QUICK, bounded

LABELS = ("still", "rising", "falling")


def about(*shape: int, dtype: Any = "float32", low: float = -100, high: float = 100) -> InputDescription:
    return InputDescription(shape, dtype, low, high)


def read(place: Path, wanted: Wanted, **options: Any) -> Examples:
    source = open_source(DataSettings(**options), place)
    assert source.version() == source.version()
    return source.examples(wanted)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# --- tables ---------------------------------------------------------------------------------------

TABLE = "time,a,b,state\n" + "".join(f"{n},{n / 4},{-n},{LABELS[n % 3]}\n" for n in range(10))
COLUMNS: dict[str, Any] = {"kind": "csv", "label_column": "state", "columns": ("b", "a")}


def test_a_table_gives_its_columns_in_the_order_asked_for(tmp_path: Path) -> None:
    found = read(write(tmp_path / "t.csv", TABLE), Wanted(about(2), LABELS), **COLUMNS)
    assert found.x.tolist() == [[-n, n / 4] for n in range(10)]
    assert found.y.tolist() == [n % 3 for n in range(10)]
    assert (found.x.dtype.name, found.y.dtype.name) == ("float32", "int32")


def test_a_table_without_named_columns_gives_all_others(tmp_path: Path) -> None:
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"\xef\xbb\xbf" + TABLE.encode()))
    found = read(tmp_path / "t.csv.gz", Wanted(about(3), LABELS), kind="csv", label_column="state")
    assert found.x[4].tolist() == [4, 1, -4]


def test_labels_are_mapped_and_integers_are_cast_only_if_whole(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "v,l\n" + "1,up\n2,down\n3,up\n" * 2)
    wanted = Wanted(about(1, dtype="uint8", high=255), LABELS)
    mapped = {"up": "rising", "down": "2"}
    found = read(table, wanted, kind="csv", label_column="l", labels=mapped)
    assert (found.x.dtype.name, found.x[:, 0].tolist()) == ("uint8", [1, 2, 3, 1, 2, 3])
    assert found.y.tolist() == [1, 2, 1] * 2
    with pytest.raises(DataSettingsError, match="'sideways'"):
        read(table, wanted, kind="csv", label_column="l", labels={"up": "sideways"})
    write(table, "v,l\n" + "1.5,up\n" * 6)
    with pytest.raises(ExampleTypeError, match="6 values are no whole numbers"):
        read(table, wanted, kind="csv", label_column="l", labels=mapped)
    scaled = read(table, wanted, kind="csv", label_column="l", labels=mapped, scale=10, offset=-5)
    assert np.asarray(scaled.x).tolist() == [[10]] * 6


def test_values_to_be_predicted_come_from_their_columns(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", TABLE)
    wanted = Wanted(about(1), (), TargetDescription("values", (2,)))
    found = read(table, wanted, kind="csv", target_columns=("b", "time"), columns=("a",))
    assert found.y.dtype == np.float32
    assert found.y.tolist() == [[-n, n] for n in range(10)]
    with pytest.raises(MissingLabelsError, match="target_columns"):
        read(table, wanted, kind="csv", target_columns=("b",), columns=("a",))
    with pytest.raises(ExampleTypeError, match="label_column"):
        read(table, Wanted(about(1), LABELS), kind="csv", target_columns=("b",), columns=("a",))
    write(table, "a,b\n" + "1,1e60\n" * 5)
    with pytest.raises(ExampleRangeError, match="targets"):
        read(
            table, Wanted(about(1), (), TargetDescription("values", (1,))), kind="csv", target_columns=("b",)
        )


def test_windows_of_a_series_never_span_two_recordings_nor_training_and_test(tmp_path: Path) -> None:
    lines = [f"{run},{step},{LABELS[run]}" for run in range(3) for step in range(20)]
    table = write(tmp_path / "t.csv", "run,v,state\n" + "\n".join(lines) + "\n")
    options: dict[str, Any] = {"kind": "csv", "label_column": "state", "group_column": "run"}
    found = read(table, Wanted(about(4, 1), LABELS), window=4, stride=2, **options)
    windows = np.asarray(found.x)[:, :, 0]
    assert (np.diff(windows, axis=1) == 1).all()
    # Nine windows a recording, less the one that reaches into the held-out ones.
    assert len(found) == 3 * 9 - 1
    train, held_out = divide(found, 0.2)
    assert len(held_out) == 5
    assert set(held_out.y.tolist()) == {2}
    assert not steps_of(train) & steps_of(held_out)


def steps_of(examples: Examples) -> set[tuple[int, float]]:
    """Which steps of which recording, told apart by their labels, are in any window."""
    rows = zip(np.asarray(examples.x)[:, :, 0], examples.y.tolist(), strict=True)
    return {(label, step) for row, label in rows for step in row.tolist()}


def test_mixed_windows_are_left_out_where_the_whole_has_to_have_one_label(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", "v,l\n" + "".join(f"{n},{LABELS[n // 6]}\n" for n in range(18)))
    options: dict[str, Any] = {"kind": "csv", "label_column": "l", "window": 4, "reshape": True}
    last = read(table, Wanted(about(4), LABELS), min_examples=1, **options)
    assert (np.asarray(last.x)[:, 0].tolist(), last.y.tolist()) == ([0, 4, 8, 12], [0, 1, 1, 2])
    whole = read(table, Wanted(about(4), LABELS), min_examples=1, window_label="whole", **options)
    assert (np.asarray(whole.x)[:, 0].tolist(), whole.y.tolist()) == ([0, 8, 12], [0, 1, 2])


BAD_TABLES: list[tuple[type[DataError], str, dict[str, Any]]] = [
    (DataSettingsError, TABLE, {"label_column": ""}),
    (DataSettingsError, TABLE, {"target_columns": ("a",)}),
    (DataSettingsError, TABLE, {"label_column": "mood"}),
    (DataSettingsError, TABLE, {"columns": ("a", "c")}),
    (ExampleShapeError, TABLE, {"columns": ("a",)}),
    (LabelRangeError, TABLE.replace("rising", "sinking"), {}),
    (MissingLabelsError, TABLE.replace("rising", " "), {}),
    (ExampleTypeError, TABLE.replace("-7", "seven"), {}),
    (ExampleRangeError, TABLE.replace("-7", "-700"), {}),
    (ExampleRangeError, TABLE.replace("-7", "nan"), {}),
    (DamagedDataError, TABLE.replace("-7", "-7,8"), {}),
    (DamagedDataError, TABLE.replace("-7", '"-7'), {}),
    (DamagedDataError, "", {}),
    (DamagedDataError, "a,a,state\n", {}),
    (DamagedDataError, "a" * (2 << 20), {}),
    (TooFewExamplesError, "a,b,state\n", {}),
    (TooFewExamplesError, TABLE, {"min_examples": 11}),
    (DataTooLargeError, TABLE, {"most_bytes": 79}),
]


@pytest.mark.parametrize(("error", "text", "options"), BAD_TABLES)
def test_each_fault_of_a_table_has_its_name_and_quotes_no_cell(
    tmp_path: Path, error: type[DataError], text: str, options: dict[str, Any]
) -> None:
    with pytest.raises(error) as caught:
        read(write(tmp_path / "t.csv", text), Wanted(about(2), LABELS), **(COLUMNS | options))
    assert not any(word in str(caught.value) for word in ("sinking", "seven", "700"))


@pytest.mark.parametrize("column", ["state", "group"])
def test_the_words_of_a_table_take_no_more_memory_than_its_numbers_may(tmp_path: Path, column: str) -> None:
    names = [f"{number:0500}" for number in range(400)]
    lines = (f"1,{name if column == 'state' else 'x'},{name if column == 'group' else 'x'}" for name in names)
    table = write(tmp_path / "t.csv", "a,state,group\n" + "\n".join(lines) + "\n")
    options: dict[str, Any] = {"label_column": "state", "group_column": "group", "labels": {"x": "0"}}
    with pytest.raises(DataTooLargeError):
        read(table, Wanted(about(1), LABELS), kind="csv", most_bytes=100_000, **options)


def test_where_a_table_is_wrong_is_noted_for_its_owner(tmp_path: Path) -> None:
    for text in (
        TABLE.replace("-7", "seven"),
        TABLE.replace("-7", "-7,8"),
        TABLE.replace("-7,rising", "-7, "),
    ):
        with pytest.raises(DataError) as caught:
            read(write(tmp_path / "t.csv", text), Wanted(about(2), LABELS), **COLUMNS)
        assert caught.value.__notes__ == ["line 9"]
        assert "9" not in str(caught.value).replace(str(tmp_path), "")


def test_what_comes_in_parts_is_in_memory_once() -> None:
    part = np.ones((1000, 100), np.float32)
    tracemalloc.start()
    try:
        whole = Growing((100,), np.float32)
        for _ in range(100):
            whole.add(part)
        assert whole.nbytes == 100 * part.nbytes
        found = whole.done()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.shape, found.sum()) == ((100_000, 100), 1e7)
    assert peak < 1.2 * found.nbytes


@QUICK
@given(
    text=st.binary(max_size=300) | st.text("a,b\n\r\"1.;'_-e\0", max_size=200).map(str.encode),
    window=st.integers(0, 3),
)
def test_whatever_a_table_holds_it_is_read_or_named(tmp_path: Path, text: bytes, window: int) -> None:
    (tmp_path / "t.csv").write_bytes(text)
    options: dict[str, Any] = {"kind": "csv", "label_column": "b", "window": window}
    bounded(lambda: read(tmp_path / "t.csv", Wanted(about(1), ("1",)), **options))


# --- text -----------------------------------------------------------------------------------------

LETTERS = tuple("abcdefghij ")


def tokens(length: int, size: int = len(LETTERS)) -> InputDescription:
    return about(length, dtype="int32", low=0, high=size - 1)


def test_a_text_gives_windows_and_the_character_after_each(tmp_path: Path) -> None:
    text = write(tmp_path / "t.txt", "abcdefghij " * 4)
    found = read(text, Wanted(tokens(3), LETTERS), kind="text", stride=1)
    assert found.x.dtype == np.int32
    for row, label in zip(np.asarray(found.x), found.y, strict=True):
        assert [(row[0] + step) % 11 for step in range(4)] == [*row, label]
    _, held_out = divide(found, 0.2)
    assert len(held_out) == round(0.2 * (44 - 3))
    assert len(found) == 44 - 3 - 3


def test_characters_outside_the_vocabulary_are_left_out_or_stand_for_unknown(tmp_path: Path) -> None:
    text = write(tmp_path / "t.txt", "ABC?DEF" * 4)
    wanted = Wanted(tokens(2), LETTERS)
    left = read(text, wanted, kind="text", lower=True, stride=1, min_examples=1)
    assert {tuple(row) for row in np.asarray(left.x).tolist()} <= {(0, 1), (3, 4), (4, 5), (5, 0)}
    known = read(text, wanted, kind="text", lower=True, stride=1, unknown=" ")
    assert (2, 10) in {tuple(row) for row in np.asarray(known.x).tolist()}
    with pytest.raises(DataSettingsError, match="no label"):
        read(text, wanted, kind="text", unknown="z")


def test_words_are_tokens_too(tmp_path: Path) -> None:
    text = write(tmp_path / "t.txt", "The sea, the sea. " * 6)
    words = ("the", "sea", ",", ".")
    found = read(text, Wanted(tokens(5, 4), words), kind="text", tokens="words", lower=True)
    assert np.asarray(found.x)[0].tolist() == [0, 1, 2, 0, 1]
    assert found.y[0] == 3


def test_a_text_that_cannot_be_the_tasks_is_named(tmp_path: Path) -> None:
    text = write(tmp_path / "t.txt", "abc" * 20)
    with pytest.raises(DataSettingsError, match="token ids"):
        read(text, Wanted(about(3), LETTERS), kind="text")
    with pytest.raises(TooFewExamplesError):
        read(text, Wanted(tokens(80), LETTERS), kind="text")
    with pytest.raises(DataTooLargeError):
        read(text, Wanted(tokens(3), LETTERS), kind="text", most_bytes=200)
    text.write_bytes(b"abc\xff" * 20)
    with pytest.raises(DamagedDataError):
        read(text, Wanted(tokens(3), LETTERS), kind="text")


@QUICK
@given(data=st.binary(max_size=200) | st.text(max_size=60).map(str.encode), words=st.booleans())
def test_whatever_a_text_holds_it_is_read_or_named(tmp_path: Path, data: bytes, *, words: bool) -> None:
    (tmp_path / "t.txt").write_bytes(data)
    kind = "words" if words else "characters"
    bounded(lambda: read(tmp_path / "t.txt", Wanted(tokens(2), LETTERS), kind="text", tokens=kind, stride=1))


# --- conversions ----------------------------------------------------------------------------------


def archive(path: Path, x: npt.NDArray[Any], y: npt.NDArray[Any]) -> Path:
    np.savez(path, x=x, y=y)
    return path


IMAGES = np.arange(6 * 9, dtype=np.uint8).reshape(6, 3, 3)
NUMBERS = np.arange(6) % 3


def test_nothing_is_converted_that_is_not_asked_for(tmp_path: Path) -> None:
    npz = archive(tmp_path / "e.npz", IMAGES, NUMBERS)
    with pytest.raises(ExampleShapeError, match="`reshape`"):
        read(npz, Wanted(about(9, dtype="uint8"), LABELS))
    with pytest.raises(ExampleTypeError, match="`cast`, or `scale`"):
        read(npz, Wanted(about(3, 3), LABELS))
    with pytest.raises(ExampleShapeError):
        read(npz, Wanted(about(8, dtype="uint8"), LABELS), reshape=True)
    found = read(npz, Wanted(about(9), LABELS), reshape=True, scale=0.5, offset=-1)
    assert np.allclose(np.asarray(found.x), IMAGES.reshape(6, 9) * 0.5 - 1)
    assert found.x[np.array([4, 1])].dtype == np.float32
    cast = read(npz, Wanted(about(3, 3, dtype="int32"), LABELS), cast=True)
    assert np.array_equal(cast.x[2:4], IMAGES[2:4].astype(np.int32))


def test_a_conversion_that_leaves_the_tasks_range_or_type_is_named(tmp_path: Path) -> None:
    npz = archive(tmp_path / "e.npz", IMAGES, NUMBERS)
    with pytest.raises(ExampleRangeError):
        read(npz, Wanted(about(3, 3, high=1), LABELS), scale=0.5)
    with pytest.raises(ExampleTypeError, match="whole numbers"):
        read(npz, Wanted(about(3, 3, dtype="int32"), LABELS), cast=True, scale=0.3)
    archive(npz, IMAGES.astype(np.int64) - 1, NUMBERS)
    with pytest.raises(ExampleTypeError, match="1 values"):
        read(npz, Wanted(about(3, 3, dtype="uint8"), LABELS), cast=True)


def test_integer_labels_are_mapped_as_their_decimals(tmp_path: Path) -> None:
    npz = archive(tmp_path / "e.npz", IMAGES, NUMBERS + 7)
    found = read(
        npz, Wanted(about(3, 3, dtype="uint8"), LABELS), labels={"7": "rising", "8": "still", "9": "still"}
    )
    assert found.y.tolist() == [1, 0, 0] * 2
    with pytest.raises(LabelRangeError, match=r"example \d+, counted.*\[data.labels\]"):
        read(npz, Wanted(about(3, 3, dtype="uint8"), LABELS), labels={"7": "rising"})


@pytest.mark.parametrize(
    ("x", "y"), [(IMAGES[0, 0, 0], NUMBERS), (IMAGES, NUMBERS[0]), (IMAGES, NUMBERS[:5])]
)
def test_examples_without_a_label_each_are_named(tmp_path: Path, x: Any, y: Any) -> None:
    with pytest.raises(MissingLabelsError):
        read(archive(tmp_path / "e.npz", x, y), Wanted(about(3, 3, dtype="uint8"), LABELS))


def test_sixty_thousand_images_stay_bytes_until_a_batch_asks(tmp_path: Path) -> None:
    x = np.zeros((60_000, 28, 28), np.uint8)
    header = bytes.fromhex("00000803 0000ea60 0000001c 0000001c")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + x.tobytes())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(bytes.fromhex("00000801 0000ea60") + bytes(60_000))
    tracemalloc.start()
    try:
        found = read(tmp_path, Wanted(about(784, low=0, high=1), ("0", "1")), kind="mnist", scale=1 / 255)
        train, held_out = divide(found, 0.2)
        batch = train.x[np.arange(100)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (batch.shape, batch.dtype.name) == ((100, 784), "float32")
    assert (len(train), len(held_out)) == (48_000, 12_000)
    assert peak < 1.5 * x.nbytes


def test_settings_reach_the_worker_as_they_are() -> None:
    table = DataSettings(kind="csv", path="x.csv", labels={"a": "b"}, columns=("p", "q"), scale=0.5)
    assert unpack_data(table.packed) == table
    assert unpack_data(b"") == DataSettings()


def test_an_archive_that_claims_more_than_it_may_is_not_given_memory(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": "|u1", "fortran_order": False, "shape": (1 << 40, 3, 3)}
    )
    with zipfile.ZipFile(tmp_path / "e.npz", "w") as lying:
        lying.writestr("x.npy", head.getvalue())
        lying.writestr("y.npy", head.getvalue())
    with pytest.raises(DataTooLargeError):
        read(tmp_path / "e.npz", Wanted(about(3, 3, dtype="uint8"), LABELS))


@QUICK
@given(place=st.integers(0, 2000), byte=st.integers(0, 255))
def test_an_archive_with_one_wrong_byte_is_read_or_named(tmp_path: Path, place: int, byte: int) -> None:
    data = bytearray(archive(tmp_path / "e.npz", IMAGES, NUMBERS).read_bytes())
    data[place % len(data)] = byte
    (tmp_path / "e.npz").write_bytes(data)
    bounded(lambda: read(tmp_path / "e.npz", Wanted(about(3, 3, dtype="uint8"), LABELS)))


@pytest.mark.parametrize("kind", ["npz", "csv", "mnist", "cifar10", "text"])
def test_a_place_that_is_not_there_has_a_name_and_a_remedy(tmp_path: Path, kind: Any) -> None:
    source = open_source(DataSettings(kind=kind, label_column="l"), tmp_path / "nowhere")
    for look in (source.version, lambda: source.examples(Wanted(tokens(3), LETTERS))):
        with pytest.raises(UnreadableDataError, match=r"check|put|unpack"):
            look()


@pytest.mark.parametrize(("name", "kind"), [("gru_next_character", "characters"), ("gru_next_word", "words")])
def test_a_text_feeds_the_tasks_that_are_shipped(tmp_path: Path, name: str, kind: str) -> None:
    shipped = Path(__file__).parents[2] / "coordinator" / "shoal_coordinator" / "tasks" / f"{name}.task"
    bundle = decode_task(shipped.read_bytes())
    text = write(
        tmp_path / "t.txt", "To be, or not to be, that is the question:\nwhether 'tis nobler to suffer. " * 9
    )
    unknown = "<unknown>" if kind == "words" else ""
    options: dict[str, Any] = {"kind": "text", "tokens": kind, "lower": kind == "words", "unknown": unknown}
    train, held_out = divide(read(text, Wanted.by(bundle), stride=4, **options), 0.2)
    trainer = LiteRtTrainer(bundle)
    before = trainer.evaluate(held_out.x, held_out.y)
    assert before.examples == len(held_out) > 0
    trainer.fit(
        train.x, train.y, FitOptions(epochs=2, learning_rate=0.5, batch_size=16), np.random.default_rng(0)
    )
    assert trainer.evaluate(held_out.x, held_out.y).mean_loss < before.mean_loss


async def test_a_worker_names_what_is_wrong_with_any_source(tmp_path: Path) -> None:
    about = {"task": TASK_REF.digest, "task_path": str(tmp_path / "task")}
    (tmp_path / "task").write_bytes(TASK_BYTES)
    (tmp_path / "bad").write_bytes(b"a,b\n1\n")
    (tmp_path / "labels" / "7").mkdir(parents=True)
    faults = {
        "csv": "DamagedDataError",
        "text": "DataSettingsError",
        "mnist": "UnreadableDataError",
        "cifar10": "UnreadableDataError",
        "buffer": "BufferFolderError",
    }
    worker = WorkerClient(idle_s=5)
    try:
        for kind, fault in faults.items():
            place = tmp_path / ("bad" if kind in {"csv", "text"} else "labels")
            table = convert({"kind": kind, "label_column": "b"}, DataSettings)
            with pytest.raises(WorkerRefusedError) as caught:
                await worker.request("prepare", 60, data_path=str(place), data=table.packed, **about)
            assert caught.value.fault == fault
        with np.load(DEMO_DATA / "digits.npz") as digits:
            archive(tmp_path / "e.npz", digits["x"][:50].astype(np.float32) / 16, digits["y"][:50])
        scaled = DataSettings(scale=16, cast=True)
        ready = await worker.request(
            "prepare", 60, data_path=str(tmp_path / "e.npz"), data=scaled.packed, **about
        )
        assert (ready["examples"], ready["held_out"]) == (40, 10)
    finally:
        await worker.close()
