"""How a connection begins: TCP, TLS, and what CONNECT announces; all of it can be cancelled."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from typing import Any

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from shoal_codecs.transport.settings import BrokerAddress, LinkSettings


def connect_properties(settings: LinkSettings) -> Properties:
    """Return what CONNECT announces in MQTT 5: session expiry, window, and largest packet."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.SessionExpiryInterval = settings.session_expiry_s
    properties.ReceiveMaximum = settings.window
    properties.MaximumPacketSize = settings.max_packet_bytes
    return properties


async def dial(settings: LinkSettings, address: BrokerAddress) -> socket.socket:
    """Return a connected socket that does not block, with the TLS handshake done where wanted.

    Raises:
        OSError: no address is known, none of them answered, or TLS failed (``ssl.SSLError``).
    """
    sock = await connect_tcp(address.host, address.port)
    if not address.tls:
        return sock
    try:
        context = await asyncio.to_thread(_tls_context, settings)
        # The first socket gives its descriptor to the second.
        sock = context.wrap_socket(sock, server_hostname=address.host, do_handshake_on_connect=False)
        await _shake_hands(sock)
    except BaseException:
        sock.close()
        raise
    return sock


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


def _tls_context(settings: LinkSettings) -> ssl.SSLContext:
    """Trust ``ca_file``, or the system's authorities without one; TLS 1.2 and newer."""
    context = ssl.create_default_context(cafile=settings.ca_file or None)
    if settings.cert_file:
        context.load_cert_chain(settings.cert_file, settings.key_file or None)
    return context


async def _shake_hands(sock: ssl.SSLSocket) -> None:
    loop = asyncio.get_running_loop()
    while True:
        try:
            sock.do_handshake()
        except ssl.SSLWantReadError:
            await _until_ready(sock, loop.add_reader, loop.remove_reader)
        except ssl.SSLWantWriteError:
            await _until_ready(sock, loop.add_writer, loop.remove_writer)
        else:
            return


async def _until_ready(sock: socket.socket, watch: Callable[..., Any], unwatch: Callable[..., Any]) -> None:
    ready = asyncio.get_running_loop().create_future()

    def settle() -> None:
        with contextlib.suppress(asyncio.InvalidStateError):
            ready.set_result(None)

    watch(sock.fileno(), settle)
    try:
        await ready
    finally:
        unwatch(sock.fileno())
