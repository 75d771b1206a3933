import hashlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal_codecs.security.stream_cipher import StreamCipher
from shoal_codecs.wire import hubs, single
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack

COHORT = tuple(f"device-{number:02}" for number in range(1, 14))


@given(st.sets(st.sampled_from(COHORT)))
def test_a_set_of_devices_comes_back_from_its_bits(chosen: set[str]) -> None:
    bitmap = single.bitmap_of(chosen, COHORT)
    assert len(bitmap) == 2
    assert set(single.names_in(bitmap, COHORT)) == chosen


@pytest.mark.parametrize("bitmap", [b"", b"\x01", b"\x01\x00\x00", b"\x00\x20"])
def test_bits_that_are_no_set_of_the_cohort_are_refused(bitmap: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="no set of 13 devices"):
        single.names_in(bitmap, COHORT)


def test_a_stranger_has_no_bit() -> None:
    with pytest.raises(MalformedMessageError, match="not in the cohort"):
        single.bitmap_of({"device-99"}, COHORT)


def test_the_bits_are_where_the_reference_says() -> None:
    assert single.bitmap_of({"device-01", "device-09"}, COHORT) == b"\x01\x01"


def test_what_is_signed_names_everything_it_is_about() -> None:
    prekey, aes = single.Prekey(b"m" * 32, b"s" * 32, b"d" * 32, b""), StreamCipher.AES_256
    seen = {
        single.prekey_signing_bytes("herd", "device-01", prekey),
        single.prekey_signing_bytes("her", "ddevice-01", prekey),
        single.prekey_signing_bytes("herd", "device-01", msgspec.structs.replace(prekey, mask_key=b"s" * 32)),
        single.prekey_signing_bytes("herd", "device-01", msgspec.structs.replace(prekey, cipher=aes)),
        single.consent_bytes(b"M" * 32, b"\x01", b"\x02"),
        single.consent_bytes(b"M" * 32, b"\x01\x02", b""),
        single.consent_bytes(b"N" * 32, b"\x01", b"\x02"),
        single.unmask_context(b"M" * 32, "device-01"),
        single.unmask_context(b"M" * 32, "device-02"),
        hubs.promise_signing_bytes("herd", "hub-1", b"k" * 32, b"c" * 32),
        hubs.promise_signing_bytes("herd", "hub-2", b"k" * 32, b"c" * 32),
        hubs.never_released_bytes(b"M" * 32),
    }
    assert len(seen) == 12


def test_a_cipher_that_nobody_knows_makes_no_bundle() -> None:
    keys = [b"m" * 32, b"s" * 32, b"d" * 32, b"S" * 64]
    assert unpack(pack([*keys, 2]), single.Prekey).cipher is StreamCipher.AES_256
    for cipher in (0, 3, -1, 2**40, "2", None):
        with pytest.raises(msgspec.ValidationError):
            unpack(pack([*keys, cipher]), single.Prekey)


def test_a_promise_binds_key_nonce_and_challenge() -> None:
    made = hubs.promise_commitment("hub-1", b"k" * 32, b"n" * 32, b"c" * 32)
    label = b"shoal/1 hub commitment\x00\x00\x05hub-1"
    assert made == hashlib.sha256(label + b"k" * 32 + b"n" * 32 + b"c" * 32).digest()
    others = {
        hubs.promise_commitment("hub-2", b"k" * 32, b"n" * 32, b"c" * 32),
        hubs.promise_commitment("hub-1", b"n" * 32, b"k" * 32, b"c" * 32),
        hubs.promise_commitment("hub-1", b"k" * 32, b"c" * 32, b"n" * 32),
    }
    assert made not in others
    assert len(others) == 3


def test_a_set_of_promises_has_one_digest_whatever_its_order() -> None:
    one, two = (hubs.HubPromise(f"hub-{n}", bytes([n]) * 32, b"c" * 32, b"s" * 64) for n in (1, 2))
    assert hubs.promise_set_digest((one, two)) == hubs.promise_set_digest((two, one))
    other = hubs.HubPromise("hub-2", b"\x03" * 32, b"c" * 32, b"s" * 64)
    assert hubs.promise_set_digest((one, other)) != hubs.promise_set_digest((one, two))
