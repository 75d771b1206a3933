"""What the coordinator says: composed, signed and sent without anybody waiting for the broker."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.post import Post
from shoal_codecs.transport.link import Link
from shoal_codecs.wire.messages import AnyMessage, CoordinatorEvent, Message

log = structlog.get_logger()
M = TypeVar("M", bound=Message)


class Announcer:
    """Sends in the order it is told to, over as many connections as it takes.

    A ``key`` names what a message is about: while one with that key still waits for the broker, the next
    is left out, so that a broker that is away for long does not pile up repetitions.
    """

    def __init__(self, link: Link, post: Post) -> None:
        self._link = link
        self._post = post
        self._pending: dict[str, asyncio.Task[None]] = {}
        self._numbered = 0
        self._closed = False

    def device(self, device: str, kind: type[M], **fields: Any) -> None:
        """Send a message to one device; repetitions of a kind are left out while one waits."""
        topic = self._post.topics.device(device, "commands")
        self._send(topic, kind, fields, key=f"{device} {kind.__name__} {fields.get('round', '')}")

    def receipt(self, device: str, kind: type[M], **fields: Any) -> None:
        """Send a receipt for a report in mode ``plain``; repetitions are left out while one waits."""
        topic = self._post.topics.receipt(device, self._post.identity.name)
        self._send(topic, kind, fields, key=f"{device} {kind.__name__} {fields.get('round', '')}")

    def hub(self, hub: str, kind: type[M], **fields: Any) -> None:
        """Send a message to one hub; repetitions are left out while one waits."""
        about = fields.get("plan_hash") or hash(fields.get("plan") or fields.get("promises"))
        self._send(
            self._post.topics.hub(hub, "control"), kind, fields, key=f"{hub} {kind.__name__} {about!r}"
        )

    def event(self, kind: str, text: str, **fields: Any) -> None:
        """Tell the operators that something happened."""
        log.info(kind, text=text, **fields)
        topic = self._post.topics.coordinator("events")
        self._send(topic, CoordinatorEvent, {"kind": kind, "text": text, "fields": fields})

    def say(self, topic: str, kind: type[M], **fields: Any) -> None:
        """Send any other message."""
        self._send(topic, kind, fields)

    def encoded(self, topic: str, kind: type[M], **fields: Any) -> bytes:
        """Return the frame of a message, for topics that are retained."""
        message: Any = self._post.compose(kind, **fields)
        return self._post.encode(topic, message)

    def spawn(self, work: Callable[[], Awaitable[None]], key: str = "") -> None:
        """Do ``work`` aside, unless this is closed; with a ``key``, unless the same still runs."""
        if self._closed:
            return
        if not key:
            self._numbered += 1
            key = f"#{self._numbered}"
        if key in self._pending:
            return
        task = asyncio.create_task(self._quietly(work))
        self._pending[key] = task
        task.add_done_callback(lambda _: self._pending.pop(key, None))

    async def close(self) -> None:
        """Forget what was not sent, and what anybody may still want to be sent."""
        self._closed = True
        waiting = list(self._pending.values())
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    def _send(self, topic: str, kind: type[M], fields: dict[str, Any], key: str = "") -> None:
        message: AnyMessage = self._post.compose(kind, **fields)  # type: ignore[assignment]

        async def publish() -> None:
            await self._link.publish(topic, self._post.encode(topic, message))

        self.spawn(publish, key)

    @staticmethod
    async def _quietly(work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except ShoalError as error:
            log.warning("not sent", error=type(error).__name__, remedy=str(error))
