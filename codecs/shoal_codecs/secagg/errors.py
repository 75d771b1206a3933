"""Every fault of sharing updates between hubs."""

from shoal_codecs.errors import ShoalError


class SecAggError(ShoalError):
    """Shares cannot be made, added or combined."""


class HubCountError(SecAggError):
    """Fewer hubs than privacy needs, or another number of seeds than there are hubs."""


class HubIndexError(SecAggError):
    """A hub's index that the sharing does not know."""


class SeedError(SecAggError):
    """A seed of the wrong length, or one used twice."""


class ShareLengthError(SecAggError):
    """A share or a sum with another number of words than the round has."""


class RingWidthError(SecAggError):
    """A ring width out of range, or words that are not of the round's width."""


class PlanHashError(SecAggError):
    """A plan hash that is not 32 bytes."""


class DeviceNameError(SecAggError):
    """A device name that cannot be bound into a key."""


class CertificateError(SecAggError):
    """A second plan on a base whose earlier plan is not given up for good by every hub."""


class MissingCertificateError(CertificateError):
    """A hub's word that an earlier plan is never released is not there."""


class BadCertificateError(CertificateError):
    """A certificate that its hub did not sign, or signed for another plan."""


class ProjectionError(SecAggError):
    """Projections of shares that are not of the round's devices, or a challenge that was not promised."""
