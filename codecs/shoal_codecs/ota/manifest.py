"""The manifest: what a release is, signed by the publisher; verified as the very bytes received.

It holds what a device must know before it takes a byte of an artefact: which model, made by which round,
in which files, on which hardware, and by which health gate it is judged.
"""

import math
from typing import Any, Literal

import msgspec

from shoal_codecs.ota.errors import (
    MalformedManifestError,
    ManifestExpiredError,
    ManifestFleetError,
    ManifestSignatureError,
    MissingArtefactError,
)
from shoal_codecs.security.errors import BadSignatureError
from shoal_codecs.security.identity import Identity, verify
from shoal_codecs.wire.blob import DIGEST_BYTES, BlobRef
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.topics import check_name

MANIFEST_FORMAT = 1
MAX_MANIFEST_BYTES = 1024 * 1024
_SIGN_LABEL = b"shoal/1 manifest\x00"

ArtefactKind = Literal["int8", "float32"]


class HealthGate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a device judges the release on its own held-out examples.

    A verdict needs ``min_examples``; "worse" is said only where chance would explain the counts with a
    probability under ``significance``. ``floor_accuracy`` (0 to 1) is what the first model on a device is
    held against. ``max_latency_ms`` is the mean time of one prediction, 0 for any. The whole check must end
    within ``time_limit_s`` seconds.
    """

    min_examples: int = 20
    significance: float = 0.001
    floor_accuracy: float = 0.3
    max_latency_ms: float = 0.0
    time_limit_s: float = 60.0


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The round that made the model, over how many devices; accuracy (0 to 1) on their held-out examples."""

    round: int = 0
    devices: int = 0
    examples: int = 0
    accuracy: float = 0.0


class Artefact(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One deployable file."""

    kind: ArtefactKind
    blob: BlobRef


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One release. Digests are 32 bytes: ``model`` and ``parent`` of float32 vectors, ``task`` of the task.

    ``parent`` is empty for a first version. ``hardware`` names the architectures it runs on, none for all.
    Times are milliseconds since the epoch. ``allow_older`` lets it replace a higher version.

    Raises:
        MalformedManifestError: parts that contradict each other.
    """

    format: int = MANIFEST_FORMAT
    fleet: str
    release: str
    version: int
    model: bytes
    parent: bytes
    task: bytes
    artefacts: tuple[Artefact, ...]
    provenance: Provenance
    gate: HealthGate = HealthGate()
    hardware: tuple[str, ...] = ()
    created_ms: int
    expires_ms: int
    allow_older: bool = False

    def __post_init__(self) -> None:
        """Refuse what no publisher means."""
        _check(self)

    def artefact(self, kinds: tuple[str, ...]) -> Artefact:
        """Return the first artefact whose kind is in ``kinds``, in the order of ``kinds``.

        Raises:
            MissingArtefactError: there is none.
        """
        for kind in kinds:
            for artefact in self.artefacts:
                if artefact.kind == kind:
                    return artefact
        raise MissingArtefactError(
            f"release {self.release} has no artefact of kind {' or '.join(kinds)}: publish one"
        )


def sign_manifest(manifest: Manifest, publisher: Identity) -> tuple[bytes, bytes]:
    """Return the manifest's bytes and the publisher's signature (64 bytes) over them."""
    data = pack(manifest)
    return data, publisher.sign(_SIGN_LABEL + data)


def open_manifest(
    data: bytes, signature: bytes, publisher: bytes, fleet: str, now_ms: int | None
) -> Manifest:
    """Return the manifest in ``data`` if ``publisher`` (public key) signed it for ``fleet``.

    ``now_ms`` None asks no date: an expired release keeps running, it is only never installed.

    Raises:
        ManifestSignatureError: another key's, or changed.
        MalformedManifestError: no manifest, an unknown field, or parts that contradict each other.
        ManifestFleetError: of another fleet.
        ManifestExpiredError: past its date.
    """
    if len(data) > MAX_MANIFEST_BYTES:
        raise MalformedManifestError(f"{len(data)} bytes, a manifest has at most {MAX_MANIFEST_BYTES}")
    try:
        verify(publisher, _SIGN_LABEL + data, signature)
    except BadSignatureError as error:
        raise ManifestSignatureError(
            "the publisher of the roster did not sign this manifest: publish it again with its key"
        ) from error
    try:
        manifest = unpack(data, Manifest)
    except (msgspec.ValidationError, WireError) as error:
        raise MalformedManifestError(
            f"no manifest this party reads: {error}; update the older one"
        ) from error
    if manifest.fleet != fleet:
        raise ManifestFleetError(f"the release is for fleet {manifest.fleet!r}, this device is of {fleet!r}")
    if now_ms is not None and now_ms >= manifest.expires_ms:
        raise ManifestExpiredError(
            f"release {manifest.release} has expired: publish it again, or set this device's clock"
        )
    return manifest


def _check(manifest: Manifest) -> None:
    if manifest.format != MANIFEST_FORMAT:
        raise MalformedManifestError(
            f"manifest format {manifest.format}, this party reads {MANIFEST_FORMAT}: update the older one"
        )
    try:
        check_name(manifest.fleet)
        check_name(manifest.release)
    except WireError as error:
        raise MalformedManifestError(f"in the manifest: {error}") from error
    if manifest.version < 0 or manifest.expires_ms <= manifest.created_ms:
        raise MalformedManifestError("a version is at least 0 and a release expires after it was made")
    if not all(len(one) == DIGEST_BYTES for one in (manifest.model, manifest.task)):
        raise MalformedManifestError(f"the digests of model and task have {DIGEST_BYTES} bytes")
    if len(manifest.parent) not in {0, DIGEST_BYTES}:
        raise MalformedManifestError(f"the parent's digest has {DIGEST_BYTES} bytes, or none")
    kinds = [artefact.kind for artefact in manifest.artefacts]
    if not kinds or len(set(kinds)) != len(kinds):
        raise MalformedManifestError("a release has at least one artefact and one of each kind")
    _check_gate(manifest.gate)


def _check_gate(gate: HealthGate) -> None:
    numbers: tuple[Any, ...] = (
        gate.significance,
        gate.floor_accuracy,
        gate.max_latency_ms,
        gate.time_limit_s,
    )
    if not all(map(math.isfinite, numbers)):
        raise MalformedManifestError("the numbers of a health gate are finite")
    if gate.min_examples < 1 or not 0 < gate.significance < 1 or not 0 <= gate.floor_accuracy <= 1:
        raise MalformedManifestError(
            "a health gate needs min_examples above 0, a significance between 0 and 1, a floor of 0 to 1"
        )
    if gate.max_latency_ms < 0 or gate.time_limit_s <= 0:
        raise MalformedManifestError("a health gate's times are above zero")
