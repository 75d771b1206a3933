"""The manifest is believed as it was signed, or not at all."""

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal_codecs.ota.errors import (
    MalformedManifestError,
    ManifestExpiredError,
    ManifestFleetError,
    ManifestSignatureError,
    MissingArtefactError,
)
from shoal_codecs.ota.manifest import (
    _SIGN_LABEL,
    Artefact,
    HealthGate,
    Manifest,
    Provenance,
    open_manifest,
    sign_manifest,
)
from shoal_codecs.security.identity import Identity
from shoal_codecs.wire.blob import describe
from shoal_codecs.wire.packing import pack

PUBLISHER = Identity("publisher", bytes(32))
NOW_MS = 1_800_000_000_000


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "fleet": "meadow",
        "release": "r-7",
        "version": 7,
        "model": b"m" * 32,
        "parent": b"p" * 32,
        "task": b"t" * 32,
        "artefacts": (Artefact("int8", describe(b"model" * 40_000)), Artefact("float32", describe(b"f"))),
        "provenance": Provenance(8, 10, 1400, 0.95),
        "hardware": ("aarch64", "x86_64"),
        "created_ms": NOW_MS,
        "expires_ms": NOW_MS + 1000,
    }
    return Manifest(**(fields | changes))


def reopen(data: bytes, signature: bytes, now_ms: int | None = NOW_MS, fleet: str = "meadow") -> Manifest:
    return open_manifest(data, signature, PUBLISHER.public, fleet, now_ms)


def test_what_was_signed_is_what_is_read() -> None:
    assert reopen(*sign_manifest(manifest(), PUBLISHER)) == manifest()


@settings(deadline=None)
@given(st.data())
def test_any_flipped_bit_is_refused(data: st.DataObject) -> None:
    signed, signature = sign_manifest(manifest(), PUBLISHER)
    bit = data.draw(st.integers(0, len(signed) * 8 - 1))
    changed = bytearray(signed)
    changed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(ManifestSignatureError):
        reopen(bytes(changed), signature)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_a_publisher_who_signs_nonsense_is_refused_by_name(data: bytes) -> None:
    with pytest.raises(MalformedManifestError):
        reopen(data, PUBLISHER.sign(_SIGN_LABEL + data))


def test_another_key_is_refused() -> None:
    data, _ = sign_manifest(manifest(), PUBLISHER)
    with pytest.raises(ManifestSignatureError):
        reopen(*sign_manifest(manifest(), Identity("publisher", b"\x01" * 32)))
    with pytest.raises(ManifestSignatureError):
        reopen(data, b"")


def test_a_signature_over_the_bare_bytes_is_none() -> None:
    data, _ = sign_manifest(manifest(), PUBLISHER)
    with pytest.raises(ManifestSignatureError):
        reopen(data, PUBLISHER.sign(data))


def test_an_unknown_field_is_refused() -> None:
    plain = msgspec.to_builtins(manifest(), builtin_types=(bytes,)) | {"run_as": "root"}
    data = pack(plain)
    with pytest.raises(MalformedManifestError, match="run_as"):
        reopen(data, PUBLISHER.sign(_SIGN_LABEL + data))


def test_another_fleet_and_a_passed_date_are_refused() -> None:
    signed = sign_manifest(manifest(), PUBLISHER)
    with pytest.raises(ManifestFleetError):
        reopen(*signed, fleet="forest")
    with pytest.raises(ManifestExpiredError):
        reopen(*signed, now_ms=NOW_MS + 1000)
    assert reopen(*signed, now_ms=None).release == "r-7"


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2},
        {"version": -1},
        {"model": b""},
        {"task": b"short"},
        {"parent": b"short"},
        {"artefacts": ()},
        {"artefacts": (Artefact("int8", describe(b"a")), Artefact("int8", describe(b"b")))},
        {"expires_ms": NOW_MS},
        {"release": "../../etc"},
        {"fleet": "A/#"},
        {"gate": HealthGate(min_examples=0)},
        {"gate": HealthGate(significance=0)},
        {"gate": HealthGate(significance=float("nan"))},
        {"gate": HealthGate(floor_accuracy=1.5)},
        {"gate": HealthGate(time_limit_s=0)},
        {"gate": HealthGate(max_latency_ms=-1)},
    ],
)
def test_a_manifest_that_contradicts_itself_is_never_made(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedManifestError):
        manifest(**changes)


def test_the_first_preferred_kind_is_chosen() -> None:
    assert manifest().artefact(("int8", "float32")).kind == "int8"
    assert manifest().artefact(("float32",)).kind == "float32"
    only = manifest(artefacts=(Artefact("float32", describe(b"f")),))
    with pytest.raises(MissingArtefactError):
        only.artefact(("int8",))
