"""The operator's side: watches a fleet over the broker and sends the coordinator signed commands."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import load_roster
from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.messages import CoordinatorEvent, CoordinatorStatus, OperatorAnswer, OperatorCommand
from shoal_codecs.wire.status import FleetView, decode_view
from shoal_codecs.wire.topics import Topics

log = structlog.get_logger()
ANSWER_S = 10.0
SHORT_SESSION_S = 60


class OperatorError(ShoalError):
    """The coordinator refused, or did not answer."""


class NoBrokerError(OperatorError):
    """There is no connection to the broker."""


class Operator:
    """One operator's connection; ``view`` is the newest picture of the fleet, None before the first."""

    def __init__(self, link: Link, post: Post) -> None:
        self._link = link
        self._post = post
        self._answers: dict[bytes, asyncio.Future[OperatorAnswer]] = {}
        self._changed = asyncio.Condition()
        self.view: FleetView | None = None
        self.on_view: list[Callable[[FleetView], None]] = []
        self.on_event: list[Callable[[CoordinatorEvent], None]] = []

    @property
    def place(self) -> str:
        """Where it is connected to, or tries to be, and for which fleet."""
        return f"{self._link.settings.url}, in fleet {self._post.topics.fleet!r}"

    def _refuse_without_broker(self, seconds: float) -> None:
        """Say what keeps this operator from the broker, where that is why nothing was heard.

        Raises:
            NoBrokerError: there is no connection.
        """
        if self._link.is_connected:
            return
        fault = self._link.fault
        words = (
            f"{type(fault).__name__}: {fault}" if fault else "no answer yet: check the URL and the network"
        )
        raise NoBrokerError(f"no connection to {self._link.settings.url} within {seconds:.0f} s ({words})")

    async def subscribe(self) -> None:
        """Listen to the coordinator's status and events."""
        topics = self._post.topics
        await self._link.subscribe(topics.coordinator("status"), self._hear)
        await self._link.subscribe(topics.coordinator("events"), self._hear)

    async def command(self, action: str, **arguments: Any) -> OperatorAnswer:
        """Send a signed command and return the coordinator's answer.

        Raises:
            NoBrokerError: there was no connection to the broker within ``ANSWER_S`` seconds.
            OperatorError: it cannot be written, was refused, or nobody answered within that time.
        """
        topic = self._post.topics.coordinator("commands")
        message = self._post.compose(OperatorCommand, action=action, arguments=arguments)
        try:
            payload = self._post.encode(topic, message)
        except OverflowError:
            raise OperatorError(
                f"a number for {action!r} has more than the 64 bits of a message: give a smaller one"
            ) from None
        answer = asyncio.get_running_loop().create_future()
        self._answers[message.message_id] = answer
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._link.publish(topic, payload)
                reply: OperatorAnswer = await answer
        except TimeoutError:
            self._refuse_without_broker(ANSWER_S)
            raise OperatorError(
                f"no answer to {action!r} within {ANSWER_S:.0f} s: is the coordinator on {self.place}? "
                "If it starts within ten minutes, it still does this"
            ) from None
        finally:
            del self._answers[message.message_id]
        if not reply.accepted:
            raise OperatorError(f"the coordinator refused {action!r}: {reply.text}")
        return reply

    async def until(self, holds: Callable[[FleetView], bool], seconds: float) -> FleetView:
        """Return the first view for which ``holds`` is true.

        Raises:
            NoBrokerError: there is no connection to the broker after ``seconds``.
            OperatorError: it did not come true within them.
        """
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: self.view is not None and holds(self.view))
        except TimeoutError:
            self._refuse_without_broker(seconds)
            raise OperatorError(
                f"waited {seconds:.0f} s in vain: see the coordinator's log for what it waits for"
            ) from None
        if self.view is None:
            raise OperatorError("the coordinator has not said anything yet: is it running?")
        return self.view

    async def _hear(self, delivery: Delivery) -> None:
        try:
            _, message = self._post.open(delivery.topic, delivery.payload)
            view = decode_view(message.view) if isinstance(message, CoordinatorStatus) else None
        except ShoalError as error:
            log.warning("message refused", topic=delivery.topic, error=type(error).__name__)
            return
        if view is not None:
            self.view = view
            for on_view in self.on_view:
                on_view(view)
            async with self._changed:
                self._changed.notify_all()
        elif isinstance(message, CoordinatorEvent):
            for on_event in self.on_event:
                on_event(message)
        elif isinstance(message, OperatorAnswer):
            waiting = self._answers.get(message.command_id)
            if waiting and not waiting.done():
                waiting.set_result(message)


@asynccontextmanager
async def operator_session(
    folder: Path, fleet: str, settings: LinkSettings, *, name: str = "operator", prefix: str = ""
) -> AsyncIterator[Operator]:
    """Connect as the operator whose key lies in ``folder``; subscribed when it yields.

    Raises:
        SecurityError: the folder's key or roster cannot be used.
    """
    roster = load_roster(folder / "roster.bin", folder / "authority.pub", fleet)
    topics = Topics(fleet, prefix)
    post = Post(topics, load_identity(name, folder / "identity.key"), roster)
    expiry_s = min(settings.session_expiry_s, SHORT_SESSION_S)
    settings = msgspec.structs.replace(
        settings, username=settings.username or name, session_expiry_s=expiry_s
    )
    # A name of its own for each session: one operator may watch and command at the same time, and none is
    # told first what the last one missed.
    link = Link(settings, topics.client_id(f"{name}-{secrets.token_hex(4)}"))
    running = asyncio.create_task(link.run())
    operator = Operator(link, post)
    try:
        await operator.subscribe()
        yield operator
    finally:
        await link.close()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
