"""What can be wrong with an algorithm of the coordinator."""

from shoal_coordinator.round_errors import RoundError


class AlgorithmError(RoundError):
    """An algorithm that cannot be used as it is asked for."""


class UnknownAlgorithmError(AlgorithmError):
    """A name that the registry does not have."""


class IncompatibleAlgorithmError(AlgorithmError):
    """An algorithm in a mode, with a codec, under noise or on a task that it does not work with."""


class AlgorithmStateError(AlgorithmError):
    """What is stored for the algorithm beside a version cannot be used."""


class TooFewReportsError(AlgorithmError):
    """Fewer reports than a robust rule needs to hold against the hostile ones."""
