"""What can go wrong with a source beyond what is wrong with examples as such."""

from shoal_edge.trainers.errors import DataError, UnreadableDataError


class DamagedDataError(UnreadableDataError):
    """A file that is cut short, has bytes too many, or breaks the rules of its format."""


class DataTooLargeError(DataError):
    """More data than the settings allow, or a header that claims so."""


class ChangedDataError(UnreadableDataError):
    """A file that somebody wrote to while it was read."""


class DataSettingsError(DataError):
    """The table ``[data]`` does not fit the source or the task."""


class MissingReaderError(DataError):
    """A package that this kind of source needs is not installed."""
