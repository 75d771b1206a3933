"""Frames: a message's bytes and the signature over them, as they cross the broker.

A frame is the MessagePack array ``[content, signature]``: ``content`` the packed message (kept as received,
never encoded again before it is verified), ``signature`` 64 bytes or nil.
"""

import msgspec

from shoal_codecs.wire.errors import (
    MalformedMessageError,
    OversizedMessageError,
    ProtocolVersionError,
    UnknownMessageError,
)
from shoal_codecs.wire.messages import PROTOCOL_VERSION, AnyMessage
from shoal_codecs.wire.packing import pack, unpack_plain

MAX_FRAME_BYTES = 2 * 1024 * 1024
# One kind at a time: to convert into the union costs ten times as much, for it is looked through each time.
_KINDS: dict[str, type[AnyMessage]] = {str(kind.__struct_config__.tag): kind for kind in AnyMessage.__args__}


class Frame(msgspec.Struct, frozen=True, array_like=True):
    """A message as it travels; ``signature`` is over ``content`` and where it was said."""

    content: bytes
    signature: bytes | None = None


def encode_message(message: AnyMessage) -> bytes:
    """Return the content bytes of ``message``."""
    return pack(message)


def encode_frame(content: bytes, signature: bytes | None) -> bytes:
    """Return the frame around ``content``."""
    return pack(Frame(content, signature))


def decode_frame(payload: bytes) -> Frame:
    """Return the frame in ``payload``.

    Raises:
        OversizedMessageError: longer than ``MAX_FRAME_BYTES``.
        MalformedMessageError: not a frame.
    """
    if len(payload) > MAX_FRAME_BYTES:
        raise OversizedMessageError(
            f"a message of {len(payload)} bytes is over {MAX_FRAME_BYTES}: send it as a blob"
        )
    try:
        return msgspec.convert(unpack_plain(payload), Frame, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedMessageError(
            f"not a frame of [content, signature] ({error}): look at what its sender runs"
        ) from error


def decode_message(content: bytes) -> AnyMessage:
    """Return the message in a frame's ``content``.

    Raises:
        MalformedMessageError: not a message.
        UnknownMessageError: a tag this party does not know.
        ProtocolVersionError: a version this party does not speak.
    """
    plain = unpack_plain(content)
    if not isinstance(plain, list) or len(plain) < 5 or not isinstance(plain[0], str):
        raise MalformedMessageError(
            "not a message of [tag, protocol, sender, id, time, ...]: look at what its sender runs"
        )
    kind = _KINDS.get(plain[0])
    if kind is None:
        raise UnknownMessageError(f"no message is called {plain[0][:16]!r}: update this party")
    if plain[1] != PROTOCOL_VERSION:
        raise ProtocolVersionError(
            f"protocol version {plain[1]!r}, this party speaks {PROTOCOL_VERSION}: update the older one"
        )
    try:
        message: AnyMessage = msgspec.convert(plain, kind, builtin_types=(bytes,))
    except msgspec.ValidationError as error:
        raise MalformedMessageError(
            f"not a {plain[0]!r} message ({error}): look at what its sender runs"
        ) from error
    return message
