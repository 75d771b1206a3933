"""What can go wrong between this party and the broker."""

from shoal_codecs.errors import ShoalError


class TransportError(ShoalError):
    """Something between this party and the broker failed."""


class BadBrokerUrlError(TransportError):
    """A broker address that cannot be read."""


class LinkClosedError(TransportError):
    """A use of a link that was closed."""


class ConnectionLostError(TransportError):
    """The connection ended; the link makes the next one."""


class BrokerUnreachableError(TransportError):
    """Nothing answers at the broker's address."""


class BrokerAuthenticationError(TransportError):
    """The broker refuses these credentials."""


class BrokerCertificateError(TransportError):
    """TLS with the broker failed, or a certificate file cannot be read."""


class BrokerProtocolError(TransportError):
    """The other end does not speak the MQTT version that was tried."""


class BrokerRefusedError(TransportError):
    """The broker refuses the connection for a reason of its own."""


class SessionTakenOverError(TransportError):
    """Another process connected under the same client id."""


class PacketTooLargeError(TransportError):
    """A message that the broker or this link would not carry."""


class PublishRefusedError(TransportError):
    """The broker refused a message, most often for its access rules."""


class SubscribeRefusedError(TransportError):
    """The broker refused a subscription."""


class CorruptChunkError(TransportError):
    """A chunk arrives corrupted again and again."""


class BlobTimeoutError(TransportError):
    """Nobody published the missing chunks of a blob in time."""


class BlobStorageError(TransportError):
    """A blob cannot be kept on, or read from, this disk."""


class PortInUseError(TransportError):
    """Something else listens on the port a broker was to take."""


class BrokerStartError(TransportError):
    """A broker that was started here did not come up."""
