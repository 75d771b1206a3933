"""Everything one writer keeps retained on the broker, and how it notices that the broker lost it.

A broker killed hard comes back with its last saved state, or with none. The writer keeps a beacon: a
retained message with its boot id and the number of its last change, published after that change. The
broker's copy of the beacon tells, at each reconnect, up to which change the broker remembers.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final
from uuid import uuid4

import msgpack
import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.transport.errors import ConnectionLostError
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Delivery

log = structlog.get_logger()

Provider = Callable[[], Awaitable[bytes]]
RefillCallback = Callable[[int], Awaitable[None]]

_PROBE_S: Final = 5.0
_WINDOW: Final = 8
_FORMAT: Final = 1
_MAX_BEACON_BYTES: Final = 256
_MAX_REMEMBERED_REMOVALS: Final = 10_000


@dataclass(frozen=True, slots=True)
class Beacon:
    """``change`` is the last change that the broker had when ``boot_id`` published this."""

    boot_id: str
    change: int

    def encode(self) -> bytes:
        """Return MessagePack ``[format, boot_id, change]``."""
        packed: bytes = msgpack.packb([_FORMAT, self.boot_id, self.change])
        return packed


def decode_beacon(payload: bytes) -> Beacon | None:
    """Return the beacon, or None for anything else."""
    if len(payload) > _MAX_BEACON_BYTES:
        return None
    try:
        match msgpack.unpackb(payload):
            case [1, str(boot_id), int(change)]:
                return Beacon(boot_id, change)
    except (ValueError, msgpack.UnpackException):
        pass
    return None


@dataclass(slots=True, eq=False)
class _Entry:
    change: int
    provider: Provider
    connection: int = 0
    """Number of the connection over which the broker acknowledged it; 0: not yet."""


class RetainedShelf:
    """The one registry of what this process keeps retained; made before the link runs.

    ``beacon_topic`` has this one writer. ``boot_id`` is new with each process, for a new process
    puts everything on its shelf anew.
    """

    def __init__(self, link: Link, beacon_topic: str, boot_id: str) -> None:
        self._link = link
        self._beacon_topic = beacon_topic
        self._boot_id = boot_id
        self._entries: dict[str, _Entry] = {}
        self._removed: dict[str, int] = {}
        self._change = 0
        self._in_flight = 0
        # Number of the connection whose broker is known to have everything. A beacon over any other
        # would hide what was lost.
        self._checked = 0
        self._callbacks: list[RefillCallback] = []
        link.on_connected(self._check)

    def on_refill(self, callback: RefillCallback) -> None:
        """Call ``callback(count)`` after ``count`` topics were published again."""
        self._callbacks.append(callback)

    @property
    def topics(self) -> list[str]:
        """What is on the shelf."""
        return list(self._entries)

    async def put(self, topic: str, payload: bytes) -> None:
        """Keep ``payload`` retained on ``topic``; returns when the broker has it.

        Raises:
            TransportError: as ``Link.publish``.
        """

        async def same() -> bytes:
            return payload

        await self.put_lazy(topic, same)

    async def put_lazy(self, topic: str, provider: Provider) -> None:
        """As ``put``, with a ``provider`` that reads the payload whenever it is needed."""
        self._change += 1
        entry = self._entries[topic] = _Entry(self._change, provider)
        self._removed.pop(topic, None)
        await self._changing(self._publish(topic, entry))

    async def remove(self, topic: str) -> None:
        """Keep ``topic`` no longer: the broker forgets it."""
        self._change += 1
        self._entries.pop(topic, None)
        self._removed.pop(topic, None)
        self._removed[topic] = self._change
        if len(self._removed) > _MAX_REMEMBERED_REMOVALS:
            del self._removed[next(iter(self._removed))]
        await self._changing(self._link.publish(topic, b"", retain=True))

    async def _changing(self, work: Awaitable[None]) -> None:
        """Do one change; whoever finishes last says with the beacon that all are done."""
        self._in_flight += 1
        try:
            await work
        finally:
            self._in_flight -= 1
        await self._publish_beacon()

    async def _publish(self, topic: str, entry: _Entry) -> None:
        payload = await entry.provider()
        # A newer payload may have overtaken a slow provider; it must not be overwritten.
        if self._entries.get(topic) is entry:
            await self._link.publish(topic, payload, retain=True)
            entry.connection = self._link.stats.connects

    async def _publish_beacon(self) -> None:
        """Say that all changes are there, unless this connection is still to be checked."""
        if self._change == 0 or self._in_flight:
            return
        beacon = Beacon(self._boot_id, self._change)
        # Where the connection has ended the next check says what is missing.
        with contextlib.suppress(ConnectionLostError):
            await self._link.publish_once(
                self._beacon_topic, beacon.encode(), connection=self._checked, retain=True
            )

    async def _check(self, session_present: bool) -> None:  # noqa: FBT001 - the callback's shape
        """Compare the broker's beacon with what it acknowledged, and refill what it lost."""
        del session_present  # says nothing about retained messages
        connection = self._link.stats.connects
        before = [e for e in self._entries.values() if 0 < e.connection < connection]
        count = 0
        if before or self._removed:
            known = await self._known_change(connection)
            count = await self._refill(known, connection)
        self._checked = connection
        await self._publish_beacon()
        if count:
            log.warning("broker_refilled", topics=count)
            for callback in self._callbacks:
                await callback(count)

    async def _refill(self, known: int, connection: int) -> int:
        """Publish again what the broker acknowledged after change ``known``, and return how much."""
        lost = [
            (topic, entry)
            for topic, entry in self._entries.items()
            if entry.change > known and 0 < entry.connection < connection
        ]
        left = iter(lost)

        async def worker() -> None:
            for topic, entry in left:
                try:
                    await self._publish(topic, entry)
                except ShoalError as exc:
                    log.error("refill_failed", topic=topic, remedy=str(exc))  # noqa: TRY400

        await asyncio.gather(*(worker() for _ in range(min(_WINDOW, len(lost)))))
        for topic in [t for t, change in self._removed.items() if change > known]:
            if topic in self._removed:
                await self._link.publish(topic, b"", retain=True)
        return len(lost)

    async def _known_change(self, connection: int) -> int:
        """Return the last change the broker remembers; -1 where it has no beacon of this boot.

        The beacon is asked for by a subscription, and a probe sent after it on the same topic: the
        broker keeps their order, so a probe that comes first means that there is no beacon.
        """
        probe = uuid4().bytes
        answer: asyncio.Future[Beacon | None] = asyncio.get_running_loop().create_future()

        async def take(delivery: Delivery) -> None:
            if answer.done():
                return
            if delivery.payload == probe:
                answer.set_result(None)
            elif delivery.retain:
                answer.set_result(decode_beacon(delivery.payload))

        await self._link.subscribe(self._beacon_topic, take)
        try:
            async with asyncio.timeout(_PROBE_S):
                await self._link.publish_once(self._beacon_topic, probe, connection=connection)
                beacon = await answer
        except TimeoutError:
            beacon = None  # in doubt, everything is published again
        finally:
            await self._link.unsubscribe(self._beacon_topic)
        if beacon is None or beacon.boot_id != self._boot_id:
            return -1
        return beacon.change
