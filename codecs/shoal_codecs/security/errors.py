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


class BadKeyFileError(SecurityError):
    """A key file that is missing, open to others, or holds no key."""


class UnsealError(SecurityError):
    """Sealed bytes that this key does not open in this context."""
