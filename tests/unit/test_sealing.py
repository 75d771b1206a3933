import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_chacha20poly1305_ietf_decrypt, crypto_scalarmult

from shoal_codecs.security.errors import BadKeyFileError, UnsealError
from shoal_codecs.security.identity import sealing_public_of
from shoal_codecs.security.sealing import (
    OVERHEAD_BYTES,
    new_sealing_key,
    public_sealing_key,
    seal,
    unseal,
)
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
        unseal(PRIVATE, public.ljust(32, b"\x00") + bytes(40), b"")


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


def test_another_library_opens_it_by_the_description() -> None:
    sealed = seal(PUBLIC, b"a share", b"round 7")
    sender = sealed[:32]
    shared = crypto_scalarmult(PRIVATE, sender)
    key = hashlib.blake2b(shared + sender + PUBLIC, digest_size=32, person=b"shoal/1 seal").digest()
    opened = crypto_aead_chacha20poly1305_ietf_decrypt(sealed[32:], b"round 7", bytes(12), key)
    assert opened == b"a share"
