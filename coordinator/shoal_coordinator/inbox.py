"""Where everything that happens to the coordinator waits its turn: one queue, one reader, no races."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.logs import log_failure
from shoal_codecs.security.errors import SecurityError
from shoal_codecs.security.post import Post
from shoal_codecs.transport.errors import BlobStorageError
from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.wire.errors import ReplayedMessageError, WireError
from shoal_codecs.wire.messages import AnyMessage
from shoal_codecs.wire.topics import Address
from shoal_coordinator.store.errors import DamagedStoreError, StoreWriteError

log = structlog.get_logger()
Work = Callable[[], Awaitable[None]]
Receiver = Callable[[Address, AnyMessage], Awaitable[None]]
MOST_WAITING = 4096
UNKEPT = (StoreWriteError, DamagedStoreError, BlobStorageError)
DEVICE_PARTS = ("status", "heartbeat", "events")
HUB_PARTS = ("status", "events")


class Inbox:
    """Opens what arrives, queues what is believed, and runs it one at a time.

    A full queue makes handlers wait, and with them the broker: nothing is acknowledged that has no room.
    """

    def __init__(self, link: Link, post: Post, receive: Receiver) -> None:
        self._link = link
        self._post = post
        self._receive = receive
        self._queue: asyncio.Queue[Work] = asyncio.Queue(MOST_WAITING)

    async def subscribe(self, *, reports: bool, single: bool) -> None:
        """Ask for all that concerns the coordinator; ``reports`` too unless hubs take them.

        With ``single``, what devices say in that mode.
        """
        topics = self._post.topics
        filters = [(topics.device("+", part), 0 if part == "heartbeat" else 1) for part in DEVICE_PARTS]
        filters += [(topics.hub("+", part), 1) for part in HUB_PARTS]
        filters.append((topics.coordinator("commands"), 1))
        if reports:
            filters.append((topics.report(self._post.identity.name, "+"), 1))
        if single:
            filters += [(topics.prekeys("+"), 1), (topics.single("+", "+", "+"), 1)]
        for topic_filter, qos in filters:
            await self._link.subscribe(topic_filter, self._hear, qos)

    def put(self, work: Work) -> None:
        """Queue work of the coordinator's own: a timer, the end of a computation."""
        if self._queue.full():
            # A timer comes again and a computation must not be lost: the latter waits aside.
            asyncio.get_running_loop().call_later(0.05, self.put, work)
            return
        self._queue.put_nowait(work)

    async def run(self) -> None:
        """Do what is queued, in order, until cancelled; a word that is refused ends one piece of work only.

        Raises:
            StoreWriteError, DamagedStoreError, BlobStorageError: what was decided cannot be kept. To go on
                would be to say what a restart does not know of.
        """
        while True:
            work = await self._queue.get()
            try:
                await work()
            except UNKEPT:
                raise
            except ShoalError as error:
                self.refuse(error)
            # Give the socket a turn also where work never waits.
            await asyncio.sleep(0)

    def refuse(self, error: ShoalError, **context: str) -> None:
        """Count and log something that was not believed or could not be done."""
        self._post.refused[type(error).__name__] += 1
        log.warning("refused", error=type(error).__name__, remedy=str(error), **context)

    async def _hear(self, delivery: Delivery) -> None:
        try:
            address, message = self._post.open(delivery.topic, delivery.payload)
        except ReplayedMessageError:
            self._post.refused["ReplayedMessageError"] += 1
            return
        except (WireError, SecurityError) as error:
            self.refuse(error, topic=delivery.topic)
            return

        async def receive() -> None:
            try:
                await self._receive(address, message)
            except ShoalError:
                raise
            except Exception as error:  # noqa: BLE001 - one party's word must not end the coordinator
                self._post.refused[type(error).__name__] += 1
                log_failure("handler_failed", error, topic=delivery.topic)

        await self._queue.put(receive)
