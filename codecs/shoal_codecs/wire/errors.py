"""What can be wrong with bytes, names and topics that come from outside."""

from shoal_codecs.errors import ShoalError


class WireError(ShoalError):
    """Something that crossed the broker cannot be used."""


class InvalidNameError(WireError):
    """A fleet, device or hub name that cannot stand in a topic."""


class InvalidTopicError(WireError):
    """A topic that is none of this fleet's."""


class OversizedMessageError(WireError):
    """A message longer than the limit of its kind; refused before it is parsed."""


class MalformedMessageError(WireError):
    """Bytes that are no message of this protocol."""


class UnknownMessageError(WireError):
    """A well-formed message of a kind this party does not know, perhaps from a newer one."""


class ProtocolVersionError(WireError):
    """A message of a protocol version this party does not speak."""


class SenderMismatchError(WireError):
    """A message whose sender is not the party its topic belongs to."""


class OutOfRoundError(WireError):
    """A believable word about a round that is not open: late, early, or made up."""


class ReplayedMessageError(WireError):
    """A message that was handled before."""


class InvalidPlanError(WireError):
    """A round plan whose parts contradict each other or that names a field nobody knows."""


class InvalidBlobError(WireError):
    """A blob description whose numbers do not fit together."""
