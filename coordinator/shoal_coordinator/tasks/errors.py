"""What can be wrong with the task that somebody names."""

from shoal_codecs.errors import ShoalError


class TaskNameError(ShoalError):
    """A task that cannot be taken."""


class UnknownTaskError(TaskNameError):
    """No task of that name comes with Shoal."""


class UnreadableTaskError(TaskNameError):
    """A task file that cannot be read."""
