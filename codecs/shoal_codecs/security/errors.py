"""Why a word is not believed."""

from shoal_codecs.errors import ShoalError


class SecurityError(ShoalError):
    """Something is not what its sender says it is."""


class UnsignedMessageError(SecurityError):
    """A message that must be signed and is not."""


class BadSignatureError(SecurityError):
    """A signature that is not the named party's over these bytes in this place."""


class UnknownPartyError(SecurityError):
    """A party that is not on the roster."""


class BadRosterError(SecurityError):
    """A roster the authority did not sign, or one of another fleet."""


class OldRosterError(BadRosterError):
    """A roster older than one that was taken before, or another of the same serial."""


class PinnedHubsError(BadRosterError):
    """A roster with other hubs, keys or operators than were pinned at enrolment."""


class BadPinsError(SecurityError):
    """A file of pins, or of the newest roster's serial, that cannot be read."""


class BadKeyFileError(SecurityError):
    """A key file that is missing, open to others, or holds no key."""


class UnsealError(SecurityError):
    """Sealed bytes that this key does not open in this context."""
