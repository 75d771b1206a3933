"""Which blob is the fleet's control (SCAFFOLD) of rounds that begin with a version."""

from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.errors import BlobStorageError
from shoal_codecs.wire.blob import BlobRef
from shoal_codecs.wire.control import NO_CONTROL, SCAFFOLD, decode_memory
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_coordinator.chains import ModelVersion


class Controls:
    """The algorithm's state beside a version is its control, where the algorithm is SCAFFOLD.

    A version without one, or with another algorithm's, begins with zeros.
    """

    def __init__(self, blobs: BlobStore, newest: ModelVersion) -> None:
        """Look at the newest version, whose state may be another algorithm's; blocking."""
        self._first = blobs.put(NO_CONTROL)
        self._foreign = newest.state if newest.state and not _is_control(blobs, newest.state) else None

    def of(self, version: ModelVersion) -> BlobRef:
        """Return the blob of the control that rounds begin with at ``version``."""
        state = version.state
        return self._first if state is None or state == self._foreign else state


def _is_control(blobs: BlobStore, state: BlobRef) -> bool:
    try:
        return decode_memory(blobs.read(state.name)).algorithm == SCAFFOLD
    except (BlobStorageError, MalformedMessageError):
        return False
