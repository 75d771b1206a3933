"""What goes into and comes out of a link, and what a link counts."""

from dataclasses import dataclass

from shoal_codecs.transport.errors import PacketTooLargeError

# Fixed header, topic length, message id, and the properties of a message without any.
_PACKET_OVERHEAD = 16


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message as it arrived. ``retain`` is set when the broker had it stored."""

    topic: str
    payload: bytes
    retain: bool
    qos: int


@dataclass(frozen=True, slots=True)
class Publication:
    """A message to be sent: a Will or a farewell."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


@dataclass(slots=True)
class LinkStats:
    """Counters of one link since it was made."""

    connects: int = 0
    reconnects: int = 0
    dropped_out: int = 0
    """QoS 0 messages not sent, because the link was down or its socket stalled."""
    dropped_in: int = 0
    """QoS 0 messages thrown away, because the handlers did not keep up."""
    duplicates: int = 0
    """Deliveries that the broker marked as repeated."""
    unhandled: int = 0
    """Deliveries that no subscription of this process asked for."""
    handler_errors: int = 0
    peak_backlog: int = 0
    """Most QoS 1 messages ever waiting for a handler, the one in hand included."""


def check_size(message: Publication, limit: int) -> None:
    """Refuse what would not pass as one packet of at most ``limit`` bytes.

    Raises:
        PacketTooLargeError: a message over the limit.
    """
    size = len(message.payload) + len(message.topic.encode()) + _PACKET_OVERHEAD
    if size > limit:
        raise PacketTooLargeError(
            f"a message of {size} bytes for {message.topic!r} is over the limit of {limit}: "
            "send it as a blob, or raise max_packet_bytes here and on the broker"
        )
