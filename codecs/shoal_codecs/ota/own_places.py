"""Where a device puts its own tensors into a deployable model that it shares with the fleet.

A round may leave parameters on the devices (``local``: FedPer's head, FedBN's normalisation). A deployable
model then has the task's first values in their place. Behind the flatbuffer it carries what a device needs to
put in its own: readers of flatbuffers take no notice of bytes after the end (TensorFlow Lite's metadata
packs associated files there).

    flatbuffer | MessagePack of OwnPlaces | its length (4 bytes, little endian) | "SHOP"
"""

import msgspec

from shoal_codecs.ota.errors import OwnPlacesError
from shoal_codecs.wire.errors import MalformedMessageError
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.task import Parameter

MAGIC = b"SHOP"
_LENGTH_BYTES = 4
_TAIL_BYTES = _LENGTH_BYTES + len(MAGIC)


class OwnPlace(msgspec.Struct, frozen=True):
    """``size`` bytes at ``offset`` of the flatbuffer are the little-endian float32 values of ``source``."""

    source: str
    offset: int
    size: int


class OwnPlaces(msgspec.Struct, frozen=True):
    """The device's ``parameters`` and the ``places`` that their values go to.

    A source is a parameter's name, or an output of the .tflite ``preparation`` (empty for none), whose inputs
    are the parameters ``inputs`` and whose outputs are called ``outputs``, both in the model's own order.
    """

    parameters: tuple[Parameter, ...]
    places: tuple[OwnPlace, ...]
    preparation: bytes = b""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


def with_own_places(model: bytes, places: OwnPlaces) -> bytes:
    """Return the file of ``model`` (a flatbuffer) that carries ``places``."""
    packed = pack(places)
    return model + packed + len(packed).to_bytes(_LENGTH_BYTES, "little") + MAGIC


def split_own_places(data: bytes) -> tuple[bytes, OwnPlaces | None]:
    """Return the flatbuffer of a deployable file, and its places; None where it has none.

    Raises:
        OwnPlacesError: places that are damaged, or outside of the flatbuffer.
    """
    if not data.endswith(MAGIC):
        return data, None
    length = int.from_bytes(data[-_TAIL_BYTES : -len(MAGIC)], "little")
    begin = len(data) - _TAIL_BYTES - length
    if begin < 0:
        raise OwnPlacesError("a deployable file whose places are cut short: fetch it again")
    try:
        places = unpack(data[begin:-_TAIL_BYTES], OwnPlaces)
    except (MalformedMessageError, msgspec.ValidationError) as error:
        raise OwnPlacesError(
            f"a deployable file whose places are damaged ({error}): fetch it again"
        ) from error
    if any(one.offset < 0 or one.size < 0 or one.offset + one.size > begin for one in places.places):
        raise OwnPlacesError("a deployable file with places outside of it: fetch it again")
    return data[:begin], places
