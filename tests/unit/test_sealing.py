import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_scalarmult

from shoal_codecs import processor as this_processor
from shoal_codecs.processor import has_aes
from shoal_codecs.security.errors import BadKeyFileError, UnsealError
from shoal_codecs.security.identity import sealing_public_of
from shoal_codecs.security.sealing import (
    AES_256_GCM,
    CHACHA20_POLY1305,
    OVERHEAD_BYTES,
    new_sealing_key,
    public_sealing_key,
    seal,
    unseal,
)
from shoal_codecs.security.stream_cipher import StreamCipher, best_cipher, common_cipher
from wire_parts import identity

PRIVATE, PUBLIC = new_sealing_key()


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_what_was_sealed_opens_with_its_key_in_its_context(plaintext: bytes, context: bytes) -> None:
    sealed = seal(PUBLIC, plaintext, context)
    assert len(sealed) == len(plaintext) + OVERHEAD_BYTES
    assert unseal(PRIVATE, sealed, context) == plaintext


def test_no_two_seals_are_alike() -> None:
    assert seal(PUBLIC, b"share", b"") != seal(PUBLIC, b"share", b"")


def test_another_key_opens_nothing() -> None:
    with pytest.raises(UnsealError, match="another key"):
        unseal(new_sealing_key()[0], seal(PUBLIC, b"share", b"round 7"), b"round 7")


def test_another_context_opens_nothing() -> None:
    with pytest.raises(UnsealError, match="another context"):
        unseal(PRIVATE, seal(PUBLIC, b"share", b"round 7"), b"round 8")


@given(st.data())
def test_one_changed_bit_anywhere_opens_nothing(data: st.DataObject) -> None:
    sealed = bytearray(seal(PUBLIC, b"a share of an update", b"round 7"))
    # Also the bit of the sender's key that is no part of the number (RFC 7748, section 5).
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(UnsealError):
        unseal(PRIVATE, bytes(sealed), b"round 7")


@given(st.binary(max_size=120))
def test_any_bytes_are_refused_by_name(sealed: bytes) -> None:
    with pytest.raises(UnsealError):
        unseal(PRIVATE, sealed, b"")


@pytest.mark.parametrize(
    "public", [b"", b"short", bytes(31), b"k" * 31, b"k" * 33, bytes(32), b"\x01" + bytes(31)]
)
def test_keys_that_are_none_are_refused(public: bytes) -> None:
    with pytest.raises(UnsealError, match="not a usable"):
        seal(public, b"share", b"")
    with pytest.raises(UnsealError):
        unseal(PRIVATE, CHACHA20_POLY1305 + public.ljust(32, b"\x00") + bytes(40), b"")


def test_sums_are_sealed_to_an_identity() -> None:
    coordinator = identity("coordinator")
    public = sealing_public_of(coordinator.public)
    assert public == public_sealing_key(coordinator.sealing_private())
    assert unseal(coordinator.sealing_private(), seal(public, b"sum", b""), b"") == b"sum"


@pytest.mark.parametrize("public", [b"", b"short", b"\x02" + bytes(31)])
def test_what_is_no_identity_cannot_be_sealed_to(public: bytes) -> None:
    with pytest.raises(BadKeyFileError, match="new roster"):
        sealing_public_of(public)


def test_derived_secrets_differ_by_purpose_and_party() -> None:
    hub = identity("hub-1")
    assert hub.derive(b"offers") == identity("hub-1").derive(b"offers")
    assert len({hub.derive(b"offers"), hub.derive(b"sums"), identity("hub-2").derive(b"offers")}) == 3


def _gcm_opened(data: bytes, context: bytes, nonce: bytes, key: bytes) -> bytes:
    decryptor = Cipher(AES(key), GCM(nonce, data[-16:])).decryptor()
    decryptor.authenticate_additional_data(context)
    return decryptor.update(data[:-16]) + decryptor.finalize()


OPENED_BY = {CHACHA20_POLY1305: crypto_aead_chacha20poly1305_ietf_decrypt, AES_256_GCM: _gcm_opened}


@pytest.mark.parametrize("cipher", [CHACHA20_POLY1305, AES_256_GCM])
def test_another_library_opens_it_by_the_description(cipher: bytes) -> None:
    sealed = seal(PUBLIC, b"a share", b"round 7", cipher)
    assert sealed[:1] == cipher
    sender = sealed[1:33]
    shared = crypto_scalarmult(PRIVATE, sender)
    key = hashlib.blake2b(shared + sender + PUBLIC + cipher, digest_size=32, person=b"shoal/1 seal").digest()
    assert OPENED_BY[cipher](sealed[33:], b"round 7", bytes(12), key) == b"a share"
    assert unseal(PRIVATE, sealed, b"round 7") == b"a share"


def test_a_cipher_nobody_knows_is_named() -> None:
    sealed = seal(PUBLIC, b"a share", b"round 7")
    with pytest.raises(UnsealError, match="cipher 9"):
        unseal(PRIVATE, b"\x09" + sealed[1:], b"round 7")


def test_two_expand_a_seed_with_aes_only_where_both_would() -> None:
    chacha, aes = StreamCipher
    assert common_cipher(aes, aes) is aes
    assert {common_cipher(chacha, chacha), common_cipher(chacha, aes), common_cipher(aes, chacha)} == {chacha}


@pytest.mark.parametrize(
    ("processor", "has"),
    [
        ("flags\t\t: fpu sse2 aes avx2\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd evtstrm aes pmull\n", True),
        ("Features\t: fp asimd evtstrm crc32 cpuid\nModel\t: Raspberry Pi 4 aes\n", False),
        (None, False),
    ],
)
def test_the_cipher_follows_the_processor(
    processor: str | None, *, has: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "cpuinfo"
    if processor is not None:
        told.write_text(processor)
    monkeypatch.setattr(this_processor, "_TOLD", told)
    has_aes.cache_clear()
    try:
        assert has_aes() is has
        assert seal(PUBLIC, b"", b"")[:1] == (AES_256_GCM if has else CHACHA20_POLY1305)
        assert best_cipher() is (StreamCipher.AES_256 if has else StreamCipher.CHACHA20)
    finally:
        has_aes.cache_clear()
