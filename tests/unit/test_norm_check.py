"""The L2 check on shares: exact projections, the rates at which long updates pass, and nothing that wraps."""

import hashlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from chacha20_reference import chacha20_block
from shoal_codecs.secagg.additive import split
from shoal_codecs.secagg.errors import ProjectionError
from shoal_codecs.secagg.norm_bound import (
    LEAST_KEPT,
    PROJECTIONS,
    checked_ring_bits,
    norm_bound,
    norm_fault,
    projection_context,
    projection_seed,
)
from shoal_codecs.secagg.prg import expand
from shoal_codecs.secagg.projections import pack_projections, project, projection_matrix, short_enough
from shoal_codecs.secagg.report_opening import Receiver
from shoal_codecs.secagg.share_seed import new_share_seed
from shoal_codecs.updates.bitpack import word_dtype
from shoal_codecs.updates.ring import RingSpec, encode_ring
from shoal_codecs.wire.messages import HubProjections
from shoal_codecs.wire.plan import CodecPlan
from shoal_coordinator.hub.norms import hear_projections
from wire_parts import codec_plan, plan

SLACK = 1.6
CODEC = CodecPlan("randk", 9610, 481, 4.0, 127, 13, 150)


def vector(norm: float, seed: int, size: int = CODEC.kept) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=size)
    return np.rint(drawn * norm / np.linalg.norm(drawn)).astype(np.int64)


def judged(vectors: list[np.ndarray], bits: int, limit: float, hubs: int = 2) -> np.ndarray:
    """Share each vector among ``hubs`` and judge the projections of the shares."""
    rows: list[list[np.ndarray]] = [[] for _ in range(hubs)]
    for place, one in enumerate(vectors):
        matrix = projection_matrix(hashlib.sha256(b"%d" % place).digest(), one.size)
        words = (one & ((1 << bits) - 1)).astype(word_dtype(bits))
        seeds = [b"\x02" + hashlib.sha256(b"%d/%d" % (place, hub)).digest() for hub in range(1, hubs)]
        shares = [split(words, bits, hubs, seeds, bytes(32), "d")]
        shares += [expand(seed, bytes(32), "d", at, one.size, bits) for at, seed in enumerate(seeds, 2)]
        for row, share in zip(rows, shares, strict=True):
            row.append(project(share, matrix, bits))
    return short_enough([pack_projections(row) for row in rows], len(vectors), bits, limit)


@pytest.mark.parametrize(
    ("times", "low", "high"),
    [(1.0, 0.99, 1.0), (2.0, 0.08, 0.22), (3.0, 0.0, 0.02), (10.0, 0.0, 0.0), (1000.0, 0.0, 0.0)],
)
def test_the_rates_at_which_updates_pass(times: float, low: float, high: float) -> None:
    """Chi-square with 16 degrees of freedom: 0.9994, 0.147, 0.003 for one, two, three times the norm."""
    bound = norm_bound(CODEC)
    bits = checked_ring_bits(CODEC, SLACK)
    vectors = [vector(times * bound, seed) for seed in range(600)]
    share = judged(vectors, bits, SLACK * bound).mean()
    assert low <= share <= high


@pytest.mark.parametrize("shape", ["one coordinate", "half the ring", "a spike on every other"])
def test_shapes_that_plus_or_minus_one_would_miss(shape: str) -> None:
    """A vector of halves of the ring projects to 0 or a half under +-1, whatever the signs."""
    bits, bound = 13, norm_bound(CODEC)
    vectors = []
    for seed in range(100):
        one = np.zeros(CODEC.kept, dtype=np.int64)
        rng = np.random.default_rng(seed)
        if shape == "one coordinate":
            one[rng.integers(CODEC.kept)] = 1 << (bits - 1)
        elif shape == "half the ring":
            one[rng.permutation(CODEC.kept)[: 2 * rng.integers(1, 200)]] = 1 << (bits - 1)
        else:
            one[::2] = 1 << (bits - 2)
        vectors.append(one)
    assert judged(vectors, bits, SLACK * bound).mean() <= 0.02


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    bits=st.integers(2, 32),
    hubs=st.integers(2, 4),
    size=st.sampled_from([1, 7, 481, 70_000]),
)
def test_projections_of_shares_add_up_to_those_of_the_words(
    seed: int, bits: int, hubs: int, size: int
) -> None:
    rng = np.random.default_rng(seed)
    words = rng.integers(0, 1 << bits, size).astype(word_dtype(bits))
    matrix = projection_matrix(rng.bytes(32), size)
    seeds = [new_share_seed() for _ in range(hubs - 1)]
    shares = [split(words, bits, hubs, seeds, bytes(32), "d")]
    shares += [expand(one, bytes(32), "d", at, size, bits) for at, one in enumerate(seeds, 2)]
    whole = [
        sum(int(a) * int(b) for a, b in zip(row, words, strict=True)) % (1 << bits) for row in matrix[:2]
    ]
    added = np.sum([project(share, matrix, bits) for share in shares], axis=0) % (1 << bits)
    assert list(added[:2]) == whole
    np.testing.assert_array_equal(added, project(words, matrix, bits))


def test_entries_are_the_cipher_s_bits_and_half_of_them_are_zero() -> None:
    matrix = projection_matrix(bytes(range(32)), 5000)
    stream = chacha20_block(bytes(range(32)), 0, bytes(12))
    expected = [(0, 0, 1, -1)[(stream[0] >> (2 * place)) & 3] for place in range(4)]
    assert list(matrix[0, :4]) == expected
    counts = [int((matrix == value).sum()) for value in (-1, 0, 1)]
    assert sum(counts) == matrix.size
    # Four standard deviations.
    for count, share in zip(counts, (0.25, 0.5, 0.25), strict=True):
        assert abs(count - share * matrix.size) < 4 * np.sqrt(matrix.size * share * (1 - share))


def test_an_honest_encoder_keeps_the_bound_at_its_clip_norm() -> None:
    bits = checked_ring_bits(CODEC, SLACK)
    spec = RingSpec(9610, 481, 4.0, 127, bits, 10, 150, bytes(32))
    vectors = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        update = rng.normal(size=9610).astype(np.float32)
        words = encode_ring(update, 999, spec, rng)[: spec.kept].astype(np.int64)
        vectors.append(((words + (1 << (bits - 1))) & ((1 << bits) - 1)) - (1 << (bits - 1)))
        assert np.linalg.norm(vectors[-1]) <= 1.05 * norm_bound(CODEC)
    assert judged(vectors, bits, SLACK * norm_bound(CODEC)).all()


def test_a_ring_too_narrow_for_the_check_is_named() -> None:
    codec = replace(plan().codec, dimension=9610, kept=481)
    least = checked_ring_bits(codec, SLACK)
    checked = replace(plan(), norm_check=SLACK, codec=replace(codec, ring_bits=least))
    assert norm_fault(checked) == ""
    narrow = replace(checked, codec=replace(codec, ring_bits=least - 1))
    assert f"needs a ring of {least} bits" in norm_fault(narrow)
    assert "refuses honest" in norm_fault(replace(checked, norm_check=0.9))
    assert norm_fault(plan()) == ""


def test_sixteen_projections_of_sixteen_coordinates_are_the_update() -> None:
    """So a plan that keeps few coordinates would show every update to a hub that tells the coordinator."""
    update = np.random.default_rng(1).integers(-12, 13, 16)
    words = (update & 0xFFFF).astype(np.uint16)
    for seed in range(99):
        matrix = projection_matrix(bytes([seed]) * 32, 16)
        if round(np.linalg.det(matrix)) != 0:
            break
    shown = project(words, matrix, 16)
    lifted = (shown + (1 << 15)) % (1 << 16) - (1 << 15)
    np.testing.assert_array_equal(np.rint(np.linalg.solve(matrix, lifted)), update)
    codec = replace(plan().codec, dimension=9610, kept=LEAST_KEPT, ring_bits=20)
    wide = replace(plan(), norm_check=SLACK, codec=codec)
    assert norm_fault(wide) == ""
    for kept in (16, LEAST_KEPT - 1):
        few = replace(wide, codec=replace(codec, kept=kept))
        assert "would show" in norm_fault(few)


def test_seed_and_seal_hang_on_everything() -> None:
    secrets = {"hub-1": b"1" * 32, "hub-2": b"2" * 32}
    seeds = {
        projection_seed(b"m" * 32, b"s" * 32, secrets),
        projection_seed(b"n" * 32, b"s" * 32, secrets),
        projection_seed(b"m" * 32, b"t" * 32, secrets),
        projection_seed(b"m" * 32, b"s" * 32, {**secrets, "hub-2": b"3" * 32}),
        projection_seed(b"m" * 32, b"s" * 32, {"hub-1": b"2" * 32, "hub-2": b"1" * 32}),
    }
    assert len(seeds) == 5
    assert projection_seed(b"m" * 32, b"s" * 32, dict(reversed(secrets.items()))) in seeds
    assert projection_context(b"m", b"s", "a", "bc") != projection_context(b"m", b"s", "ab", "c")


@pytest.mark.parametrize("data", [b"", bytes(63), bytes(64 * 3)])
def test_projections_of_another_number_of_devices_are_refused(data: bytes) -> None:
    with pytest.raises(ProjectionError):
        short_enough([bytes(128), data], 2, 13, 1.0)
    assert PROJECTIONS * 4 == 64


def test_a_peer_that_begins_again_and_again_fills_no_memory() -> None:
    """Pieces of one set of each peer are held; what it began before is let go."""
    receiver = Receiver(b"m" * 32, "hub-1", 0, 2, bytes(32))
    cohort = tuple(f"device-{number:05}" for number in range(9000))
    made = plan(cohort=cohort, n_max=9000, quorum=9000, n_min=9000, codec=codec_plan(ring_bits=24))
    live: Any = SimpleNamespace(plan=made, plan_hash=b"m" * 32, receiver=receiver, projections={})
    for number in range(50):
        part = HubProjections(
            protocol=1, sender="hub-2", message_id=bytes(8), sent_ms=1, round=1, plan_hash=b"m" * 32,
            set_digest=bytes([number]) * 32, to="hub-1", index=number % 2, count=2 + number % 2, data=b"xx",
        )  # fmt: skip
        assert hear_projections(live, part) is None
    assert list(live.projections) == ["hub-2"]
    assert len(live.projections["hub-2"].held) == 1
