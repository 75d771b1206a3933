"""Every fault of mode ``single``."""

from shoal_codecs.secagg.errors import SecAggError


class SingleError(SecAggError):
    """Something of mode ``single`` that does not hold."""


class ShamirError(SingleError):
    """A secret, threshold or share that fits no polynomial."""


class ThresholdError(SingleError):
    """Fewer shares than the threshold: the secret stays shut."""


class NeighbourhoodError(SingleError):
    """No number of neighbours keeps what is asked for."""
