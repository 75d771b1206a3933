"""Every fault a device can find with a release, or with the slots it installs into."""

from shoal_edge.errors import EdgeError


class ReleaseError(EdgeError):
    """A release this device does not run; what runs keeps running."""


# --- an order that is refused before a byte is fetched --------------------------------------------


class OrderRefusedError(ReleaseError):
    """An order this device does not follow; the text is the reason the coordinator reads."""


class ReleaseMismatchError(OrderRefusedError):
    """An order whose manifest describes another release."""


class OlderVersionError(OrderRefusedError):
    """A lower version than the active one, without the publisher's word that it is meant."""


class RolledBackBeforeError(OrderRefusedError):
    """A release that this device tried and left by itself."""


class HardwareMismatchError(OrderRefusedError):
    """A release made for other hardware."""


# --- the updater and the slots --------------------------------------------------------------------


class UnexpectedUpdaterEventError(ReleaseError):
    """An event that the transition table does not list for this state: a defect of the agent."""


class InstallError(ReleaseError):
    """An artefact could not be written; the active slot is untouched."""


class DiskFullError(InstallError):
    """There is no room for the artefact."""


class SlotWriteError(InstallError):
    """The idle slot cannot be written."""


class CorruptArtefactError(InstallError):
    """The fetched file is not the one the manifest describes."""


class ActiveSlotError(InstallError):
    """An attempt to write the slot that is in use: a defect of the agent."""


class DamagedSlotError(ReleaseError):
    """A slot that does not hold what its manifest describes; it is never switched to."""


class NoReleaseError(ReleaseError):
    """No release is installed yet."""


# --- the health check -----------------------------------------------------------------------------


class HealthCheckError(ReleaseError):
    """The health check could not be done; the device goes back."""
