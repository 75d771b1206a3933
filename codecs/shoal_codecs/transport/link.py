"""A party's one connection to the broker, kept up for as long as the party runs."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Final

import aiomqtt
import structlog

from shoal_codecs.logs import log_failure
from shoal_codecs.transport.backoff import Backoff
from shoal_codecs.transport.errors import (
    ConnectionLostError,
    LinkClosedError,
    SubscribeRefusedError,
    TransportError,
)
from shoal_codecs.transport.inbox import Inbox
from shoal_codecs.transport.messages import Delivery, LinkStats, Publication, check_size
from shoal_codecs.transport.session import Session
from shoal_codecs.transport.settings import LinkSettings, parse_broker_url
from shoal_codecs.transport.subscriptions import Handler, Subscriptions
from shoal_codecs.transport.traffic import Traffic
from shoal_codecs.transport.troubles import Troubles

__all__ = ["Delivery", "Handler", "Link", "LinkStats", "Publication"]

log = structlog.get_logger()

ConnectedCallback = Callable[[bool], Awaitable[None]]

FAREWELL_S: Final = 1.0
_MAX_DISOWNED: Final = 1000


class Link:
    """Connects, reconnects, re-subscribes, and gives every message to its handler exactly in order.

    A QoS 1 message is acknowledged after its handler returned: a process killed in a handler gets it
    again. Handlers run one at a time and are short: they persist or enqueue. Whoever must not miss
    what the broker kept while it was away subscribes before ``run``.

    ``client_id`` names the session at the broker (``Topics.client_id``): one process each. ``rng`` spreads
    reconnections.

    Raises:
        BadBrokerUrlError: a URL that cannot be read.
    """

    def __init__(
        self,
        settings: LinkSettings,
        client_id: str,
        *,
        will: Publication | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.stats = LinkStats()
        self._settings = settings
        self._address = parse_broker_url(settings.url)
        self._client_id = client_id
        self._will = will
        self._backoff = Backoff(settings.backoff_min_s, settings.backoff_max_s, rng or random.Random())
        self._troubles = Troubles(self._address, client_id, settings.mqtt_version)
        self._inbox = Inbox(self.stats, settings.window)
        self._subscriptions = Subscriptions()
        self._window = asyncio.Semaphore(settings.window)
        self._disowned: set[str] = set()
        self._callbacks: list[ConnectedCallback] = []
        self._session: Session | None = None
        # Set while connected, and for good once closed, so that whoever waits wakes and looks.
        self._wake = asyncio.Event()
        self._closing = False
        self._closed = asyncio.Event()
        self._stopped = asyncio.Event()
        self._running = False
        self._past_traffic = Traffic()
        self._opening: Session | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted and every subscription stands."""
        return self._session is not None

    @property
    def fault(self) -> TransportError | None:
        """What the last connection failed of; None while connected, and before any has failed."""
        return None if self.is_connected else self._troubles.fault

    @property
    def client_id(self) -> str:
        """The name of this link's session at the broker."""
        return self._client_id

    @property
    def settings(self) -> LinkSettings:
        """What the link was made with."""
        return self._settings

    @property
    def traffic(self) -> Traffic:
        """Bytes on the TCP streams of every connection so far, as the kernel counts them."""
        current = self._opening
        return self._past_traffic + (current.traffic if current else Traffic())

    def on_connected(self, callback: ConnectedCallback) -> None:
        """Call ``callback(session_present)`` after each connect and re-subscription.

        A callback still running when the connection ends is cancelled and runs again at the next.
        """
        self._callbacks.append(callback)

    async def wait_connected(self) -> None:
        """Wait for a connection.

        Raises:
            LinkClosedError: the link was closed.
        """
        await self._ready()

    async def run(self) -> None:
        """Keep the link up until cancelled or closed. Runs once in a link's life.

        Raises:
            LinkClosedError: the link was closed, or is running already.
        """
        if self._closing or self._running:
            raise LinkClosedError("a link runs once: make a new one")
        self._running = True
        tasks = {
            asyncio.create_task(self._keep_connected(), name="link-connection"),
            asyncio.create_task(self._dispatch(), name="link-dispatch"),
            asyncio.create_task(self._closed.wait(), name="link-closed"),
        }
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self._closing = True
            self._closed.set()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._wake.set()
            self._stopped.set()

    async def subscribe(self, topic_filter: str, handler: Handler, qos: int = 1) -> None:
        """Give every message matching ``topic_filter`` to ``handler``; a second call replaces it.

        Filters of one link shall not overlap: brokers deliver a copy for each filter that matches.
        Returns at once while there is no connection: the next one subscribes. The broker sends what
        it retains on each call.

        Raises:
            SubscribeRefusedError: the broker said no.
            LinkClosedError: the link was closed.
        """
        self._check_open()
        self._subscriptions.add(topic_filter, handler, qos)
        if (session := self._session) is not None:
            with contextlib.suppress(ConnectionLostError):
                await session.subscribe_to(topic_filter, qos)
                self._subscriptions.confirm(topic_filter)

    async def unsubscribe(self, topic_filter: str) -> None:
        """End a subscription; without a connection, the next one tells the broker."""
        self._subscriptions.remove(topic_filter)
        if (session := self._session) is not None:
            with contextlib.suppress(ConnectionLostError):
                await session.unsubscribe_from(topic_filter)
                self._subscriptions.confirm_removed(topic_filter)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Send ``payload`` (bytes).

        QoS 1 returns after the broker's acknowledgement, over as many connections as it takes; at
        most ``window`` are in flight. QoS 0 is dropped and counted while there is no connection.

        Raises:
            PacketTooLargeError: over ``max_packet_bytes``, or over the broker's own limit.
            PublishRefusedError: the broker refused it.
            LinkClosedError: the link was closed before it was acknowledged.
        """
        message = Publication(topic, payload, qos, retain)
        check_size(message, self._settings.max_packet_bytes)
        self._check_open()
        if qos == 0:
            await self._publish_or_drop(message)
            return
        async with self._window:
            while True:
                session = await self._ready()
                with contextlib.suppress(ConnectionLostError):
                    await session.publish_message(message)
                    return

    async def publish_once(
        self, topic: str, payload: bytes, *, connection: int, retain: bool = False
    ) -> None:
        """Send QoS 1 over the connection of that number (``stats.connects``), or not at all.

        Raises:
            ConnectionLostError: that connection has ended.
            PacketTooLargeError, PublishRefusedError, LinkClosedError: as ``publish``.
        """
        async with self._window:
            self._check_open()
            session = self._session
            if session is None or self.stats.connects != connection:
                raise ConnectionLostError("the connection this message was for has ended")
            await session.publish_message(Publication(topic, payload, 1, retain))

    async def close(self, farewell: Publication | None = None) -> None:
        """Send ``farewell``, disconnect so that the Will stays unsent, and end ``run``; within 1 s."""
        if self._closing:
            return
        self._closing = True
        try:
            async with asyncio.timeout(FAREWELL_S):
                if (session := self._session) is not None:
                    if farewell is not None:
                        await session.publish_message(farewell)
                    await session.disconnect()
        except (TransportError, TimeoutError) as exc:
            log.info("farewell_unsent", error=type(exc).__name__)
        finally:
            self._closed.set()
            self._wake.set()
        if self._running:
            await self._stopped.wait()

    def _check_open(self) -> None:
        if self._closing:
            raise LinkClosedError("the link is closed: make a new one")

    async def _publish_or_drop(self, message: Publication) -> None:
        session = self._session
        try:
            if session is not None:
                await session.publish_message(message)
                return
        except ConnectionLostError:
            pass
        self.stats.dropped_out += 1

    async def _ready(self) -> Session:
        while True:
            self._check_open()
            if self._session is not None:
                return self._session
            await self._wake.wait()

    async def _keep_connected(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            session = self._opening = Session(
                self._settings,
                self._address,
                self._client_id,
                self._troubles.version,
                self._will,
                self._inbox,
                self.stats,
                self._on_lost,
            )
            began: float | None = None
            try:
                await session.open()
                began = loop.time()
                await self._restore(session)
                reason = await self._serve(session)
            except (OSError, TransportError, aiomqtt.MqttError) as exc:
                reason = exc
            finally:
                session.abort()
                self._past_traffic += session.traffic
                self._opening = None
            stood_s = None if began is None else loop.time() - began
            if self._troubles.ended(stood_s):
                self._backoff.reset()
            if reason is not None and not self._closing:
                self._troubles.report(reason, never_connected=self.stats.connects == 0)
            await asyncio.sleep(self._backoff.next_delay())

    async def _restore(self, session: Session) -> None:
        """Tell the broker what it does not know, or no longer knows, about subscriptions."""
        if not session.session_present:
            self._subscriptions.forget_confirmations()
        while True:
            missing = self._subscriptions.missing()
            stale = self._subscriptions.stale()
            if not missing and not stale:
                return
            for topic_filter in stale:
                await session.unsubscribe_from(topic_filter)
                self._subscriptions.confirm_removed(topic_filter)
            for topic_filter, qos in missing:
                try:
                    await session.subscribe_to(topic_filter, qos)
                except SubscribeRefusedError as exc:
                    log.warning("subscription_refused", filter=topic_filter, remedy=str(exc))
                self._subscriptions.confirm(topic_filter)

    async def _serve(self, session: Session) -> BaseException | None:
        """Be connected until the session ends; return why it ended."""
        if session.is_over:
            return await session.lost()
        self._session = session
        self._wake.set()
        self.stats.connects += 1
        self.stats.reconnects = self.stats.connects - 1
        log.info("connected", broker=self._settings.url, session_present=session.session_present)
        callbacks = asyncio.create_task(self._call_back(session.session_present))
        try:
            return await session.lost()
        finally:
            callbacks.cancel()
            await asyncio.gather(callbacks, return_exceptions=True)

    def _on_lost(self) -> None:
        # Called before any pending answer fails, so that no publisher meets the dead session again.
        self._session = None
        if not self._closing:
            self._wake.clear()

    async def _call_back(self, session_present: bool) -> None:  # noqa: FBT001 - the callback's shape
        for callback in self._callbacks:
            try:
                await callback(session_present)
            except ConnectionLostError:
                return  # all of them run again at the next connection
            except Exception as exc:  # noqa: BLE001 - one party's mistake must not end the link
                self.stats.handler_errors += 1
                log_failure("connected_callback_failed", exc)

    async def _dispatch(self) -> None:
        while True:
            entry = await self._inbox.get()
            await self._handle(entry.delivery)
            entry.acknowledge()
            # A handler that never waits must not starve the socket.
            await asyncio.sleep(0)

    async def _handle(self, delivery: Delivery) -> None:
        handlers = self._subscriptions.handlers(delivery.topic)
        if not handlers:
            self.stats.unhandled += 1
            await self._disown(delivery)
        for handler in handlers:
            try:
                await handler(delivery)
            except Exception as exc:  # noqa: BLE001 - logged, counted, and the next message handled
                self.stats.handler_errors += 1
                log_failure("handler_failed", exc, topic=delivery.topic)

    async def _disown(self, delivery: Delivery) -> None:
        """End a subscription to one topic that an earlier life of this process left behind."""
        if delivery.qos and delivery.topic not in self._disowned:
            if len(self._disowned) < _MAX_DISOWNED:
                self._disowned.add(delivery.topic)
            await self.unsubscribe(delivery.topic)
