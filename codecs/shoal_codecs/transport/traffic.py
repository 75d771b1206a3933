"""Bytes on the TCP stream as the kernel counts them."""

import socket
import struct
from dataclasses import dataclass

# Offsets in struct tcp_info of linux/tcp.h; the structure only ever grows at its end.
_ACKED_RECEIVED = struct.Struct("=QQ")
_ACKED_AT = 120
_SENT_RETRANS = struct.Struct("=QQ")
_SENT_AT = 200
_ASK_BYTES = 256
# TCP states after the far end's FIN, which the kernel counts as one received byte:
# TIME_WAIT, CLOSE_WAIT, LAST_ACK, CLOSING.
_AFTER_FIN = {6, 8, 9, 11}


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes ``sent`` and ``received`` on TCP streams: MQTT and TLS framing in, TCP/IP headers out."""

    sent: int = 0
    received: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        """Return the sum of two counts."""
        return Traffic(self.sent + other.sent, self.received + other.received)

    def __sub__(self, other: "Traffic") -> "Traffic":
        """Return what was added since ``other`` was read."""
        return Traffic(self.sent - other.sent, self.received - other.received)


def read_traffic(sock: socket.socket) -> Traffic | None:
    """Return what this connection carried so far, or None where the kernel does not say.

    Retransmitted bytes count once. Before Linux 4.19 only acknowledged bytes are known.
    """
    option = getattr(socket, "TCP_INFO", None)
    if option is None:
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, option, _ASK_BYTES)
    except OSError:
        return None
    if len(info) < _ACKED_AT + _ACKED_RECEIVED.size:
        return None
    acked, received = _ACKED_RECEIVED.unpack_from(info, _ACKED_AT)
    received -= info[0] in _AFTER_FIN
    if len(info) >= _SENT_AT + _SENT_RETRANS.size:
        sent, retransmitted = _SENT_RETRANS.unpack_from(info, _SENT_AT)
        return Traffic(sent - retransmitted, received)
    # The acknowledged count of the side that connected includes its SYN.
    return Traffic(max(0, acked - 1), received)
