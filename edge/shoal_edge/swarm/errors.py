"""What keeps a swarm from starting, or all of it from going on."""

from shoal_codecs.errors import ShoalError


class SwarmError(ShoalError):
    """The swarm cannot do what it was asked."""


class TooFewFoldersError(SwarmError):
    """Fewer devices are enrolled in the folder than the swarm shall have."""


class SwarmFailedError(SwarmError):
    """Every device of the swarm has failed."""
