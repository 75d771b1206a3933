"""The task file: what is encoded comes back, and nothing else is accepted."""

import subprocess
import sys
from pathlib import Path

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal_coordinator
from shoal_codecs.wire.task import (
    MAX_TASK_BYTES,
    Parameter,
    TaskBundle,
    TypedArray,
    decode_task,
    encode_task,
    initial_weights,
    split_weights,
)
from shoal_codecs.wire.task_errors import InvalidTaskError

DATA = Path(shoal_coordinator.__file__).parent / "demo" / "data"
FILE = (DATA / "digits.task").read_bytes()
DIGITS = decode_task(FILE)


def test_a_task_survives_the_way_through_bytes() -> None:
    assert encode_task(DIGITS) == FILE
    assert DIGITS.dimension == 64 * 128 + 128 + 128 * 10 + 10
    assert DIGITS.labels == tuple("0123456789")
    assert (DIGITS.defaults.epochs, DIGITS.defaults.batch_size) == (5, 16)
    assert DIGITS.defaults.learning_rate == pytest.approx(0.2)


def test_a_field_from_a_newer_author_is_ignored() -> None:
    fields = msgpack.unpackb(FILE)
    assert decode_task(msgpack.packb({**fields, "later": 1})) == DIGITS


@given(cut=st.integers(0, len(FILE) - 1))
def test_a_truncated_task_is_refused(cut: int) -> None:
    with pytest.raises(InvalidTaskError):
        decode_task(FILE[:cut])


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(InvalidTaskError):
        decode_task(noise)


def test_an_oversized_task_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidTaskError, match="at most"):
        decode_task(bytes(MAX_TASK_BYTES + 1))


def changed(**fields: object) -> TaskBundle:
    return msgspec.structs.replace(DIGITS, **fields)


REFERENCE = DIGITS.reference
CONTRADICTIONS = {
    "format": changed(format=2),
    "no parameters": changed(parameters=()),
    "twice the same name": changed(parameters=(DIGITS.parameters[0],) * 2),
    "a side of zero": changed(parameters=(Parameter("w", (0, 3)),)),
    "an endless bound": changed(parameters=(Parameter("w", (3,), float("inf")),)),
    "too many weights": changed(parameters=(Parameter("w", (1 << 20, 1 << 20)),)),
    "gradient of another model": changed(parameters=DIGITS.parameters[:2]),
    "no flatbuffer": changed(trainable=b"PK\x03\x04 is a zip archive"),
    "an empty model": changed(trainable=b""),
    "one label": changed(labels=("0",)),
    "an empty range": changed(input=msgspec.structs.replace(DIGITS.input, maximum=0)),
    "an endless range": changed(input=msgspec.structs.replace(DIGITS.input, maximum=float("inf"))),
    "no epochs": changed(defaults=msgspec.structs.replace(DIGITS.defaults, epochs=0)),
    "a rate of NaN": changed(defaults=msgspec.structs.replace(DIGITS.defaults, learning_rate=float("nan"))),
    "bytes that do not fill a shape": changed(
        reference=msgspec.structs.replace(REFERENCE, x=msgspec.structs.replace(REFERENCE.x, data=b""))
    ),
    "a negative side": changed(
        reference=msgspec.structs.replace(REFERENCE, y=TypedArray("int32", (-1, -8), bytes(32)))
    ),
    "labels of another type": changed(
        reference=msgspec.structs.replace(REFERENCE, y=TypedArray("uint8", (8,), bytes(8)))
    ),
}


@pytest.mark.parametrize("bundle", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_parts_that_contradict_each_other_are_refused_on_both_sides(bundle: TaskBundle) -> None:
    with pytest.raises(InvalidTaskError):
        encode_task(bundle)
    with pytest.raises(InvalidTaskError):
        decode_task(msgpack.packb(msgspec.to_builtins(bundle, builtin_types=(bytes,))))


def test_the_flat_vector_is_the_parameters_in_order() -> None:
    vector = np.arange(DIGITS.dimension, dtype=np.float32)
    parts = split_weights(vector, DIGITS.parameters)
    assert [part.shape for part in parts.values()] == [(64, 128), (128,), (128, 10), (10,)]
    assert np.array_equal(np.concatenate([part.ravel() for part in parts.values()]), vector)


def test_fresh_weights_follow_the_seed_and_stay_in_their_bounds() -> None:
    weights = initial_weights(DIGITS.parameters, 7)
    assert weights.dtype == np.float32
    assert np.array_equal(weights, initial_weights(DIGITS.parameters, 7))
    assert not np.array_equal(weights, initial_weights(DIGITS.parameters, 8))
    for one, part in zip(DIGITS.parameters, split_weights(weights, DIGITS.parameters).values(), strict=True):
        assert np.abs(part).max() <= one.initial_bound
        assert part.std() == pytest.approx(one.initial_bound / 3**0.5, rel=0.05)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
def test_arrays_survive_whatever_their_byte_order(dtype: str) -> None:
    values = np.arange(6).astype(np.dtype(dtype).newbyteorder(">")).reshape(2, 3)
    assert np.array_equal(TypedArray.of(values).numpy(), values)


def test_arrays_of_objects_are_refused() -> None:
    with pytest.raises(InvalidTaskError):
        TypedArray.of(np.array([{}]))


@pytest.mark.parametrize(
    "module",
    ["shoal_codecs.wire.task", "shoal_edge.trainers.base", "shoal_edge.trainers.errors"],
)
def test_an_idle_agent_may_hold_the_types_without_numpy(module: str) -> None:
    code = f"import sys, {module}; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
