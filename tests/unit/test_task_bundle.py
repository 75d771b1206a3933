"""The task file: what is encoded comes back, and nothing else is accepted."""

import math
import subprocess
import sys
import zlib
from pathlib import Path

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal_coordinator
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.task import (
    MAX_TASK_BYTES,
    TASK_FORMAT,
    TASK_MAGIC,
    Architecture,
    LayerDescription,
    Parameter,
    TargetDescription,
    TaskBundle,
    TypedArray,
    Variant,
    decode_task,
    draw_weights,
    encode_task,
    fold_gradient,
    fold_into,
    folded_sizes,
    gradient_levels,
    initial_weights,
    split_weights,
)
from shoal_codecs.wire.task_check import GRADIENT_FOLD
from shoal_codecs.wire.task_errors import InvalidTaskError

DATA = Path(shoal_coordinator.__file__).parent / "demo" / "data"
FILE = (DATA.parents[1] / "tasks" / "digits.task").read_bytes()
HEADER = len(TASK_MAGIC) + 1
DIGITS = decode_task(FILE)


def file_of(packed: bytes) -> bytes:
    return FILE[:HEADER] + zlib.compress(packed)


def test_a_task_survives_the_way_through_bytes() -> None:
    assert decode_task(encode_task(DIGITS)) == DIGITS
    assert DIGITS.dimension == 64 * 128 + 128 + 128 * 10 + 10
    assert DIGITS.labels == tuple("0123456789")
    assert (DIGITS.defaults.epochs, DIGITS.defaults.batch_size) == (5, 16)
    assert DIGITS.defaults.learning_rate == pytest.approx(0.2)


def test_a_field_from_a_newer_author_is_ignored() -> None:
    fields = msgpack.unpackb(zlib.decompress(FILE[HEADER:]))
    assert decode_task(file_of(msgpack.packb({**fields, "later": 1}))) == DIGITS


def test_what_a_device_downloads_to_train_is_small() -> None:
    assert len(FILE) < 24_000


@given(cut=st.integers(0, len(FILE) - 1))
def test_a_truncated_task_is_refused(cut: int) -> None:
    with pytest.raises(InvalidTaskError):
        decode_task(FILE[:cut])


@given(st.binary(max_size=200))
def test_noise_is_refused(noise: bytes) -> None:
    with pytest.raises(InvalidTaskError):
        decode_task(noise)
    with pytest.raises(InvalidTaskError):
        decode_task(FILE[:HEADER] + noise)
    with pytest.raises(InvalidTaskError):
        decode_task(file_of(noise))


def test_bytes_after_the_end_are_refused() -> None:
    with pytest.raises(InvalidTaskError, match="after its end"):
        decode_task(FILE + b"x")


def test_another_format_and_a_file_of_before_there_was_one_say_what_to_do() -> None:
    with pytest.raises(InvalidTaskError, match=r"task format 4.*update the agent"):
        decode_task(TASK_MAGIC + bytes([TASK_FORMAT + 1]) + FILE[HEADER:])
    with pytest.raises(InvalidTaskError, match="older Shoal"):
        decode_task(zlib.decompress(FILE[HEADER:]))


def test_a_small_file_that_unpacks_to_a_huge_one_is_refused() -> None:
    bomb = file_of(bytes(MAX_TASK_BYTES + 1))
    assert len(bomb) < 100_000
    with pytest.raises(InvalidTaskError, match="at most"):
        decode_task(bomb)


def test_an_oversized_task_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(InvalidTaskError, match="at most"):
        decode_task(FILE + bytes(MAX_TASK_BYTES))


def changed(**fields: object) -> TaskBundle:
    return msgspec.structs.replace(DIGITS, **fields)


REFERENCE = DIGITS.reference
NARROW = tuple(
    msgspec.structs.replace(one, shape=shape)
    for one, shape in zip(DIGITS.parameters, [(64, 32), (32,), (32, 10), (10,)], strict=True)
)
NARROW_D = 64 * 32 + 32 + 32 * 10 + 10
HALF = Variant(
    share=0.25,
    trainable=DIGITS.trainable,
    parameters=NARROW,
    reference=msgspec.structs.replace(REFERENCE, gradient=TypedArray.of(np.zeros(NARROW_D, np.int16))),
)


def half(**fields: object) -> TaskBundle:
    return changed(variants=(msgspec.structs.replace(HALF, **fields),))


def preset(**fields: object) -> TaskBundle:
    return changed(defaults=msgspec.structs.replace(DIGITS.defaults, **fields))


VALUES = changed(
    target=TargetDescription("values", (2,)),
    labels=(),
    reference=msgspec.structs.replace(REFERENCE, y=TypedArray.of(np.zeros((8, 2), np.float32))),
    private=None,
)


LAYERS = Architecture(
    layers=(
        LayerDescription("dense", "dense1", {"units": 128, "rate": 0.5, "kernel": (3, 3)}),
        LayerDescription("activation", "activation1", {"function": "relu", "late": True, "limit": None}),
    ),
    optimiser=LayerDescription("momentum", "", {"decay": 0.9}),
    mean=8.0,
    deviation=4.0,
)


CONTRADICTIONS = {
    "an endless mean": changed(
        parameters=(
            msgspec.structs.replace(DIGITS.parameters[0], initial_mean=math.inf),
            *DIGITS.parameters[1:],
        )
    ),
    "labels with a shape": changed(target=TargetDescription("label", (2,))),
    "values with labels": msgspec.structs.replace(VALUES, labels=("a", "b")),
    "values whose reference are labels": msgspec.structs.replace(VALUES, reference=REFERENCE),
    "a target's side of zero": msgspec.structs.replace(VALUES, target=TargetDescription("values", (0,))),
    "a negative mu": preset(mu=-0.1),
    "an endless clip norm": preset(clip_norm=math.inf),
    "a kept share over one": preset(kept_share=1.5),
    "a negative weight cap": preset(weight_cap=-1),
    "an architecture without layers": changed(architecture=Architecture(())),
    "an architecture that divides by nothing": changed(
        architecture=msgspec.structs.replace(LAYERS, deviation=0.0)
    ),
    "a variant's architecture with an endless mean": half(
        architecture=msgspec.structs.replace(LAYERS, mean=math.inf)
    ),
    "a local parameter that is not there": changed(local=("dense3_w",)),
    "nothing that is shared": changed(local=tuple(one.name for one in DIGITS.parameters)),
    "an ability twice": changed(abilities=("mu", "mu")),
    "a variant of the whole": half(share=1.0),
    "a variant twice": changed(variants=(HALF, HALF)),
    "a variant wider than the whole": half(
        parameters=(Parameter("dense1_w", (65, 32)), *NARROW[1:]),
        reference=msgspec.structs.replace(
            REFERENCE, gradient=TypedArray.of(np.zeros(NARROW_D + 32, np.int16))
        ),
    ),
    "a variant of other names": half(parameters=(Parameter("w9", (64, 32)), *NARROW[1:])),
    "a variant with the whole's reference": half(reference=REFERENCE),
    "a variant that is no flatbuffer": half(trainable=b"PK\x03\x04 is a zip archive"),
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
    "a scale too few": changed(reference=msgspec.structs.replace(REFERENCE, scales=REFERENCE.scales[1:])),
    "a scale of NaN": changed(reference=msgspec.structs.replace(REFERENCE, scales=(math.nan,) * 4)),
    "a negative seed": changed(reference=msgspec.structs.replace(REFERENCE, seed=-1)),
    "labels of another type": changed(
        reference=msgspec.structs.replace(REFERENCE, y=TypedArray("uint8", (8,), bytes(8)))
    ),
}


@pytest.mark.parametrize("bundle", CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_parts_that_contradict_each_other_are_refused_on_both_sides(bundle: TaskBundle) -> None:
    with pytest.raises(InvalidTaskError):
        encode_task(bundle)
    with pytest.raises(InvalidTaskError):
        decode_task(file_of(msgpack.packb(msgspec.to_builtins(bundle, builtin_types=(bytes,)))))


def test_a_task_of_values_survives_too() -> None:
    assert decode_task(encode_task(VALUES)) == VALUES


def test_an_architecture_survives_word_for_word() -> None:
    bundle = changed(architecture=LAYERS, variants=(msgspec.structs.replace(HALF, architecture=LAYERS),))
    assert decode_task(encode_task(bundle)) == bundle
    assert bundle.variant(0.25).architecture == LAYERS


def test_a_variant_is_a_task_of_its_own() -> None:
    bundle = decode_task(encode_task(changed(variants=(HALF,))))
    narrow = bundle.variant(0.25)
    assert (narrow.dimension, narrow.parameters, narrow.variants) == (NARROW_D, NARROW, ())
    assert decode_task(encode_task(narrow)) == narrow
    with pytest.raises(InvalidTaskError, match=r"no variant of share 0.5.*\[0.25\]"):
        bundle.variant(0.5)


def test_a_parameter_begins_around_its_mean() -> None:
    weights = initial_weights([Parameter("scale", (500,), 0.1, 1.0), Parameter("one", (3,), 0.0, 1.0)], 3)
    assert np.abs(weights[:500] - 1).max() <= 0.1
    assert weights[:500].std() > 0.05
    assert weights[500:].tolist() == [1, 1, 1]


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


@pytest.mark.parametrize(
    ("seed", "digest"), [(1, "107a3f7874c5a7ed"), (2024, "c00c120a5818cb3f"), (2**64 - 1, "e3f30f21fb65f657")]
)
def test_a_seed_draws_the_same_bits_everywhere_for_good(seed: int, digest: str) -> None:
    weights = initial_weights(DIGITS.parameters, seed)
    assert digest_of(weights.astype("<f4").tobytes()).hex()[:16] == digest
    # The uniform distribution of numpy itself, where its arithmetic is that of this processor.
    own = np.random.default_rng(seed)
    for one, part in zip(DIGITS.parameters, split_weights(weights, DIGITS.parameters).values(), strict=True):
        drawn = own.uniform(-one.initial_bound, one.initial_bound, one.shape)
        np.testing.assert_allclose(part, drawn, rtol=0, atol=1e-7)
    assert not np.signbit(weights[weights == 0]).any()


def test_levels_hold_a_gradient_to_their_last_place() -> None:
    gradient = np.random.default_rng(0).normal(size=DIGITS.dimension)
    gradient[64 * 128 :][:128] = 0
    gradient[-10:] = 1e-12
    levels, scales = gradient_levels(gradient, DIGITS.parameters)
    assert np.abs(levels).max() == 32767
    read = levels * np.repeat(scales, [GRADIENT_FOLD, 128, 1280, 10])
    small = gradient[64 * 128 :]
    assert np.abs(read[GRADIENT_FOLD:] - small).max() <= max(scales[2:]) / 2 * 1.0001
    assert scales[3] == pytest.approx(0.1 * max(scales))
    assert not levels[-10:].any()
    large = gradient[: 64 * 128]
    sums = [math.fsum(large[place::GRADIENT_FOLD]) for place in range(GRADIENT_FOLD)]
    assert np.abs(read[:GRADIENT_FOLD] - sums).max() <= scales[0] / 2 * 1.0001
    assert not read[GRADIENT_FOLD:][:128].any()


@given(shape=st.sampled_from([(200, 200), (784, 200), (4096, 4), (5, 5, 32, 64)]), seed=st.integers(0, 99))
def test_a_folded_gradient_shows_every_coordinate_and_every_exchange_of_rows(
    shape: tuple[int, ...], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    parameter = (Parameter("w", shape),)
    right = rng.normal(size=shape)
    folded = fold_gradient(right.ravel(), parameter)
    assert folded.shape == (GRADIENT_FOLD,)
    assert folded.sum() == pytest.approx(right.sum())
    one = right.ravel().copy()
    one[rng.integers(one.size)] += 0.01
    assert np.abs(fold_gradient(one, parameter) - folded).max() == pytest.approx(0.01)
    first, second = rng.choice(shape[0], 2, replace=False)
    swapped = right.copy()
    swapped[[first, second]] = swapped[[second, first]]
    assert np.abs(fold_gradient(swapped.ravel(), parameter) - folded).max() > 0.1


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "float32"])
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


def test_weights_drawn_piece_by_piece_are_the_initial_ones_and_fold_alike() -> None:
    parameters = (Parameter("a", (3, 7), 0.5), Parameter("b", (130, 131), 0.1, 2.0), Parameter("c", (1,)))
    pieces = list(draw_weights(parameters, 5))
    whole = initial_weights(parameters, 5)
    assert np.array_equal(np.concatenate([values for _, _, values in pieces]), whole)
    assert [(one.name, start % GRADIENT_FOLD) for one, start, _ in pieces] == [
        ("a", 0),
        ("b", 0),
        ("b", 0),
        ("c", 0),
    ]
    sums = {one.name: np.zeros(size) for one, size in zip(parameters, folded_sizes(parameters), strict=True)}
    for one, _, values in pieces:
        fold_into(sums[one.name], values)
    np.testing.assert_allclose(
        np.concatenate(list(sums.values())), fold_gradient(whole, parameters), rtol=1e-12
    )
