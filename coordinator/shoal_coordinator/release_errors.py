"""Why the coordinator makes or continues no release."""

from shoal_codecs.errors import ShoalError


class ReleaseError(ShoalError):
    """A release cannot be made or continued."""


class ReleaseExistsError(ReleaseError):
    """A name that a release already has."""


class UnknownReleaseError(ReleaseError):
    """No release of that name."""


class ReleaseEndedError(ReleaseError):
    """A release that has ended already."""


class PublisherKeyError(ReleaseError):
    """A publisher key that the roster does not name: no device would believe it."""


class NoCanaryError(ReleaseError):
    """No device can go first: none is online with enough held-out examples."""


class PrunedVersionError(ReleaseError):
    """A version so old that its vector is no longer kept."""


class CalibrationFileError(ReleaseError):
    """The calibration examples cannot be read."""


class UnexpectedRolloutEventError(ReleaseError):
    """An event that the rollout's transition table does not list for its state."""
