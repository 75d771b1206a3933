"""Messages that wait for their handlers."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from shoal_codecs.transport.messages import Delivery, LinkStats

MAX_LOOSE_MESSAGES = 1000
MAX_LOOSE_BYTES = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """A delivery and the call that tells the broker it was handled."""

    delivery: Delivery
    acknowledge: Callable[[], None]


class Inbox:
    """First in, first out, and bounded.

    QoS 1 is never dropped: the inbox says when it is full, and its session stops reading. QoS 0
    beyond ``max_loose`` messages or ``max_loose_bytes`` bytes is dropped and counted.

    A broker that keeps to Receive Maximum fills ``window`` and no more. Mosquitto 2.0.11 does not:
    each acknowledgement in order lets it send almost a whole window again.
    """

    def __init__(
        self,
        stats: LinkStats,
        window: int = 20,
        max_loose: int = MAX_LOOSE_MESSAGES,
        max_loose_bytes: int = MAX_LOOSE_BYTES,
    ) -> None:
        self._stats = stats
        self._window = window
        self._max_loose = max_loose
        self._max_loose_bytes = max_loose_bytes
        self._entries: deque[Entry] = deque()
        self._arrived = asyncio.Event()
        self._loose = 0
        self._loose_bytes = 0
        self.on_room: Callable[[], None] | None = None
        """Called when the inbox was full and is no longer."""

    @property
    def is_full(self) -> bool:
        """Whether a whole window of QoS 1 messages waits."""
        return len(self._entries) - self._loose >= self._window

    def put(self, entry: Entry) -> None:
        """Queue ``entry``, or drop it where it is QoS 0 and too much of that waits already."""
        if entry.delivery.qos == 0:
            size = len(entry.delivery.payload)
            if self._loose >= self._max_loose or self._loose_bytes + size > self._max_loose_bytes:
                self._stats.dropped_in += 1
                return
            self._loose += 1
            self._loose_bytes += size
        self._entries.append(entry)
        # One more may be in a handler's hands.
        backlog = len(self._entries) - self._loose + 1
        self._stats.peak_backlog = max(self._stats.peak_backlog, backlog)
        self._arrived.set()

    async def get(self) -> Entry:
        """Return the oldest entry, waiting for one."""
        while not self._entries:
            self._arrived.clear()
            await self._arrived.wait()
        was_full = self.is_full
        entry = self._entries.popleft()
        if entry.delivery.qos == 0:
            self._loose -= 1
            self._loose_bytes -= len(entry.delivery.payload)
        if was_full and not self.is_full and self.on_room is not None:
            self.on_room()
        return entry

    def forget_unacknowledged(self) -> None:
        """Forget waiting QoS 1 entries: the resumed session delivers them again."""
        self._entries = deque(e for e in self._entries if e.delivery.qos == 0)
