"""Whether an order is followed: everything that is known before a byte of the release is fetched."""

from shoal_codecs.ota.manifest import ArtefactKind, Manifest
from shoal_edge.release_errors import (
    HardwareMismatchError,
    OlderVersionError,
    ReleaseMismatchError,
    RolledBackBeforeError,
)


def check_order(
    manifest: Manifest,
    release: str,
    *,
    active: Manifest | None,
    rolled_back: tuple[str, ...],
    hardware: str,
    kinds: tuple[ArtefactKind, ...],
) -> None:
    """Refuse a verified ``manifest`` that an order for ``release`` should not bring to this device.

    ``active`` is what runs; ``rolled_back`` the releases this device left by itself; ``hardware`` its
    architecture; ``kinds`` the artefacts it runs.

    Raises:
        ReleaseMismatchError, RolledBackBeforeError, HardwareMismatchError, OlderVersionError: why not.
        MissingArtefactError: nothing in it for this device.
    """
    if manifest.release != release:
        raise ReleaseMismatchError(
            f"the order is for {release[:64]!r}, its manifest describes {manifest.release!r}: order again"
        )
    if release in rolled_back:
        raise RolledBackBeforeError(
            f"this device left {release} by itself: make a new release if you mean it"
        )
    if manifest.hardware and hardware not in manifest.hardware:
        raise HardwareMismatchError(
            f"the release is for {', '.join(manifest.hardware)}, this is {hardware}: publish one for it"
        )
    manifest.artefact(kinds)
    older = active is not None and manifest.version < active.version and manifest.release != active.release
    if active is not None and older and not manifest.allow_older:
        raise OlderVersionError(
            f"version {manifest.version} is older than {active.version}, which runs: set allow_older"
        )
