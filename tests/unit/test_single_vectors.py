"""Mode ``single`` byte for byte: recorded vectors, and the same computed another way."""

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from aes_reference import aes_256_keystream
from chacha20_reference import chacha20_keystream, hkdf_sha256_32
from shoal_codecs.secagg.prg import fold_masks, pair_mask_key, self_mask_key
from shoal_codecs.secagg.single.boxes import agreed_secret, open_box, seal_box
from shoal_codecs.secagg.single.errors import BadKeyError, BoxError
from shoal_codecs.secagg.single.masking import mask_words
from shoal_codecs.secagg.single.neighbours import draw_neighbours
from shoal_codecs.secagg.single.shamir import split_secret
from shoal_codecs.security.sealing import public_sealing_key
from shoal_codecs.security.stream_cipher import StreamCipher
from shoal_codecs.updates.keystream import PIECE_BYTES, StreamKey, Words
from shoal_codecs.wire.plan import encode_plan, plan_hash
from shoal_codecs.wire.single import (
    MaskOpening,
    box_context,
    consent_bytes,
    encode_opening,
    seed_commitment,
    unmask_context,
)
from single_bench import make_cohort, names
from wire_parts import single_plan

VECTORS = Path(__file__).parents[1] / "vectors" / "single.json"
PLAN = bytes(range(32, 64))
ONE, OTHER = b"\x51" * 32, b"\x52" * 32
CHACHA, AES = StreamCipher


def masked_zeros(*ciphers: StreamCipher) -> list[int]:
    """Zeros as the second of three devices masks them whose bundles name ``ciphers``."""
    cohort = make_cohort(4, corrupt=0.0)
    prekeys = [
        msgspec.structs.replace(prekey, cipher=cipher)
        for prekey, cipher in zip(cohort.prekeys, (*ciphers, CHACHA), strict=True)
    ]
    words: Words = np.zeros(8, dtype=np.uint16)
    mask_words(
        words,
        12,
        seed=ONE,
        mask_private=cohort.bundles["device-002"].mask_private,
        device="device-002",
        peers=("device-001", "device-003"),
        plan=cohort.plan,
        plan_hash=PLAN,
        prekeys=prekeys,
    )
    return list(map(int, words))


def golden() -> dict[str, Any]:
    """What the vectors must be, computed by the code under test."""
    secret = agreed_secret(ONE, public_sealing_key(OTHER))
    plan = single_plan()
    return {
        "plan": encode_plan(plan).hex(),
        "plan_hash": plan_hash(encode_plan(plan)).hex(),
        "agreed_secret": secret.hex(),
        "self_mask_key": self_mask_key(ONE, PLAN, "device-01", CHACHA).key.hex(),
        "pair_mask_key": pair_mask_key(secret, PLAN, "device-02", "device-01", CHACHA).key.hex(),
        "masked_zeros": masked_zeros(CHACHA, CHACHA, CHACHA),
        "masked_zeros_by_aes": masked_zeros(AES, AES, AES),
        "masked_zeros_by_both": masked_zeros(CHACHA, AES, AES),
        "box_context": box_context(PLAN, "device-01", "device-02").hex(),
        "box": seal_box(secret, PLAN, "device-01", "device-02", bytes(64)).hex(),
        "seed_commitment": seed_commitment(PLAN, "device-01", ONE).hex(),
        "consent": consent_bytes(PLAN, b"\x05", b"\x02").hex(),
        "unmask_context": unmask_context(PLAN, "device-01").hex(),
        "opening": encode_opening(MaskOpening(ONE, b"\x06", bytes(64))).hex(),
        "neighbours": draw_neighbours(ONE, PLAN, "device-003", names(9), 5),
        "shares": [one.hex() for one in split_secret(ONE, 5, 3, random.Random(1).randbytes)],
        "wide_shares": [one.hex() for one in split_secret(ONE, 300, 3, random.Random(1).randbytes)[::100]],
    }


@pytest.mark.parametrize("key", sorted(golden()))
def test_bytes_are_those_that_devices_in_the_field_compute(key: str) -> None:
    found = golden()[key]
    assert (list(found) if isinstance(found, tuple) else found) == json.loads(VECTORS.read_text())[key]


@pytest.mark.parametrize(("cipher", "stream"), [(CHACHA, chacha20_keystream), (AES, aes_256_keystream)])
def test_masks_are_those_of_an_independent_computation(
    cipher: StreamCipher, stream: Callable[[bytes, int], bytes]
) -> None:
    def prefixed(name: bytes) -> bytes:
        return len(name).to_bytes(2, "little") + name

    secret = agreed_secret(ONE, public_sealing_key(OTHER))
    alone = hkdf_sha256_32(ONE, PLAN, b"shoal/single-self/v1" + prefixed(b"device-01"))
    info = b"shoal/single-pair/v1" + prefixed(b"device-01") + prefixed(b"device-02")
    pair = hkdf_sha256_32(secret, PLAN, info)
    own = self_mask_key(ONE, PLAN, "device-01", cipher)
    shared = pair_mask_key(secret, PLAN, "device-01", "device-02", cipher)
    assert (own, shared) == (StreamKey(cipher, alone), StreamKey(cipher, pair))
    acc: Words = np.arange(50, dtype=np.uint16)
    fold_masks(acc, [own], [shared], 12)
    streams = [np.frombuffer(stream(key, 100), dtype="<u2").astype(int) for key in (alone, pair)]
    assert acc.tolist() == ((np.arange(50) + streams[0] - streams[1]) % 4096).tolist()


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_every_piece_of_aes_has_a_nonce_of_its_own(extra: int) -> None:
    acc: Words = np.zeros(2 * PIECE_BYTES + extra, dtype=np.uint8)
    fold_masks(acc, [StreamKey(AES, ONE)], [], 8)
    assert acc.tobytes() == aes_256_keystream(ONE, acc.size)


@pytest.mark.parametrize("bits", [12, 16, 20])
def test_threads_give_the_same_sum(bits: int) -> None:
    dtype = np.uint16 if bits <= 16 else np.uint32
    keys = [StreamKey((CHACHA, AES)[place % 2], bytes([place]) * 32) for place in range(9)]
    sums = []
    for threads in (1, 2, 3):
        acc: Words = (np.arange(210_000) % (1 << bits)).astype(dtype)
        fold_masks(acc, keys[:5], keys[5:], bits, threads)
        sums.append(acc.tobytes())
    assert len(set(sums)) == 1


def test_the_mask_of_a_pair_is_gone_from_the_sum_of_both() -> None:
    cohort = make_cohort(4, corrupt=0.0)
    total: Words = np.zeros(100, dtype=np.uint16)
    for device, peer in (("device-001", "device-002"), ("device-002", "device-001")):
        own: Words = np.zeros(100, dtype=np.uint16)
        seed = bytes([len(total) % 7]) * 32
        mask_words(
            own,
            16,
            seed=seed,
            mask_private=cohort.bundles[device].mask_private,
            device=device,
            peers=(peer,),
            plan=cohort.plan,
            plan_hash=cohort.plan_hash,
            prekeys=cohort.prekeys,
        )
        cipher = cohort.bundles[device].prekey.cipher
        fold_masks(own, [], [self_mask_key(seed, cohort.plan_hash, device, cipher)], 16)
        assert own.any()
        total += own
    assert not total.any()


def test_a_box_is_chacha20_poly1305_under_a_key_of_its_direction() -> None:
    secret = agreed_secret(ONE, public_sealing_key(OTHER))
    assert secret == agreed_secret(OTHER, public_sealing_key(ONE))
    info = b"shoal/single-box/v1\x00\x01a\x00\x02bc"
    cipher = ChaCha20Poly1305(hkdf_sha256_32(secret, PLAN, info))
    box = seal_box(secret, PLAN, "a", "bc", b"shares")
    assert box == cipher.encrypt(bytes(12), b"shares", box_context(PLAN, "a", "bc"))
    assert open_box(secret, PLAN, "a", "bc", box) == b"shares"
    for sender, receiver, plan in (("bc", "a", PLAN), ("a", "b", PLAN), ("a", "bc", bytes(32))):
        with pytest.raises(BoxError, match=f"from '{sender}'"):
            open_box(secret, plan, sender, receiver, box)


def test_a_key_of_small_order_is_refused() -> None:
    for bad in (bytes(32), bytes(31), b"\x01" + bytes(31)):
        with pytest.raises(BadKeyError):
            agreed_secret(ONE, bad)


def test_neighbours_are_those_of_an_independent_shuffle() -> None:
    label = b"shoal/1 neighbours\x00" + PLAN + b"\x00\x0adevice-003" + ONE
    words = np.frombuffer(hashlib.shake_256(label).digest(8 * 5), dtype="<u8")
    left = [name for name in names(9) if name != "device-003"]
    for place, word in enumerate(words.tolist()):
        other = place + word % (len(left) - place)
        left[place], left[other] = left[other], left[place]
    assert draw_neighbours(ONE, PLAN, "device-003", names(9), 5) == tuple(left[:5])
