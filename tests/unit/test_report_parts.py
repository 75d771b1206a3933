from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_parts import make_fleet
from shoal_codecs.secagg.hub_errors import (
    PartBudgetError,
    PartConflictError,
    PartCountError,
    PartIndexError,
    PartSizeError,
    ReportPartError,
)
from shoal_codecs.secagg.report_parts import ReportAssembler, largest_report_bytes
from shoal_codecs.wire.framing import MAX_FRAME_BYTES, encode_message
from shoal_codecs.wire.report import Report, encode_report
from shoal_edge.reports import report_messages

REPORT_BYTES = 10_000


@pytest.fixture
def assembler() -> ReportAssembler:
    return ReportAssembler(REPORT_BYTES, gathered_bytes=3 * REPORT_BYTES)


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@given(data=st.binary(min_size=1, max_size=5000), size=st.integers(1024, 5000), order=st.randoms())
def test_parts_in_any_order_and_twice_give_the_report_once(data: bytes, size: int, order: object) -> None:
    assembler = ReportAssembler(REPORT_BYTES)
    parts = list(enumerate(cut(data, size)))
    sequence: Sequence[tuple[int, bytes]] = parts
    if len(parts) > 1:
        sequence = [*parts[:-1], *parts[:-1], parts[-1]]
        order.shuffle(sequence)  # type: ignore[attr-defined]
    whole = [assembler.add("a", index, len(parts), part) for index, part in sequence]
    assert [one for one in whole if one is not None] == [data]


def test_devices_do_not_mix(assembler: ReportAssembler) -> None:
    assert assembler.add("a", 0, 2, b"A") is None
    assert assembler.add("b", 1, 2, b"b") is None
    assert assembler.add("b", 0, 2, b"B") == b"Bb"
    assert assembler.add("a", 1, 2, b"a") == b"Aa"


def test_credit_counts_from_the_first_part_without_a_gap(assembler: ReportAssembler) -> None:
    counted = []
    for index in (0, 2, 1):
        assembler.add("a", index, 4, b"x")
        counted.append(assembler.credit("a"))
    assert counted == [1, 1, 3]
    assert assembler.credit("b") == 0


@pytest.mark.parametrize(
    ("index", "count", "data", "error"),
    [
        (2, 2, b"x", PartIndexError),
        (-1, 2, b"x", PartIndexError),
        (0, 0, b"x", PartCountError),
        (0, 11, b"x", PartCountError),
        (0, 1 << 62, b"x", PartCountError),
        (0, 2, b"", PartSizeError),
        (0, 1, bytes(REPORT_BYTES + 1), PartSizeError),
    ],
)
def test_parts_outside_the_limits_are_refused(
    assembler: ReportAssembler, index: int, count: int, data: bytes, error: type[ReportPartError]
) -> None:
    with pytest.raises(error):
        assembler.add("a", index, count, data)


def test_parts_that_add_up_to_too_much_are_forgotten(assembler: ReportAssembler) -> None:
    assembler.add("a", 0, 2, bytes(REPORT_BYTES))
    with pytest.raises(PartSizeError):
        assembler.add("a", 1, 2, b"x")
    assert assembler.credit("a") == 0


@pytest.mark.parametrize(("index", "count", "data"), [(0, 2, b"other"), (1, 3, b"x"), (0, 3, b"first")])
def test_a_contradiction_begins_anew(assembler: ReportAssembler, index: int, count: int, data: bytes) -> None:
    assembler.add("a", 0, 2, b"first")
    with pytest.raises(PartConflictError):
        assembler.add("a", index, count, data)
    assert assembler.add("a", 0, 2, b"first") is None
    assert assembler.add("a", 1, 2, b"second") == b"firstsecond"


def test_all_unfinished_reports_together_are_bounded(assembler: ReportAssembler) -> None:
    for device in "abc":
        assembler.add(device, 0, 2, bytes(REPORT_BYTES))
    with pytest.raises(PartBudgetError):
        assembler.add("d", 0, 2, b"x")
    assembler.forget("a")
    assert assembler.add("d", 0, 2, b"x") is None


@given(share=st.integers(0, 5000) | st.sampled_from([70_000]), hubs=st.integers(1, 12))
def test_the_largest_report_fits(share: int, hubs: int) -> None:
    report = Report(memoryview(bytes(share + 49)), tuple(bytes(32) for _ in range(hubs - 1)), bytes(64))
    assert len(encode_report(report)) <= largest_report_bytes(share, hubs)


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (65_537, 2), (1 << 20, 16), (2_000_000, 8), (20_000_000, 77)]
)
def test_a_device_cuts_long_reports_into_fewer_parts_and_loses_nothing(size: int, count: int) -> None:
    post = make_fleet(devices=1).post("device-01")
    data = bytes(size - 1) + b"\x01"
    parts = report_messages(post, 7, data)
    assert len(parts) == count
    assert [(part.index, part.count, part.round) for part in parts] == [(i, count, 7) for i in range(count)]
    assert b"".join(part.data for part in parts) == data
    # Whole frames stay far below what a broker and a receiver take.
    assert all(len(encode_message(part)) < MAX_FRAME_BYTES // 4 for part in parts)


def test_a_part_keeps_no_frame_much_larger_than_itself() -> None:
    assembler = ReportAssembler(REPORT_BYTES)
    frame = memoryview(bytes(1 << 20))
    assembler.add("a", 0, 2, frame[:10])
    (small,) = assembler._gathered["a"].parts.values()
    assert isinstance(small, bytes)
    whole = memoryview(bytes(100))
    assembler.add("b", 0, 2, whole[:90])
    (most,) = assembler._gathered["b"].parts.values()
    assert isinstance(most, memoryview)
    assert most.obj is whole.obj
