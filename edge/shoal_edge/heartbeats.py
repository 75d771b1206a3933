"""When a heartbeat goes out and what is in it: what changed, everything once in ten and at each connect."""

import asyncio
import contextlib
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.post import Post
from shoal_codecs.transport.errors import LinkClosedError
from shoal_codecs.wire.heartbeat import FULL_EVERY, Reading, changed
from shoal_codecs.wire.messages import Heartbeat
from shoal_edge.round_events import Phase
from shoal_edge.telemetry import VOLATILE

SPACING_S = 1.0

Publish = Callable[..., Awaitable[None]]

log = structlog.get_logger()


class Heartbeats:
    """Sends heartbeats; ``read`` returns all readings of the moment, PHASE among them.

    A phase is told early only if it lasts: in a round of a fraction of a second the messages of the round say
    the same. Never more than one heartbeat a second.
    """

    def __init__(
        self,
        post: Post,
        publish: Publish,
        read: Callable[[], dict[int, Any]],
        period_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._post = post
        self._publish = publish
        self._read = read
        self._period_s = period_s
        self._clock = clock
        self._topic = post.topics.device(post.identity.name, "heartbeat")
        self._sequence = 0
        self._since_full = FULL_EVERY
        self._last: dict[int, Any] = {}
        self._sent_at = -math.inf
        self._phase = self._told = Phase.IDLE
        self._phase_at = 0.0
        self._connected = self._at_once = False
        self._wake = asyncio.Event()

    def connected(self) -> None:
        """Send a full heartbeat now: who listens may know nothing of this device."""
        self._connected = self._at_once = True
        self._since_full = FULL_EVERY
        self._wake.set()

    def soon(self) -> None:
        """Send a heartbeat as soon as the spacing allows: something worth telling has changed."""
        self._at_once = True
        self._wake.set()

    def phase(self, phase: Phase) -> None:
        """Note the phase the device is in."""
        if phase is not self._phase:
            self._phase, self._phase_at = phase, self._clock()
            self._wake.set()

    def due_at(self) -> float:
        """Return the clock's time of the next heartbeat; infinity before the first connect."""
        if not self._connected:
            return math.inf
        due = self._clock() if self._at_once else self._sent_at + self._period_s
        if self._phase is not self._told:
            due = min(due, self._phase_at if self._phase is Phase.IDLE else self._phase_at + SPACING_S)
        return max(self._sent_at + SPACING_S, due)

    def compose(self) -> Heartbeat:
        """Return the next heartbeat and count it as sent."""
        readings = self._read()
        full = self._since_full >= FULL_EVERY
        self._since_full = 1 if full else self._since_full + 1
        steady = {key: value for key, value in readings.items() if key not in VOLATILE}
        news = readings if full else changed(self._last, steady)
        self._last, self._sent_at, self._at_once = steady, self._clock(), False
        self._told = Phase(readings.get(Reading.PHASE, self._phase))
        self._sequence += 1
        return self._post.compose(Heartbeat, sequence=self._sequence, full=full, readings=news)

    async def run(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            self._wake.clear()
            wait = self.due_at() - self._clock()
            if wait > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(None if wait == math.inf else wait):
                        await self._wake.wait()
                continue
            message = self.compose()
            try:
                await self._publish(self._topic, self._post.encode(self._topic, message), qos=0)
            except LinkClosedError:
                return
            except ShoalError as error:
                log.warning("heartbeat_not_sent", fault=type(error).__name__, remedy=str(error))
