"""One connection to the broker: the only module that reaches into the MQTT client.

aiomqtt ties paho to the event loop. What this adds needs paho's own handles: an acknowledgement
after the handler instead of before it, the session flag of CONNACK, the answers to each publish and
subscription failing at once when the connection ends, and a TCP connect that can be cancelled.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import aiomqtt
import paho.mqtt.client as mqtt
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from shoal_codecs.transport.dial import connect_properties, dial
from shoal_codecs.transport.errors import (
    BrokerProtocolError,
    ConnectionLostError,
    PublishRefusedError,
    SubscribeRefusedError,
)
from shoal_codecs.transport.inbox import Entry, Inbox
from shoal_codecs.transport.messages import Delivery, LinkStats, Publication, check_size
from shoal_codecs.transport.settings import BrokerAddress, LinkSettings
from shoal_codecs.transport.traffic import Traffic, read_traffic

# The client library's own lines repeat, without context, what the link reports once with a remedy.
_silent = logging.getLogger(f"{__name__}.paho")
_silent.setLevel(logging.CRITICAL + 1)

_T = TypeVar("_T")

_MAX_UNSENT_PACKETS = 200
SHORT_SESSION_S = 60


class Session(aiomqtt.Client):
    """One MQTT connection, used once: ``open``, then until ``lost``, then ``abort``.

    ``on_lost`` is called once, synchronously, before any pending answer fails.
    """

    def __init__(
        self,
        settings: LinkSettings,
        address: BrokerAddress,
        client_id: str,
        version: aiomqtt.ProtocolVersion,
        will: Publication | None,
        inbox: Inbox,
        stats: LinkStats,
        on_lost: Callable[[], None],
    ) -> None:
        modern = version is aiomqtt.ProtocolVersion.V5
        super().__init__(
            address.host,
            address.port,
            identifier=client_id,
            logger=_silent,
            protocol=version,
            # MQTT 3.1.1 keeps a session for ever or not at all.
            clean_session=None if modern else settings.session_expiry_s <= SHORT_SESSION_S,
            clean_start=False if modern else mqtt.MQTT_CLEAN_START_FIRST_ONLY,
            keepalive=settings.keepalive_s,
            properties=connect_properties(settings) if modern else None,
            max_inflight_messages=settings.window + 1,
            will=None if will is None else aiomqtt.Will(will.topic, will.payload, will.qos, will.retain),
        )
        self._settings = settings
        self._address = address
        self._inbox = inbox
        inbox.on_room = self._resume
        self._stats = stats
        self._on_lost = on_lost
        self._answers: dict[int, asyncio.Future[None]] = {}
        self._dialled: socket.socket | None = None
        self._over = False
        self._paused = False
        self._final_traffic: Traffic | None = None
        self._home_thread = threading.get_ident()
        self._client.manual_ack_set(on=True)
        # paho connects with a blocking call; it is handed a socket that is connected already.
        setattr(self._client, "_create_socket", lambda: self._dialled)  # noqa: B010
        self.session_present = False
        self.max_packet_bytes = settings.max_packet_bytes

    async def open(self) -> None:
        """Connect, and return when the broker has accepted.

        Raises:
            OSError, TimeoutError, aiomqtt.MqttError: what failed; see ``diagnosis``.
        """
        async with asyncio.timeout(self._settings.connect_timeout_s):
            if self._settings.username:
                self._client.username_pw_set(self._settings.username, await self._password())
            self._dialled = await dial(self._settings, self._address)
            await self.__aenter__()

    @property
    def is_over(self) -> bool:
        """Whether the connection has ended."""
        return self._over

    async def lost(self) -> BaseException | None:
        """Wait until the connection has ended and return why; None after ``disconnect``."""
        await asyncio.wait({self._disconnected})
        return self._disconnected.exception()

    async def publish_message(self, message: Publication) -> None:
        """Send a message; QoS 1 returns after the broker's acknowledgement.

        Raises:
            ConnectionLostError: the connection ended before the answer came.
            PublishRefusedError: the broker refused this message.
            PacketTooLargeError: the broker announced a smaller limit.
        """
        check_size(message, self.max_packet_bytes)
        unsent = self._client._out_packet  # noqa: SLF001 - paho tells this in no other way
        if message.qos == 0 and len(unsent) >= _MAX_UNSENT_PACKETS:
            self._stats.dropped_out += 1
            return
        info = self._client.publish(message.topic, message.payload, message.qos, message.retain)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise self._lose(ConnectionLostError("the socket was gone when a message was sent"))
        if message.qos:
            await self._answer(info.mid)

    async def subscribe_to(self, topic_filter: str, qos: int) -> None:
        """Subscribe and wait for the broker's word.

        Raises:
            ConnectionLostError, SubscribeRefusedError: no answer, or no.
        """
        code, mid = self._client.subscribe(topic_filter, qos)
        await self._answer(mid if code == mqtt.MQTT_ERR_SUCCESS else None)

    async def unsubscribe_from(self, topic_filter: str) -> None:
        """Unsubscribe and wait for the broker's word.

        Raises:
            ConnectionLostError: no answer.
        """
        code, mid = self._client.unsubscribe(topic_filter)
        await self._answer(mid if code == mqtt.MQTT_ERR_SUCCESS else None)

    async def disconnect(self) -> None:
        """Say goodbye, so that the broker keeps the Will to itself."""
        self._client.disconnect()
        await asyncio.wait({self._disconnected})

    def abort(self) -> None:
        """Close the socket without a word; every pending answer fails."""
        self._lose(ConnectionLostError("the connection was closed"))
        if self._client.socket() is not None:
            self._client._sock_close()  # noqa: SLF001 - disconnect() would say goodbye
        elif self._dialled is not None:
            self._dialled.close()
        if self._connected.done() and not self._connected.cancelled():
            self._connected.exception()  # seen, so that nothing complains at its end

    @property
    def traffic(self) -> Traffic:
        """What the connection carried so far, or until it closed."""
        sock = self._client.socket()
        if self._final_traffic is not None or not isinstance(sock, socket.socket):
            return self._final_traffic or Traffic()
        return read_traffic(sock) or Traffic()

    async def _answer(self, mid: int | None) -> None:
        if mid is None:
            raise self._lose(ConnectionLostError("the socket was gone when a request was sent"))
        answer = self._answers[mid] = self._loop.create_future()
        self._resume()
        await answer

    def _settle(self, mid: int, failure: Exception | None) -> None:
        answer = self._answers.pop(mid, None)
        if answer is None or answer.done():
            return
        if failure is None:
            answer.set_result(None)
        else:
            answer.set_exception(failure)

    def _lose(self, exc: Exception) -> Exception:
        """End the session once, for whatever reason was seen first; returns ``exc``."""
        if self._over:
            return exc
        self._over = True
        self._on_lost()
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(ConnectionLostError("the connection ended before the answer"))
        self._answers.clear()
        if not self._disconnected.done():
            self._disconnected.set_exception(exc)
        # Whoever asks gets it; nobody has to.
        with contextlib.suppress(asyncio.CancelledError):
            self._disconnected.exception()
        return exc

    async def _password(self) -> str | None:
        if not self._settings.password_file:
            return None
        text = await asyncio.to_thread(Path(self._settings.password_file).read_text, "utf-8")
        return text.rstrip("\r\n")

    def _not_accepted(self) -> BrokerProtocolError:
        hint = (
            "it may want a client certificate: check cert_file and key_file"
            if self._address.tls
            else "it may speak TLS, or another MQTT version: check the URL and mqtt_version"
        )
        return BrokerProtocolError(f"the broker closed the connection without a word: {hint}")

    def _acknowledge(self, mid: int) -> None:
        if not self._over:
            self._client.ack(mid, 1)

    # aiomqtt's callbacks, called by paho.

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: Any,
        flags: mqtt.ConnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not reason_code.is_failure:
            self.session_present = flags.session_present
            limit = getattr(properties, "MaximumPacketSize", self.max_packet_bytes)
            self.max_packet_bytes = min(self.max_packet_bytes, limit)
            if self.session_present:
                self._inbox.forget_unacknowledged()
        super()._on_connect(client, userdata, flags, reason_code, properties)

    def _on_disconnect(
        self,
        client: mqtt.Client,
        userdata: Any,
        flags: mqtt.DisconnectFlags,
        reason_code: ReasonCode,
        properties: Properties | None = None,
    ) -> None:
        if not self._connected.done():
            self._connected.set_exception(self._not_accepted())
        super()._on_disconnect(client, userdata, flags, reason_code, properties)
        self._lose(ConnectionLostError("the connection ended"))

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        del client, userdata
        try:
            topic = message.topic
        except UnicodeDecodeError:
            # Acknowledged, or it would come back for ever.
            self._stats.unhandled += 1
            self._acknowledge(message.mid)
            return
        if message.dup:
            self._stats.duplicates += 1
        delivery = Delivery(topic, bytes(message.payload), message.retain, message.qos)
        mid = message.mid
        self._inbox.put(Entry(delivery, lambda: self._acknowledge(mid) if delivery.qos else None))

    def _on_publish(
        self,
        client: mqtt.Client,
        userdata: Any,
        mid: int,
        reason_code: ReasonCode,
        properties: Properties,
    ) -> None:
        del client, userdata, properties
        refused = PublishRefusedError(
            f"the broker refused a message ({reason_code}): check its access rules for this name"
        )
        self._settle(mid, refused if reason_code.is_failure else None)

    def _on_subscribe(
        self,
        client: mqtt.Client,
        userdata: Any,
        mid: int,
        reason_codes: list[ReasonCode],
        properties: Properties | None = None,
    ) -> None:
        del client, userdata, properties
        refused = [str(code) for code in reason_codes if code.is_failure]
        self._settle(
            mid,
            SubscribeRefusedError(f"the broker refused a subscription ({refused[0]}): check its access rules")
            if refused
            else None,
        )

    def _on_unsubscribe(
        self,
        client: mqtt.Client,
        userdata: Any,
        mid: int,
        reason_codes: list[ReasonCode],
        properties: Properties | None = None,
    ) -> None:
        del client, userdata, reason_codes, properties
        self._settle(mid, None)

    # Sockets. paho calls these from the connecting thread too, so the event loop is told, and looks
    # again whether the socket is still open: a number that was closed may be another file by then.

    def _on_socket_open(self, client: mqtt.Client, userdata: Any, sock: Any) -> None:
        del client, userdata
        self._loop.call_soon_threadsafe(self._watch_socket, sock)

    def _watch_socket(self, sock: socket.socket) -> None:
        if self._over:
            sock.close()
        elif sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._guarded, self._read)
            self._misc_task = self._loop.create_task(self._misc_loop())

    def _on_socket_register_write(self, client: mqtt.Client, userdata: Any, sock: Any) -> None:
        del client, userdata
        if threading.get_ident() == self._home_thread:
            self._watch_writable(sock)
        else:
            self._loop.call_soon_threadsafe(self._watch_writable, sock)

    def _watch_writable(self, sock: socket.socket) -> None:
        if not self._over and sock.fileno() >= 0:
            self._loop.add_writer(sock.fileno(), self._guarded, self._client.loop_write)

    def _on_socket_close(self, client: mqtt.Client, userdata: Any, sock: Any) -> None:
        if self._final_traffic is None and isinstance(sock, socket.socket):
            self._final_traffic = read_traffic(sock)
        super()._on_socket_close(client, userdata, sock)

    def _read(self) -> None:
        if self._may_rest():
            self._paused = True
            sock = self._client.socket()
            if isinstance(sock, socket.socket) and sock.fileno() >= 0:
                self._loop.remove_reader(sock.fileno())
            return
        self._client.loop_read()
        # TLS may hold decoded packets that the socket no longer announces.
        if getattr(self._client.socket(), "pending", int)():
            self._loop.call_soon(self._guarded, self._read)

    def _may_rest(self) -> bool:
        """Whether the socket may be left alone: enough waits here, and no answer is waited for.

        TCP then holds the broker back. An answer, or the broker's sign of life, comes behind
        whatever was sent before it, so for these the reading goes on.
        """
        awaited = self._answers or self._client._ping_t  # noqa: SLF001 - known nowhere else
        # Before CONNACK the inbox may be full of what the last connection brought.
        return self._connected.done() and self._inbox.is_full and not awaited

    def _resume(self) -> None:
        if not self._paused or self._over:
            return
        self._paused = False
        sock = self._client.socket()
        if isinstance(sock, socket.socket) and sock.fileno() >= 0:
            self._loop.add_reader(sock.fileno(), self._guarded, self._read)
            self._loop.call_soon(self._guarded, self._read)

    async def _misc_loop(self) -> None:
        while not self._over and self._client.loop_misc() == mqtt.MQTT_ERR_SUCCESS:
            if not self._may_rest():
                self._resume()
            await asyncio.sleep(1)

    def _guarded(self, step: Callable[[], object]) -> None:
        if self._over:
            return
        try:
            step()
        except Exception as exc:  # noqa: BLE001 - a broken stream may raise anything below
            self._lose(exc)

    async def _wait_for(self, fut: Awaitable[_T], timeout: float | None) -> _T:  # noqa: ASYNC109
        """Wait without asyncio.wait_for, which swallows cancellation on 3.11; callers set limits."""
        del timeout
        return await fut
