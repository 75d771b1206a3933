"""Why a release's description is not believed or not usable."""

from shoal_codecs.errors import ShoalError


class OtaError(ShoalError):
    """Something about a release cannot be used."""


class MalformedManifestError(OtaError):
    """Bytes that are no manifest, name a field nobody knows, or contradict themselves."""


class ManifestSignatureError(OtaError):
    """A manifest that the fleet's publisher did not sign as it stands."""


class ManifestFleetError(OtaError):
    """A manifest of another fleet."""


class ManifestExpiredError(OtaError):
    """A manifest past its date: what it describes may have been replaced for a reason."""


class MissingArtefactError(OtaError):
    """A manifest without an artefact of a kind that this device runs."""


class InvalidCountsError(OtaError):
    """Health counts that no evaluation can give."""


class OwnPlacesError(OtaError):
    """A deployable file whose places for a device's own tensors cannot be used."""
