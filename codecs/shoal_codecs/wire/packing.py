"""MessagePack into typed structs, within limits: the one place that does it."""

from typing import Any, Generic, TypeVar

import msgpack
import msgspec

from shoal_codecs.wire.errors import MalformedMessageError

T = TypeVar("T")
MAX_COLLECTION = 1 << 16
_ENCODER = msgspec.msgpack.Encoder()


def pack(value: Any) -> bytes:
    """Encode a struct, or plain containers of plain values, as MessagePack."""
    return _ENCODER.encode(value)


def unpack(data: bytes | memoryview, kind: type[T]) -> T:
    """Decode ``data`` into ``kind``; lengths inside are bounded by the length of ``data`` itself.

    Raises:
        MalformedMessageError: no MessagePack, or trailing bytes.
        msgspec.ValidationError: MessagePack that is not a ``kind``.
    """
    return msgspec.convert(unpack_plain(data), kind, builtin_types=(bytes,))


class TypedDecoder(Generic[T]):
    """Decodes MessagePack straight into ``kind``: for frames and messages, of which megabytes arrive.

    What is declared a ``memoryview`` stays where it lies in the data.
    """

    def __init__(self, kind: type[T]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind, ext_hook=_no_extension)

    def decode(self, data: bytes | memoryview) -> T:
        """Decode ``data``.

        Raises:
            MalformedMessageError: no MessagePack, or trailing bytes.
            msgspec.ValidationError: MessagePack that is not a ``kind``.
        """
        try:
            return self._decoder.decode(data)
        except msgspec.ValidationError:
            raise
        except (ValueError, TypeError, RecursionError, msgspec.DecodeError) as error:
            raise _malformed(error) from error


def _no_extension(code: int, _data: memoryview) -> Any:
    raise msgspec.ValidationError(f"MessagePack extension {code} has no place in this protocol")


def unpack_plain(data: bytes | memoryview) -> Any:
    """Decode ``data`` into plain containers.

    Raises:
        MalformedMessageError: no MessagePack, trailing bytes, or containers over the limit.
    """
    limit = len(data)
    entries = min(limit, MAX_COLLECTION)
    try:
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            max_str_len=limit,
            max_bin_len=limit,
            max_array_len=entries,
            max_map_len=entries,
            max_ext_len=0,
        )
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise _malformed(error) from error


def _malformed(error: Exception) -> MalformedMessageError:
    fault = str(error) or type(error).__name__
    return MalformedMessageError(
        f"no MessagePack of this protocol ({fault}): look at what its sender runs, and who may write here"
    )


def binary_head(size: int) -> bytes:
    """Return what stands before ``size`` bytes of binary in MessagePack."""
    if size < 1 << 8:
        return b"\xc4" + size.to_bytes(1, "big")
    if size < 1 << 16:
        return b"\xc5" + size.to_bytes(2, "big")
    return b"\xc6" + size.to_bytes(4, "big")


def prefixed(text: str) -> bytes:
    """Return ``text`` as UTF-8 after its length in two bytes: what signatures and digests take names in."""
    data = text.encode()
    return len(data).to_bytes(2, "big") + data
