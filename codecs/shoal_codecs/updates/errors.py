"""Every fault of encoding, decoding and summing updates."""

from shoal_codecs.errors import ShoalError


class UpdateError(ShoalError):
    """An update cannot be encoded, decoded or applied."""


class UnknownCodecError(UpdateError):
    """No codec is registered under that wire name."""


class CodecContextError(UpdateError):
    """The context lacks, or contradicts, something the codec needs."""


class VectorShapeError(UpdateError):
    """A vector's shape or dtype is not what the model or the ring calls for."""


class NonFiniteUpdateError(UpdateError):
    """A vector holds NaN, infinity or numbers too large to be coded."""


class PayloadLengthError(UpdateError):
    """A payload is shorter or longer than its context allows."""


class PayloadContentError(UpdateError):
    """A payload of an acceptable length holds something no encoder writes."""


class CoordinateError(UpdateError):
    """Coordinates are out of range, repeated, out of order or of the wrong number."""


class RingSpecError(UpdateError):
    """A ring's parameters make no sense."""


class RingOverflowError(RingSpecError):
    """The largest possible sum does not fit the ring."""


class WordWidthError(UpdateError):
    """A word width outside what can be packed, or words that do not fit it."""


class ExampleCountError(UpdateError):
    """An update claims to come from no examples at all."""


class RingSumRangeError(UpdateError):
    """A sum holds what no set of honest devices could have added up to."""


class UnledRoundError(UpdateError):
    """The step that a round takes coordinates from is not there, or not the one that led to its base."""


class LocalParameterError(UpdateError):
    """Parameters to keep on the device that the task does not have, or that leave nothing to share."""


class SliceShapeError(UpdateError):
    """A variant of a model whose parameters are no prefixes of the full ones."""
