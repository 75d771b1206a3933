"""Receipts on their way out, however often devices ask for them."""

import asyncio

from shoal_codecs.transport.messages import Publication

About = tuple[str, int, bytes]


class ReceiptLane:
    """First in, first out, and each receipt once: a device that repeats itself fills no memory.

    ``about`` is what a receipt says and where: its topic, its round and the report's id.
    """

    def __init__(self) -> None:
        self._waiting: dict[About, Publication] = {}
        self._arrived: asyncio.Queue[About] = asyncio.Queue()

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, about: About, receipt: Publication) -> None:
        """Queue ``receipt``, in the place of an earlier one that says the same."""
        if about not in self._waiting:
            self._arrived.put_nowait(about)
        self._waiting[about] = receipt

    async def get(self) -> Publication:
        """Return the oldest, waiting for one."""
        return self._waiting.pop(await self._arrived.get())
