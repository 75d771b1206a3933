"""How a connection begins: TCP, TLS files, and what CONNECT announces."""

import asyncio
import socket

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from shoal_codecs.transport.settings import LinkSettings


def connect_properties(settings: LinkSettings) -> Properties:
    """Return what CONNECT announces in MQTT 5: session expiry, window, and largest packet."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.ReceiveMaximum = settings.window
    properties.MaximumPacketSize = settings.max_packet_bytes
    return properties


def tls_parameters(settings: LinkSettings) -> aiomqtt.TLSParameters:
    """Return the certificate files; without ``ca_file`` the system's authorities are trusted."""
    return aiomqtt.TLSParameters(
        ca_certs=settings.ca_file or None,
        certfile=settings.cert_file or None,
        keyfile=settings.key_file or None,
    )


async def connect_tcp(host: str, port: int) -> socket.socket:
    """Connect to the first address of ``host`` that answers, with Nagle's delay off.

    Raises:
        OSError: no address is known, or none of them answered; the last failure.
    """
    loop = asyncio.get_running_loop()
    failure: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)  # noqa: FBT003 - the library's signature
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
        except OSError as exc:
            sock.close()
            failure = exc
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(f"no address for {host}")
