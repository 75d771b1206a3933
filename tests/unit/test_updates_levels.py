"""Coded levels: what goes in comes out, in few bytes, and foreign bytes do no harm."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal_codecs.updates import levels
from shoal_codecs.updates.errors import PayloadContentError, PayloadLengthError, UpdateError, VectorShapeError
from shoal_codecs.updates.levels import LevelCoding, Levels, pack_levels, unpack_levels

QUICK = settings(deadline=None, max_examples=150)
VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "updates.json").read_text(encoding="utf-8"))
PEAK = 2**31 - 1
ANY = hnp.arrays(
    np.int32,
    st.integers(1, 300),
    elements=st.just(0) | st.integers(-3, 3) | st.integers(-1270, 1270) | st.integers(-PEAK - 1, PEAK),
)


def entropy_bytes(q: Levels) -> float:
    """Return Shannon's bound for levels drawn one by one."""
    _, counts = np.unique(q, return_counts=True)
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) * q.size / 8


@QUICK
@given(ANY)
@example(np.zeros(1, np.int32))
@example(np.array([-(2**31)], np.int32))
@example(np.array([127, -128, 128, 0], np.int32))
def test_levels_round_trip(q: Levels) -> None:
    payload = pack_levels(q)
    back = unpack_levels(payload, q.size)
    assert back.dtype == np.int32
    assert back.tolist() == q.tolist()
    assert len(payload) <= 2 + 4 * q.size


@QUICK
@given(
    hnp.arrays(np.int32, st.integers(1, 300), elements=st.integers(-5, 5) | st.just(64)), st.integers(1, 90)
)
def test_planes_round_trip_over_any_block_size(q: Levels, block: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(levels, "PLANE_BLOCK", block)
        payload = levels._planes(q)
        assert unpack_levels(payload, q.size).tolist() == q.tolist()


@QUICK
@given(hnp.arrays(np.int32, st.integers(1, 300), elements=st.integers(-PEAK - 1, PEAK)))
def test_huffman_codes_round_trip_whatever_the_level(q: Levels) -> None:
    folded = (q.astype(np.int64) << 1) ^ (q.astype(np.int64) >> 63)
    payload = levels._huffman(folded.astype(np.uint32))
    assert unpack_levels(payload, q.size).tolist() == q.tolist()


@pytest.mark.parametrize("vector", VECTORS["levels"], ids=lambda v: str(v["coding"]))
def test_levels_are_the_committed_bytes(vector: dict[str, str | list[int]]) -> None:
    q, payload = np.array(vector["q"], dtype=np.int32), bytes.fromhex(str(vector["payload"]))
    assert LevelCoding(payload[0]).name.lower() == vector["coding"]
    assert unpack_levels(payload, q.size).tolist() == q.tolist()
    if payload[0] != LevelCoding.HUFFMAN:  # which libraries may write in other, as good bytes
        assert pack_levels(q) == payload


@pytest.mark.parametrize(("spread", "excess", "coding"), [(1.0, 1.04, "PLANES"), (4.0, 1.02, "HUFFMAN")])
def test_a_large_step_takes_hardly_more_than_its_entropy(spread: float, excess: float, coding: str) -> None:
    q = np.rint(np.random.default_rng(0).laplace(scale=spread, size=200_000)).astype(np.int32)
    payload = pack_levels(q)
    assert payload[0] == LevelCoding[coding]
    assert len(payload) <= excess * entropy_bytes(q)


def test_a_sparse_step_pays_for_its_coordinates_only() -> None:
    rng = np.random.default_rng(0)
    q = np.zeros(1_000_000, np.int32)
    q[rng.choice(q.size, 10_000, replace=False)] = np.rint(rng.normal(scale=2, size=10_000)) + 10
    assert len(pack_levels(q)) <= 1.12 * entropy_bytes(q)


@QUICK
@given(st.binary(max_size=80), st.integers(1, 40), st.sampled_from([*LevelCoding]))
def test_foreign_bytes_are_levels_or_refused(data: bytes, count: int, coding: LevelCoding) -> None:
    for payload in (data, bytes((coding, 0)) + data):
        try:
            q = unpack_levels(payload, count)
        except UpdateError:
            continue
        assert q.shape == (count,)


def test_a_bomb_is_not_unpacked() -> None:
    bomb = levels._huffman(np.zeros(50_000_000, np.uint32))
    with pytest.raises(PayloadLengthError, match="exactly 1000"):
        unpack_levels(bomb, 1000)


def test_bad_levels_are_named() -> None:
    q = np.array([1, 0, -2, 0, 0, 3], dtype=np.int32)
    planes = levels._planes(q)
    with pytest.raises(VectorShapeError):
        pack_levels(q.astype(np.int64))
    with pytest.raises(VectorShapeError):
        pack_levels(q[:0])
    for cut in range(len(planes)):
        with pytest.raises(UpdateError):
            unpack_levels(planes[:cut], 6)
    with pytest.raises(PayloadLengthError, match="follow"):
        unpack_levels(planes + b"\0", 6)
    with pytest.raises(PayloadContentError, match="more levels"):
        unpack_levels(planes, 2)
    with pytest.raises(PayloadContentError, match="coding"):
        unpack_levels(b"\x07\x00\x00", 6)
    with pytest.raises(PayloadContentError, match="bits"):
        unpack_levels(b"\x00\x21\x00", 6)
    with pytest.raises(PayloadContentError, match="damaged"):
        unpack_levels(b"\x02\x00\xff\xff\xff", 6)
