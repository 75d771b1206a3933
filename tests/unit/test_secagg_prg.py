"""The share generator against an independent computation and committed vectors."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aes_reference import aes_256_keystream
from chacha20_reference import chacha20_block, chacha20_keystream, hkdf_sha256_32
from shoal_codecs.secagg import prg
from shoal_codecs.secagg.errors import (
    DeviceNameError,
    HubIndexError,
    PlanHashError,
    RingWidthError,
    SeedError,
)
from shoal_codecs.updates.keystream import PIECE_BYTES, Words

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "share_prg.json").read_text(encoding="utf-8"))
CHACHA, AES = b"\x01", b"\x02"
SEED, PLAN = CHACHA + bytes(range(32)), bytes(range(32, 64))


def reference(seed: bytes, plan: bytes, device: str, hub: int, count: int, bits: int) -> list[int]:
    name = device.encode()
    info = b"shoal/hub-share/v1" + len(name).to_bytes(2, "little") + name + hub.to_bytes(2, "little")
    size = 1 if bits <= 8 else 2 if bits <= 16 else 4
    expand = {CHACHA: chacha20_keystream, AES: aes_256_keystream}[seed[:1]]
    stream = expand(hkdf_sha256_32(seed[1:], plan, info), count * size)
    return [int.from_bytes(stream[at : at + size], "little") % 2**bits for at in range(0, count * size, size)]


def test_reference_cipher_is_the_one_of_the_rfc() -> None:
    # RFC 8439, section 2.3.2.
    block = chacha20_block(bytes(range(32)), 1, bytes.fromhex("000000090000004a00000000"))
    assert block[:16].hex() == "10f1e7e4d13b5915500fdd1fa32071c4"
    assert block[-16:].hex() == "b5129cd1de164eb9cbd083e8a2503c4e"


def test_reference_key_derivation_is_the_one_of_the_rfc() -> None:
    # RFC 5869, appendix A.1, first 32 bytes.
    key = hkdf_sha256_32(bytes.fromhex("0b" * 22), bytes(range(13)), bytes.fromhex("f0f1f2f3f4f5f6f7f8f9"))
    assert key.hex() == "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"


@settings(deadline=None, max_examples=60)
@given(
    cipher=st.sampled_from([CHACHA, AES]),
    seed=st.binary(min_size=32, max_size=32),
    plan=st.binary(min_size=32, max_size=32),
    device=st.text(min_size=1, max_size=20),
    hub=st.integers(2, 0xFFFF),
    count=st.integers(0, 200),
    bits=st.integers(2, 32),
)
def test_matches_an_independent_computation(
    cipher: bytes, seed: bytes, plan: bytes, device: str, hub: int, count: int, bits: int
) -> None:
    seed = cipher + seed
    words = prg.expand(seed, plan, device, hub, count, bits)
    assert words.tolist() == reference(seed, plan, device, hub, count, bits)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda v: f"w{v['bits']}-hub{v['hub']}-cipher{v['seed'][:2]}")
def test_committed_vectors(vector: dict[str, str | int]) -> None:
    seed, plan = bytes.fromhex(str(vector["seed"])), bytes.fromhex(str(vector["plan_hash"]))
    device, hub, bits = str(vector["device"]), int(vector["hub"]), int(vector["bits"])
    words = prg.expand(seed, plan, device, hub, int(vector["count"]), bits)
    little = words.astype(words.dtype.newbyteorder("<")).tobytes()
    assert little[:16].hex() == vector["first_16_bytes"]
    assert hashlib.sha256(little).hexdigest() == vector["sha256"]


@pytest.mark.parametrize("bits", [8, 12, 16, 24])
@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_stream_goes_on_across_pieces(bits: int, extra: int) -> None:
    item = prg.ring_dtype(bits).itemsize
    count = 2 * PIECE_BYTES // item + extra
    words = prg.expand(SEED, PLAN, "a", 2, count, bits)
    key = prg.share_key(SEED, PLAN, "a", 2).key
    edge = PIECE_BYTES // item
    blocks = chacha20_block(key, PIECE_BYTES // 64 - 1, bytes(12)) + chacha20_block(
        key, PIECE_BYTES // 64, bytes(12)
    )
    around = np.frombuffer(blocks, dtype=f"<u{item}") & ((1 << bits) - 1)
    half = 64 // item
    assert words[edge - half : edge + half].tolist() == around.tolist()


def test_adding_then_subtracting_gives_back_the_accumulator() -> None:
    acc: Words = np.arange(500, dtype=np.uint16) % 4096
    before = acc.copy()
    prg.expand_add_into(acc, SEED, PLAN, "a", 2, 12)
    assert not np.array_equal(acc, before)
    assert int(acc.max()) < 4096
    prg.expand_subtract_from(acc, SEED, PLAN, "a", 2, 12)
    assert np.array_equal(acc, before)


def test_every_input_changes_the_share() -> None:
    shares = [
        prg.expand(seed, plan, device, hub, 64, 16).tobytes()
        for seed, plan, device, hub in (
            (SEED, PLAN, "a", 2),
            (CHACHA + PLAN, PLAN, "a", 2),
            (AES + SEED[1:], PLAN, "a", 2),
            (SEED, SEED[1:], "a", 2),
            (SEED, PLAN, "b", 2),
            (SEED, PLAN, "a", 3),
            # Without the length, this name would run into the hub's index.
            (SEED, PLAN, "a\x02", 2),
        )
    ]
    assert len(set(shares)) == len(shares)


def test_bad_arguments_are_named() -> None:
    for seed in (b"", SEED[:-1], SEED[1:], SEED + b"\x00", b"\x00" + SEED[1:], b"\x03" + SEED[1:]):
        with pytest.raises(SeedError):
            prg.expand(seed, PLAN, "a", 2, 4, 12)
    with pytest.raises(PlanHashError):
        prg.expand(SEED, PLAN + b"\x00", "a", 2, 4, 12)
    for device in ("", "x" * 70_000, "\ud800"):
        with pytest.raises(DeviceNameError):
            prg.expand(SEED, PLAN, device, 2, 4, 12)
    for hub in (0, 65_536):
        with pytest.raises(HubIndexError):
            prg.expand(SEED, PLAN, "a", hub, 4, 12)
    for bits in (0, 1, 33):
        with pytest.raises(RingWidthError):
            prg.expand(SEED, PLAN, "a", 2, 4, bits)
    with pytest.raises(RingWidthError):
        prg.expand_add_into(np.zeros(4, dtype=np.uint32), SEED, PLAN, "a", 2, 12)
