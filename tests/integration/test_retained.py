"""A broker that lost what was retained is noticed and refilled."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from brokers import Collector, eventually, running
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.blobs import BlobFetcher, BlobPublisher
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.retained import RetainedShelf, decode_beacon
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import BrokerHandle

TOPICS = Topics("fleet")
BEACON = TOPICS.coordinator("beacon")
DATABASE = "mosquitto.db"


@dataclass
class Bench:
    broker: BrokerHandle
    folder: Path
    link: Link
    shelf: RetainedShelf
    refills: list[int] = field(default_factory=list)

    async def retained(self, topic_filter: str) -> dict[str, bytes]:
        """What the broker retains now."""
        seen = Collector()
        async with running(self.broker.url, "looker", session_expiry_s=0) as looker:
            await looker.subscribe(topic_filter, seen)
            await looker.subscribe("fence", seen)
            await looker.publish("fence", b"")
            await seen.until(lambda: any(d.topic == "fence" for d in seen.deliveries))
        return {d.topic: d.payload for d in seen.deliveries if d.retain}

    async def crash(self, database: bytes | None) -> None:
        """Kill the broker and start it with the ``database`` it had at some time before."""
        connects = self.link.stats.connects
        await self.broker.kill()
        path = self.folder / DATABASE
        path.unlink(missing_ok=True)
        if database is not None:
            path.write_bytes(database)
        await self.broker.restart()
        await eventually(lambda: self.link.stats.connects > connects)
        await eventually(lambda: self.shelf._checked == self.link.stats.connects)

    async def saved(self) -> bytes:
        """The broker's database after its next save."""
        path = self.folder / DATABASE
        before = path.stat().st_mtime_ns if path.exists() else 0
        await eventually(lambda: path.exists() and path.stat().st_mtime_ns > before)
        return path.read_bytes()


@pytest.fixture
async def bench(open_mosquitto: BrokerHandle, tmp_path: Path) -> AsyncIterator[Bench]:
    benches: list[Bench] = []

    async def prepare(link: Link) -> None:
        shelf = RetainedShelf(link, BEACON, "boot-1")
        made = Bench(open_mosquitto, tmp_path / "broker", link, shelf)

        async def refilled(count: int) -> None:
            made.refills.append(count)

        shelf.on_refill(refilled)
        benches.append(made)

    async with running(open_mosquitto.url, "coordinator", prepare=prepare):
        yield benches[0]


async def test_a_broker_that_forgot_everything_is_refilled(bench: Bench) -> None:
    await bench.shelf.put("r/1", b"one")
    await bench.shelf.put("r/2", b"two")
    await bench.crash(None)
    await eventually(lambda: bench.refills == [2])
    assert await bench.retained("r/#") == {"r/1": b"one", "r/2": b"two"}


async def test_a_broker_that_kept_everything_is_left_alone(bench: Bench) -> None:
    for number in range(20):
        await bench.shelf.put(f"r/{number}", b"")
        await bench.shelf.put(f"r/{number}", b"x")
    database = await bench.saved()
    await bench.crash(database)
    assert bench.refills == []


async def test_a_broker_that_fell_back_gets_just_what_came_after(bench: Bench) -> None:
    await bench.shelf.put("r/old", b"kept")
    await bench.shelf.put("r/gone", b"to be removed")
    database = await bench.saved()
    await bench.shelf.put("r/old2", b"lost")
    await bench.shelf.put("r/old", b"changed")
    await bench.shelf.remove("r/gone")
    await bench.crash(database)
    await eventually(lambda: bench.refills == [2])
    assert await bench.retained("r/#") == {"r/old": b"changed", "r/old2": b"lost"}


async def test_changes_made_while_the_broker_is_down_hide_no_loss(bench: Bench) -> None:
    await bench.shelf.put("r/1", b"one")
    await bench.broker.kill()
    await eventually(lambda: not bench.link.is_connected)
    waiting = asyncio.create_task(bench.shelf.put("r/2", b"two"))
    await asyncio.sleep(0)
    await bench.crash(None)
    await waiting
    await eventually(lambda: bench.refills == [1])
    assert await bench.retained("r/#") == {"r/1": b"one", "r/2": b"two"}
    # And the beacon tells the truth again: nothing more is missing after the next crash.
    database = await bench.saved()
    await bench.crash(database)
    assert bench.refills == [1]


async def test_a_change_acknowledged_before_the_check_hides_no_loss(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    shelves: list[RetainedShelf] = []

    async def busy(session_present: bool) -> None:  # noqa: FBT001
        del session_present
        await asyncio.sleep(0.3)

    async def prepare(link: Link) -> None:
        link.on_connected(busy)
        shelves.append(RetainedShelf(link, BEACON, "boot-1"))

    async with running(open_mosquitto.url, "coordinator", prepare=prepare) as link:
        bench = Bench(open_mosquitto, tmp_path / "broker", link, shelves[0])
        await eventually(lambda: shelves[0]._checked == 1)
        await bench.shelf.put("r/1", b"one")
        await open_mosquitto.kill()
        await eventually(lambda: not link.is_connected)
        waiting = asyncio.create_task(bench.shelf.put("r/2", b"two"))
        await asyncio.sleep(0)
        await bench.crash(None)
        await waiting
        assert await bench.retained("r/#") == {"r/1": b"one", "r/2": b"two"}


async def test_it_is_noticed_again_and_again(bench: Bench) -> None:
    await bench.shelf.put("r/1", b"one")
    await bench.crash(None)
    await bench.crash(None)
    await eventually(lambda: bench.refills == [1, 1])
    assert await bench.retained("r/#") == {"r/1": b"one"}


async def test_the_beacon_comes_last_and_names_the_last_change(bench: Bench) -> None:
    await asyncio.gather(*(bench.shelf.put(f"r/{n}", b"") for n in range(30)))
    await bench.shelf.remove("r/0")
    await eventually(lambda: bench.shelf._checked == 1)
    retained = await bench.retained("#")
    beacon = decode_beacon(retained[BEACON])
    assert beacon is not None
    assert (beacon.boot_id, beacon.change) == ("boot-1", 31)


async def test_the_chunks_of_a_blob_come_back_from_the_store(bench: Bench, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "source")
    data = random.Random(3).randbytes(50_000)
    ref = store.put(data, 4096)
    publisher = BlobPublisher(bench.link, TOPICS, store, bench.shelf)
    await publisher.publish(ref)
    await bench.crash(None)
    await eventually(lambda: bench.refills == [ref.count])
    async with running(bench.broker.url, "device") as device:
        fetcher = BlobFetcher(device, TOPICS, BlobStore(tmp_path / "target"))
        assert (await fetcher.fetch(ref)).read_bytes() == data
    await publisher.clear(ref)
    assert bench.shelf.topics == []


async def test_what_the_store_lost_does_not_stop_the_rest(bench: Bench, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "source")
    ref = store.put(b"data")
    await BlobPublisher(bench.link, TOPICS, store, bench.shelf).publish(ref)
    await bench.shelf.put("r/1", b"one")
    store.drop(ref.name)
    await bench.crash(None)
    await eventually(lambda: bench.refills == [2])
    assert await bench.retained("r/#") == {"r/1": b"one"}


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x93\x02\xa1a\x01", b"\x90", bytes(1000)])
def test_a_beacon_that_is_none(payload: bytes) -> None:
    assert decode_beacon(payload) is None
