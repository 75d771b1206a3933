"""Frames: a message's bytes and the signature over them, as they cross the broker.

A frame is the MessagePack array ``[content, signature]``: ``content`` the packed message (kept as received,
never encoded again before it is verified), ``signature`` 64 bytes or nil.
"""

from typing import Any

import msgspec

from shoal_codecs.wire.errors import (
    MalformedMessageError,
    OversizedMessageError,
    ProtocolVersionError,
    UnknownMessageError,
)
from shoal_codecs.wire.messages import PROTOCOL_VERSION, AnyMessage, ReportPart
from shoal_codecs.wire.packing import TypedDecoder, binary_head, pack

MAX_FRAME_BYTES = 2 * 1024 * 1024
# An array of two, and nil.
_FRAME_HEAD, _NO_SIGNATURE = b"\x92", b"\xc0"
_NO_DATA = memoryview(b"")


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A message as it travels: ``content``, a view, and the signature over it and where it was said."""

    content: memoryview
    signature: bytes | None = None


class _Head(msgspec.Struct, frozen=True, array_like=True):
    """What every message of every version begins with."""

    tag: str
    protocol: Any


_FRAMES = TypedDecoder(Frame)
_HEADS = TypedDecoder(_Head)
_DECODERS: dict[str, TypedDecoder[AnyMessage]] = {
    str(kind.__struct_config__.tag): TypedDecoder(kind) for kind in AnyMessage.__args__
}


def encode_message(message: AnyMessage) -> bytes:
    """Return the content bytes of ``message``."""
    return pack(message)


def encode_frame(content: bytes | memoryview, signature: bytes | None) -> bytes:
    """Return the frame around ``content``."""
    return pack(Frame(memoryview(content), signature))


def encode_unsigned(message: AnyMessage) -> bytes:
    """Return the frame of ``message`` without a signature."""
    if not isinstance(message, ReportPart):
        return encode_frame(encode_message(message), None)
    # A report's megabytes are copied once only: they come last, after what the same message has without.
    data = message.data
    empty = encode_message(msgspec.structs.replace(message, data=_NO_DATA))
    head = empty.removesuffix(binary_head(0)) + binary_head(len(data))
    return b"".join((_FRAME_HEAD, binary_head(len(head) + len(data)), head, data, _NO_SIGNATURE))


def decode_frame(payload: bytes) -> Frame:
    """Return the frame in ``payload``, whose content is not copied.

    Raises:
        OversizedMessageError: longer than ``MAX_FRAME_BYTES``.
        MalformedMessageError: not a frame.
    """
    if len(payload) > MAX_FRAME_BYTES:
        raise OversizedMessageError(
            f"a message of {len(payload)} bytes is over {MAX_FRAME_BYTES}: send it as a blob"
        )
    try:
        return _FRAMES.decode(payload)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(
            f"not a frame of [content, signature] ({error}): look at what its sender runs"
        ) from error


def decode_message(content: bytes | memoryview) -> AnyMessage:
    """Return the message in a frame's ``content``.

    Raises:
        MalformedMessageError: not a message.
        UnknownMessageError: a tag this party does not know.
        ProtocolVersionError: a version this party does not speak.
    """
    try:
        head = _HEADS.decode(content)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(
            "not a message of [tag, protocol, sender, id, time, ...]: look at what its sender runs"
        ) from error
    decoder = _DECODERS.get(head.tag)
    if decoder is None:
        raise UnknownMessageError(f"no message is called {head.tag[:16]!r}: update this party")
    if head.protocol != PROTOCOL_VERSION:
        raise ProtocolVersionError(
            f"protocol version {head.protocol!r}, this party speaks {PROTOCOL_VERSION}: update the older one"
        )
    try:
        return decoder.decode(content)
    except msgspec.ValidationError as error:
        raise MalformedMessageError(
            f"not a {head.tag!r} message ({error}): look at what its sender runs"
        ) from error
