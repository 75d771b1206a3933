"""Blobs over a real broker: windows, resume, and what a bad or missing chunk does."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from brokers import running
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.blobs import BlobFetcher, BlobPublisher
from shoal_codecs.transport.errors import (
    BlobStorageError,
    BlobTimeoutError,
    CorruptChunkError,
)
from shoal_codecs.transport.link import Handler, Link
from shoal_codecs.wire.blob import BlobRef, describe
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import BrokerHandle

TOPICS = Topics("fleet")
CHUNK = 4096
DATA = random.Random(7).randbytes(64 * CHUNK - 100)


@dataclass
class Bench:
    broker: BrokerHandle
    sender: Link
    receiver: Link
    source: BlobStore
    target: BlobStore
    publisher: BlobPublisher
    subscribed: list[str]

    def fetcher(self, **options: object) -> BlobFetcher:
        return BlobFetcher(self.receiver, TOPICS, self.target, **options)  # type: ignore[arg-type]


@pytest.fixture
async def bench(
    open_mosquitto: BrokerHandle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    async with (
        running(open_mosquitto.url, "sender") as sender,
        running(open_mosquitto.url, "receiver") as receiver,
    ):
        subscribed: list[str] = []
        original = receiver.subscribe

        async def counting(topic_filter: str, handler: Handler, qos: int = 1) -> None:
            subscribed.append(topic_filter)
            await original(topic_filter, handler, qos)

        monkeypatch.setattr(receiver, "subscribe", counting)
        source, target = BlobStore(tmp_path / "source"), BlobStore(tmp_path / "target")
        publisher = BlobPublisher(sender, TOPICS, source)
        yield Bench(open_mosquitto, sender, receiver, source, target, publisher, subscribed)


async def test_a_blob_arrives_whole_and_every_subscription_ends(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    steps: list[tuple[int, int]] = []
    path = await bench.fetcher().fetch(ref, lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == DATA == bench.target.read(ref.name)
    assert steps == [(n, 64) for n in range(65)]
    assert len(bench.subscribed) == 64
    # Nothing is left subscribed: publishing again brings the receiver nothing.
    await bench.publisher.publish(ref)
    await bench.receiver.publish("fence", b"")
    assert bench.receiver.stats.unhandled == 0
    assert not bench.receiver._subscriptions.handlers(TOPICS.blob(ref.name, 0))


async def test_a_blob_of_one_chunk(bench: Bench) -> None:
    ref = bench.source.put(b"small", CHUNK)
    await bench.publisher.publish(ref)
    assert (await bench.fetcher().fetch(ref)).read_bytes() == b"small"


async def test_a_fetch_that_was_cut_takes_only_what_is_missing(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    half = asyncio.Event()
    first = bench.fetcher()
    task = asyncio.create_task(first.fetch(ref, lambda done, _: half.set() if done == 32 else None))
    await half.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not bench.target.has(ref.name)
    on_disk = first.stats.chunks
    assert 32 <= on_disk < 64
    bench.subscribed.clear()
    second = bench.fetcher()
    path = await second.fetch(ref)
    assert path.read_bytes() == DATA
    assert second.stats.chunks == len(bench.subscribed) == 64 - on_disk


async def test_what_a_crash_left_half_written_is_taken_again(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    torn = bytearray(DATA)
    torn[5 * CHUNK + 17] ^= 1
    bench.target.path(ref.name).with_suffix(".part").write_bytes(torn)
    fetcher = bench.fetcher()
    assert (await fetcher.fetch(ref)).read_bytes() == DATA
    assert bench.subscribed == [TOPICS.blob(ref.name, 5)]


async def test_a_corrupted_chunk_is_dropped_and_asked_for_again(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    await bench.sender.publish(TOPICS.blob(ref.name, 3), b"x" * CHUNK, retain=True)

    async def again(missing: BlobRef) -> None:
        asyncio.get_running_loop().create_task(bench.publisher.publish(missing))

    fetcher = bench.fetcher(on_missing=again)
    assert (await fetcher.fetch(ref)).read_bytes() == DATA
    assert fetcher.stats.corrupt == 1
    assert fetcher.stats.requests == 1


async def test_a_chunk_that_stays_corrupted_ends_the_fetch(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    topic = TOPICS.blob(ref.name, 3)
    await bench.sender.publish(topic, b"bad", retain=True)

    async def again(_: BlobRef) -> None:
        await bench.sender.publish(topic, b"bad", retain=True)

    with pytest.raises(CorruptChunkError, match="chunk 3"):
        await bench.fetcher(on_missing=again, max_corrupt=3).fetch(ref)
    assert not bench.target.has(ref.name)


async def test_a_missing_chunk_is_asked_for_after_a_silence(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    await bench.sender.publish(TOPICS.blob(ref.name, 9), b"", retain=True)
    asked: list[BlobRef] = []

    async def again(missing: BlobRef) -> None:
        asked.append(missing)
        await bench.publisher.publish(missing)

    fetcher = bench.fetcher(on_missing=again, chunk_timeout_s=0.2)
    assert (await fetcher.fetch(ref)).read_bytes() == DATA
    assert asked == [ref]


async def test_a_chunk_nobody_publishes_ends_the_fetch(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    with pytest.raises(BlobTimeoutError, match="lacks 64 of 64"):
        await bench.fetcher(chunk_timeout_s=0.05, attempts=2).fetch(ref)
    await bench.publisher.publish(ref)
    assert (await bench.fetcher().fetch(ref)).read_bytes() == DATA


async def test_a_description_that_contradicts_itself_is_found_out(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    wrong = BlobRef(describe(b"other").digest, ref.size, ref.chunk_bytes, ref.chunks)
    for index in range(ref.count):
        await bench.sender.publish(
            TOPICS.blob(wrong.name, index), bench.source.read_chunk(ref, index), retain=True
        )
    with pytest.raises(CorruptChunkError, match="contradicts"):
        await bench.fetcher().fetch(wrong)
    assert not bench.target.has(wrong.name)


async def test_two_who_want_one_blob_share_the_transfer(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    fetcher = bench.fetcher()
    paths = await asyncio.gather(fetcher.fetch(ref), fetcher.fetch(ref))
    assert paths[0] == paths[1]
    assert fetcher.stats.chunks == 64


async def test_a_cleared_blob_is_gone_from_the_broker(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    await bench.publisher.clear(ref)
    with pytest.raises(BlobTimeoutError):
        await bench.fetcher(chunk_timeout_s=0.05, attempts=1).fetch(ref)


async def test_a_fetch_goes_on_over_a_broker_that_was_killed(bench: Bench) -> None:
    ref = bench.source.put(DATA, CHUNK)
    await bench.publisher.publish(ref)
    half = asyncio.Event()
    fetcher = bench.fetcher(on_missing=bench.publisher.publish, chunk_timeout_s=0.5, window=2)
    task = asyncio.create_task(fetcher.fetch(ref, lambda done, _: half.set() if done == 20 else None))
    await half.wait()
    await bench.broker.kill()
    await bench.broker.restart()
    async with asyncio.timeout(20):
        path = await task
    assert path.read_bytes() == DATA


async def test_a_full_store_says_so_before_the_first_chunk(bench: Bench, tmp_path: Path) -> None:
    ref = bench.source.put(DATA, CHUNK)
    small = BlobStore(tmp_path / "small", cap_bytes=CHUNK)
    with pytest.raises(BlobStorageError, match="cap"):
        await BlobFetcher(bench.receiver, TOPICS, small).fetch(ref)
    assert not bench.subscribed
    with contextlib.suppress(BlobStorageError):
        small.put(DATA)
    assert small.size_bytes() == 0
