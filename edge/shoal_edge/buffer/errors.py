"""What can go wrong with a rolling buffer."""

from shoal_edge.trainers.errors import DataError


class RollingBufferError(DataError):
    """The buffer cannot be used in that way."""


class BufferFolderError(RollingBufferError):
    """The folder cannot be read or written, or holds no buffer."""


class BufferMismatchError(RollingBufferError):
    """A buffer that was made for other examples, or with another capacity."""


class BufferDataError(RollingBufferError):
    """An example or a label that is not of the buffer's shape and type."""


class UnknownExampleError(RollingBufferError):
    """A label for an example that the buffer does not hold, or no longer."""
