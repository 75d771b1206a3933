"""What can be wrong with the coordinator's store."""

from shoal_codecs.errors import ShoalError


class StoreError(ShoalError):
    """The store cannot be used as it is."""


class DamagedStoreError(StoreError):
    """The database file is no database, or one that is broken."""


class NewerStoreError(StoreError):
    """The database was written by a newer Shoal."""


class UnknownVersionError(StoreError):
    """A model version that is not stored."""


class StoreInUseError(StoreError):
    """Another process has the store open."""


class StoreWriteError(StoreError):
    """The disk did not take what was to be kept."""


class ClosedStoreError(StoreError):
    """The store was closed by this process before."""


class StoreConflictError(StoreError):
    """What is to be kept contradicts what is kept already."""
