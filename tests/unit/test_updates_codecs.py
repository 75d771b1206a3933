"""The codecs for updates sent in clear."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from shoal_codecs.updates.base import EncodeContext, Float32Vector, kept_for, to_dense
from shoal_codecs.updates.coordinates import rand_coordinates
from shoal_codecs.updates.errors import (
    CodecContextError,
    NonFiniteUpdateError,
    PayloadContentError,
    PayloadLengthError,
    UnknownCodecError,
    UpdateError,
    VectorShapeError,
)
from shoal_codecs.updates.registry import CODECS, codec
from shoal_codecs.updates.rounding import Dither

QUICK = settings(deadline=None, max_examples=100)
NAMES = sorted(CODECS)
VECTORS_FILE = json.loads((Path(__file__).parents[1] / "vectors" / "updates.json").read_text("utf-8"))
SEED = bytes(range(32))

VECTORS = hnp.arrays(np.float32, st.integers(1, 80), elements=st.floats(-(2.0**100), 2.0**100, width=32))


def context_for(vector: Float32Vector, fraction: float = 0.3, block: int = 8) -> EncodeContext:
    return EncodeContext(
        vector.size,
        kept_for(vector.size, fraction),
        seed=SEED,
        block=block,
        rng=np.random.default_rng(1),
    )


def block_steps(values: Float32Vector, block: int, peak: int = 127) -> Float32Vector:
    """One quantiser level of each value's block, with room for rounding in float32."""
    peaks = [np.abs(values[at : at + block]).max() for at in range(0, values.size, block)]
    steps = np.repeat(np.array(peaks, dtype=np.float64), block)[: values.size] / peak
    return (steps * 1.001 + 1e-35).astype(np.float32)


@QUICK
@given(VECTORS)
def test_dense_round_trips_exactly(vector: Float32Vector) -> None:
    context = context_for(vector)
    encoded = codec("dense").encode(vector, context)
    assert len(encoded.payload) == 4 * vector.size
    assert np.array_equal(to_dense(codec("dense").decode(encoded.payload, context)), vector)


PEAKS = {"int8": 127, "randk": 127, "topk": 127, "int4": 7, "randk4": 7, "topk4": 7}


@pytest.mark.parametrize("name", ["int8", "int4"])
@QUICK
@given(VECTORS, st.integers(1, 20))
def test_levels_are_within_one_of_their_block(name: str, vector: Float32Vector, block: int) -> None:
    context = context_for(vector, block=block)
    encoded = codec(name).encode(vector, context)
    decoded = to_dense(codec(name).decode(encoded.payload, context))
    levels = vector.size if name == "int8" else (vector.size + 1) // 2
    assert len(encoded.payload) == levels + 4 * -(-vector.size // block)
    assert (np.abs(decoded - vector) <= block_steps(vector, block, PEAKS[name])).all()


@pytest.mark.parametrize("block", [3, 256, 40_001, 1 << 20])
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_vectors_of_many_pieces_keep_every_value_in_its_place(name: str, block: int) -> None:
    vector = np.random.default_rng(4).normal(size=100_003).astype(np.float32)
    context = context_for(vector, block=block)
    decoded = to_dense(codec(name).decode(codec(name).encode(vector, context).payload, context))
    assert (np.abs(decoded - vector) <= block_steps(vector, block, PEAKS[name])).all()


@pytest.mark.parametrize("given", VECTORS_FILE["payloads"], ids=lambda v: v["codec"])
def test_committed_payloads_still_decode(given: dict[str, Any]) -> None:
    context = EncodeContext(given["dimension"], given["kept"], seed=SEED, block=given["block"])
    decoded = to_dense(codec(given["codec"]).decode(bytes.fromhex(given["payload"]), context))
    assert decoded.tobytes().hex() == given["values"]


def test_the_layout_of_int4_is_the_documented_one() -> None:
    vector = np.array([7, -7, 3, 0, -1], dtype=np.float32)
    payload = codec("int4").encode(vector, context_for(vector)).payload
    assert np.frombuffer(payload[:4], "<f4")[0] == pytest.approx(1)
    # A level is four bits of two's complement, the earlier one lower.
    assert payload[4:].hex() == "97030f"
    with pytest.raises(PayloadContentError, match="nibble"):
        codec("int4").decode(payload[:-1] + b"\x1f", context_for(vector))
    with pytest.raises(PayloadContentError, match="levels"):
        codec("int4").decode(payload[:-1] + b"\x08", context_for(vector))


@pytest.mark.parametrize("name", ["randk", "randk4"])
@QUICK
@given(VECTORS, st.floats(0.01, 1.0), st.integers(1, 20))
def test_randk_keeps_the_seeds_coordinates_rescaled(
    name: str, vector: Float32Vector, fraction: float, block: int
) -> None:
    context = context_for(vector, fraction, block)
    payload = codec(name).encode(vector, context).payload
    decoded = to_dense(codec(name).decode(payload, context))
    chosen = rand_coordinates(SEED, vector.size, context.kept)
    rescaled = vector[chosen] * np.float32(vector.size / context.kept)
    assert (np.abs(decoded[chosen] - rescaled) <= block_steps(rescaled, block, PEAKS[name])).all()
    assert np.count_nonzero(np.delete(decoded, chosen)) == 0


@pytest.mark.parametrize("name", ["topk", "topk4"])
@QUICK
@given(VECTORS, st.floats(0.01, 1.0), st.integers(1, 20))
def test_topk_takes_the_largest_and_hands_back_the_rest(
    name: str, vector: Float32Vector, fraction: float, block: int
) -> None:
    context = context_for(vector, fraction, block)
    encoded = codec(name).encode(vector, context)
    decoded = to_dense(codec(name).decode(encoded.payload, context))
    assert encoded.residual is not None
    # Nothing is lost: what was sent and what was kept back are the update, to float32's rounding.
    assert np.allclose(decoded + encoded.residual, vector, rtol=1e-6, atol=1e-35)
    untouched = encoded.residual == vector
    smallest_sent = np.sort(np.abs(vector))[vector.size - context.kept]
    assert (np.abs(vector[untouched]) <= smallest_sent).all() or (decoded[untouched] == 0).all()
    assert np.count_nonzero(decoded) <= context.kept


@pytest.mark.parametrize("name", ["topk", "topk4"])
def test_error_feedback_delivers_everything_in_the_end(name: str) -> None:
    rng = np.random.default_rng(5)
    vector = rng.normal(size=400).astype(np.float32)
    context = context_for(vector, 0.1, 64)
    arrived = np.zeros(400, dtype=np.float64)
    for _ in range(200):
        encoded = codec(name).encode(vector, context)
        arrived += to_dense(codec(name).decode(encoded.payload, context))
        context = replace(context, residual=encoded.residual)
    assert np.abs(arrived / 200 - vector).max() < 0.1


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_levels_are_unbiased(name: str) -> None:
    rng = np.random.default_rng(9)
    vector = rng.normal(size=512).astype(np.float32)
    context = replace(context_for(vector, block=64), rng=rng)
    total = np.zeros(512)
    draws = 2000
    for _ in range(draws):
        payload = codec(name).encode(vector, context).payload
        total += to_dense(codec(name).decode(payload, context))
    # A rounding of one level has a standard deviation of at most half a level.
    errors = np.abs(total / draws - vector) / (block_steps(vector, 64, PEAKS[name]) * 0.5 / np.sqrt(draws))
    assert errors.max() < 6
    # Half of all values would stand out if the rounding were to nearest.
    assert errors.mean() < 1


@pytest.mark.parametrize("name", ["randk", "randk4"])
def test_randk_is_unbiased(name: str) -> None:
    rng = np.random.default_rng(13)
    vector = rng.normal(size=64).astype(np.float32)
    total = np.zeros(64)
    draws = 2000
    for _ in range(draws):
        context = EncodeContext(64, 16, seed=rng.bytes(32), rng=rng)
        payload = codec(name).encode(vector, context).payload
        total += to_dense(codec(name).decode(payload, context))
    # Deviation of x/p with probability p is |x| sqrt(1/p - 1); rounding adds far less.
    # A level of the largest value is at most 4 * 3 / peak.
    deviation = np.abs(vector) * np.sqrt(3) + 6 / PEAKS[name]
    assert (np.abs(total / draws - vector) < 6 * deviation / np.sqrt(draws)).all()


def test_topk_beats_fp32_by_the_factor_that_was_measured() -> None:
    vector = np.random.default_rng(2).normal(size=9610).astype(np.float32)
    context = EncodeContext(9610, kept_for(9610, 0.05), rng=np.random.default_rng(0))
    assert 4 * 9610 / len(codec("topk").encode(vector, context).payload) > 44


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_codec_takes_what_is_not_finite(name: str, bad: float) -> None:
    vector = np.ones(20, dtype=np.float32)
    vector[7] = bad
    with pytest.raises(NonFiniteUpdateError):
        codec(name).encode(vector, context_for(vector))


@pytest.mark.parametrize("name", sorted(PEAKS))
def test_numbers_too_large_for_a_scale_are_refused(name: str) -> None:
    vector = np.full(20, 3.4e38, dtype=np.float32)
    with pytest.raises(NonFiniteUpdateError):
        codec(name).encode(vector, context_for(vector))


def test_a_residual_that_overflows_is_refused() -> None:
    vector = np.full(20, 3e38, dtype=np.float32)
    with pytest.raises(NonFiniteUpdateError):
        codec("topk").encode(vector, replace(context_for(vector), residual=vector))


@pytest.mark.parametrize("name", NAMES)
def test_no_codec_takes_another_shape_or_dtype(name: str) -> None:
    context = context_for(np.ones(20, dtype=np.float32))
    wrong: tuple[npt.NDArray[Any], ...] = (
        np.ones(19, dtype=np.float32),
        np.ones((20, 1), dtype=np.float32),
        np.ones(20, dtype=np.float64),
    )
    for vector in wrong:
        with pytest.raises(VectorShapeError):
            codec(name).encode(vector, context)


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(data=st.binary(max_size=120))
def test_foreign_bytes_decode_to_finite_values_or_are_refused(name: str, data: bytes) -> None:
    context = EncodeContext(20, 6, seed=SEED, block=4)
    try:
        decoded = to_dense(codec(name).decode(data, context))
    except UpdateError:
        return
    assert decoded.shape == (20,)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("name", NAMES)
@QUICK
@given(data=st.data())
def test_damaged_payloads_decode_to_finite_values_or_are_refused(name: str, data: st.DataObject) -> None:
    vector = np.linspace(-3, 5, 50, dtype=np.float32)
    context = context_for(vector)
    payload = bytearray(codec(name).encode(vector, context).payload)
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        decoded = to_dense(codec(name).decode(payload, context))
    except UpdateError:
        return
    assert decoded.shape == (50,)
    assert np.isfinite(decoded).all()


@pytest.mark.parametrize("scale", [np.nan, np.inf, -1.0, 3e36])
def test_scales_no_encoder_writes_are_refused(scale: float) -> None:
    context = EncodeContext(3, 3)
    payload = np.array([scale], dtype="<f4").tobytes() + bytes((1, 2, 3))
    with pytest.raises(PayloadContentError, match="scale"):
        codec("int8").decode(payload, context)


def test_the_level_no_encoder_writes_is_refused() -> None:
    payload = np.array([1.0], dtype="<f4").tobytes() + bytes((1, 128, 3))
    with pytest.raises(PayloadContentError, match="-127 to 127"):
        codec("int8").decode(payload, EncodeContext(3, 3))


@pytest.mark.parametrize("name", NAMES)
def test_truncated_and_longer_payloads_are_refused(name: str) -> None:
    vector = np.linspace(-3, 5, 50, dtype=np.float32)
    context = context_for(vector)
    payload = codec(name).encode(vector, context).payload
    for bad in (payload[:-1], payload + b"\x00", b""):
        with pytest.raises((PayloadLengthError, PayloadContentError)):
            codec(name).decode(bad, context)


@pytest.mark.parametrize("name", NAMES)
def test_a_huge_dimension_allocates_nothing_before_the_length_is_checked(name: str) -> None:
    context = EncodeContext(2**31 - 1, 2**30, seed=SEED)
    with pytest.raises(PayloadLengthError):
        codec(name).decode(bytes(100), context)


@pytest.mark.parametrize("name", NAMES)
def test_payloads_are_read_from_any_buffer(name: str) -> None:
    vector = np.linspace(-3, 5, 50, dtype=np.float32)
    context = context_for(vector)
    payload = codec(name).encode(vector, context).payload
    expected = to_dense(codec(name).decode(payload, context))
    for buffer in (bytearray(payload), memoryview(payload)):
        assert np.array_equal(to_dense(codec(name).decode(buffer, context)), expected)


def test_an_unknown_codec_is_told_the_known_ones() -> None:
    with pytest.raises(UnknownCodecError, match="dense, int4, int8, randk, randk4, topk, topk4"):
        codec("zip")
    assert codec("topk").error_feedback


def test_a_context_that_makes_no_sense_is_refused() -> None:
    for dimension, kept, block in ((0, 1, 8), (2**31, 1, 8), (5, 0, 8), (5, 6, 8), (5, 5, 0)):
        with pytest.raises(CodecContextError):
            EncodeContext(dimension, kept, block=block)
    vector = np.ones(5, dtype=np.float32)
    with pytest.raises(CodecContextError):
        codec("int8").encode(vector, EncodeContext(5, 5))
    with pytest.raises(CodecContextError):
        codec("randk").encode(vector, EncodeContext(5, 2, rng=np.random.default_rng()))


def test_kept_is_rounded_and_never_zero() -> None:
    assert [kept_for(9610, f) for f in (0.05, 0.1, 1.0, 1e-9)] == [481, 961, 9610, 1]


def test_chance_is_that_of_the_fraction_and_never_for_none() -> None:
    dither = Dither(np.random.default_rng(3))
    draws = 4000
    fractions = np.linspace(0, 1, 1000, endpoint=False, dtype=np.float32).reshape(20, 50)
    counts = np.zeros((20, 50))
    for _ in range(draws):
        counts += dither.below(fractions)
    deviation = np.sqrt(fractions * (1 - fractions) / draws)
    assert (np.abs(counts / draws - fractions) <= 5 * deviation).all()
    assert counts[0, 0] == 0
    # Fresh at every call, and across what the cipher is asked for at once.
    assert (
        dither.below(np.full(200_000, 0.5, np.float32)) != dither.below(np.full(200_000, 0.5, np.float32))
    ).any()
    one, two = (Dither(np.random.default_rng(5)).below(np.full(9, 0.5, np.float32)) for _ in range(2))
    assert (one == two).all()
