"""Blobs over the broker: retained chunks out, windows of single-topic subscriptions in."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from shoal_codecs.transport.blob_store import BlobStore, PartFile
from shoal_codecs.transport.errors import (
    BlobTimeoutError,
    CorruptChunkError,
    TransportError,
)
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Delivery
from shoal_codecs.transport.retained import RetainedShelf
from shoal_codecs.wire.blob import BlobRef, digest_of
from shoal_codecs.wire.topics import Topics

log = structlog.get_logger()

Progress = Callable[[int, int], None]
Missing = Callable[[BlobRef], Awaitable[None]]

_PUBLISH_WINDOW: Final = 8
_UNSUBSCRIBE_S: Final = 2.0


class BlobPublisher:
    """Puts blobs of ``store`` on the broker as retained chunks, and takes them down again.

    With a ``shelf`` the chunks are refilled where the broker loses them; they are then read from the
    store again and not kept in memory.
    """

    def __init__(
        self, link: Link, topics: Topics, store: BlobStore, shelf: RetainedShelf | None = None
    ) -> None:
        self._link = link
        self._topics = topics
        self._store = store
        self._shelf = shelf

    async def publish(self, ref: BlobRef) -> None:
        """Publish every chunk; returns when the broker has acknowledged them all.

        Raises:
            BlobStorageError: the blob is not in the store.
            TransportError: as ``Link.publish``.
        """
        await _in_window(range(ref.count), lambda index: self._publish_chunk(ref, index))

    async def clear(self, ref: BlobRef) -> None:
        """Take every chunk off the broker; the store keeps the blob."""
        await _in_window(range(ref.count), lambda index: self._clear_chunk(ref, index))

    async def _publish_chunk(self, ref: BlobRef, index: int) -> None:
        topic = self._topics.blob(ref.name, index)
        if self._shelf is not None:
            await self._shelf.put_lazy(topic, lambda: self._read(ref, index))
        else:
            await self._link.publish(topic, await self._read(ref, index), retain=True)

    async def _clear_chunk(self, ref: BlobRef, index: int) -> None:
        topic = self._topics.blob(ref.name, index)
        if self._shelf is not None:
            await self._shelf.remove(topic)
        else:
            await self._link.publish(topic, b"", retain=True)

    async def _read(self, ref: BlobRef, index: int) -> bytes:
        return await asyncio.to_thread(self._store.read_chunk, ref, index)


@dataclass(slots=True)
class BlobStats:
    """What fetching took, since the fetcher was made."""

    chunks: int = 0
    """Chunks that came over the broker and were right."""
    corrupt: int = 0
    requests: int = 0
    """Times the publisher was asked again."""


@dataclass(slots=True)
class _Fetch:
    """One blob under way."""

    ref: BlobRef
    part: PartFile
    wanted: deque[int]
    done: int
    progress: Progress | None
    corrupt: dict[int, int] = field(default_factory=dict)


class BlobFetcher:
    """Fetches blobs into ``store``: only the chunks that are not on disk yet, ``window`` at a time.

    ``chunk_timeout_s`` is the longest silence while connected before ``on_missing`` asks the
    publisher again, ``attempts`` how often; ``max_corrupt`` how many bad copies of one chunk are taken.
    """

    def __init__(
        self,
        link: Link,
        topics: Topics,
        store: BlobStore,
        *,
        window: int = 8,
        chunk_timeout_s: float = 10,
        on_missing: Missing | None = None,
        attempts: int = 6,
        max_corrupt: int = 5,
    ) -> None:
        self.stats = BlobStats()
        self._link = link
        self._topics = topics
        self._store = store
        self._window = window
        self._chunk_timeout_s = chunk_timeout_s
        self._on_missing = on_missing
        self._attempts = attempts
        self._max_corrupt = max_corrupt
        self._locks: dict[str, asyncio.Lock] = {}

    async def fetch(self, ref: BlobRef, progress: Progress | None = None) -> Path:
        """Return the path of the whole, verified blob; a cut fetch goes on where it was.

        ``progress(done, total)`` is called with numbers of chunks. Two calls for one blob share one
        transfer.

        Raises:
            CorruptChunkError: a chunk came corrupted ``max_corrupt`` times, or the description
                contradicts itself.
            BlobTimeoutError: nobody published what is missing.
            BlobStorageError: no room for it.
        """
        lock = self._locks.setdefault(ref.name, asyncio.Lock())
        async with lock:
            if not self._store.has(ref.name):
                await self._fetch(ref, progress)
        self._locks.pop(ref.name, None)
        return self._store.path(ref.name)

    async def _fetch(self, ref: BlobRef, progress: Progress | None) -> None:
        part = await asyncio.to_thread(self._store.open_part, ref)
        try:
            missing = await asyncio.to_thread(part.missing)
            fetch = _Fetch(ref, part, deque(missing), ref.count - len(missing), progress)
            self._tell(fetch)
            await self._take_all(fetch)
            if await asyncio.to_thread(part.finish) is None:
                raise CorruptChunkError(
                    f"the chunks of blob {ref.name} are right and the whole is not: its description "
                    "contradicts itself, publish it again"
                )
        finally:
            part.close()

    async def _take_all(self, fetch: _Fetch) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                watch = group.create_task(self._watch(fetch))
                takers = [
                    group.create_task(self._take_while_wanted(fetch, group))
                    for _ in range(min(self._window, len(fetch.wanted)))
                ]
                if takers:
                    await asyncio.wait(takers)
                watch.cancel()
        except BaseExceptionGroup as several:
            # One fault ends them all; the first is the one to tell.
            raise several.exceptions[0] from None

    async def _take_while_wanted(self, fetch: _Fetch, group: asyncio.TaskGroup) -> None:
        while fetch.wanted:
            topic = await self._take(fetch, fetch.wanted.popleft())
            # The next chunk does not wait for the farewell to this one.
            group.create_task(self._link.unsubscribe(topic))

    async def _take(self, fetch: _Fetch, index: int) -> str:
        """Subscribe to one chunk and wait until it is on disk; return its topic."""
        topic = self._topics.blob(fetch.ref.name, index)
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def take(delivery: Delivery) -> None:
            # An empty payload is the end of a retained message, not a chunk.
            if written.done() or not delivery.payload:
                return
            try:
                if await self._accept(fetch, index, delivery.payload) and not written.done():
                    written.set_result(None)
            except TransportError as exc:
                if not written.done():
                    written.set_exception(exc)

        try:
            await self._link.subscribe(topic, take)
            await written
        except BaseException:
            with contextlib.suppress(TimeoutError, TransportError):
                async with asyncio.timeout(_UNSUBSCRIBE_S):
                    await self._link.unsubscribe(topic)
            raise
        fetch.done += 1
        self._tell(fetch)
        return topic

    async def _accept(self, fetch: _Fetch, index: int, payload: bytes) -> bool:
        ref = fetch.ref
        if len(payload) == ref.chunk_size(index) and digest_of(payload) == ref.chunk_digest(index):
            await asyncio.to_thread(fetch.part.write, index, payload)
            self.stats.chunks += 1
            return True
        self.stats.corrupt += 1
        copies = fetch.corrupt[index] = fetch.corrupt.get(index, 0) + 1
        log.warning(
            "corrupt_chunk",
            blob=ref.name,
            chunk=index,
            copies=copies,
            error=CorruptChunkError.__name__,
            remedy="asked for again: if it goes on, see who may write there",
        )
        if copies >= self._max_corrupt:
            raise CorruptChunkError(
                f"chunk {index} of blob {ref.name} came corrupted {copies} times: publish the blob "
                "again, and check who else may write there"
            )
        await self._ask(ref)
        return False

    async def _watch(self, fetch: _Fetch) -> None:
        """Ask again after each silence; what goes on while the link is down is no silence."""
        asked = 0
        while True:
            before = fetch.done
            await asyncio.sleep(self._chunk_timeout_s)
            if fetch.done != before or not self._link.is_connected:
                asked = 0 if fetch.done != before else asked
                continue
            if asked >= self._attempts:
                raise BlobTimeoutError(
                    f"blob {fetch.ref.name} lacks {fetch.ref.count - fetch.done} of "
                    f"{fetch.ref.count} chunks and nobody publishes them: check that the coordinator "
                    "runs and still offers it"
                )
            asked += 1
            await self._ask(fetch.ref)

    async def _ask(self, ref: BlobRef) -> None:
        if self._on_missing is not None:
            self.stats.requests += 1
            await self._on_missing(ref)

    @staticmethod
    def _tell(fetch: _Fetch) -> None:
        if fetch.progress is not None:
            fetch.progress(fetch.done, fetch.ref.count)


async def _in_window(indices: range, work: Callable[[int], Awaitable[None]]) -> None:
    """Do ``work`` for every index, a few at a time."""
    left = iter(indices)

    async def worker() -> None:
        for index in left:
            await work(index)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_PUBLISH_WINDOW, len(indices))):
                group.create_task(worker())
    except BaseExceptionGroup as several:
        raise several.exceptions[0] from None
