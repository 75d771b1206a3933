"""What can be wrong with a task file."""

from shoal_codecs.errors import ShoalError


class InvalidTaskError(ShoalError):
    """A task file that cannot be used as it is; author it again, or fetch it again."""
