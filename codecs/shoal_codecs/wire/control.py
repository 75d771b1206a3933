"""What an algorithm keeps beside a version: vectors by name, and whose words it has taken.

It stays with the coordinator, but for SCAFFOLD's, which every device of a round fetches as it is: the fleet's
control is the vector ``CONTROL``, of zeros where there is none yet.
"""

import msgspec

from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack

CONTROL = "control"
SCAFFOLD = "scaffold"


class AlgorithmMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``vectors`` are little-endian float32[D].

    ``settled`` is, by device, the round of the last change of its own control that was taken.
    """

    algorithm: str
    vectors: dict[str, bytes] = {}
    settled: dict[str, int] = {}


NO_CONTROL = pack(AlgorithmMemory(SCAFFOLD))
"""The blob of the first round, when nobody has a control."""


def decode_memory(data: bytes) -> AlgorithmMemory:
    """Return the memory in ``data``.

    Raises:
        MalformedMessageError: none.
    """
    try:
        return unpack(data, AlgorithmMemory)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(
            f"no memory of an algorithm ({str(error)[:120]}): fetch it again"
        ) from error


def most_control_bytes(dimension: int, devices: int) -> int:
    """Return an upper bound in bytes on what a fleet of so many devices sends as its control."""
    return 4 * dimension + 1024 + 512 * devices
