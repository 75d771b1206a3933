"""What must also hold on the embedded broker."""

import sys
from pathlib import Path

from brokers import Collector, eventually, running
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.blobs import BlobFetcher, BlobPublisher
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Publication
from shoal_codecs.transport.retained import RetainedShelf
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import BrokerHandle, free_port

TOPICS = Topics("fleet")

OLD_BROKER = """
id = 0
[router]
id = 0
max_connections = 10
max_outgoing_packet_count = 200
max_segment_size = 1048576
max_segment_count = 10
[v4.1]
name = "old"
listen = "127.0.0.1:{port}"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 1048576
max_inflight_count = 200
dynamic_filters = true
"""


async def test_messages_sessions_and_wills(embedded_broker: BrokerHandle) -> None:
    seen, wills = Collector(), Collector()

    async def prepare(link: Link) -> None:
        await link.subscribe("t", seen)

    async with running(embedded_broker.url, "sender") as sender:
        await sender.subscribe("w", wills)
        async with running(embedded_broker.url, "reader", prepare=prepare):
            await sender.publish("t", b"1")
            await seen.count(1)
        await sender.publish("t", b"2")
        will = Publication("w", b"gone")
        async with running(embedded_broker.url, "reader", prepare=prepare, will=will) as reader:
            await seen.count(2)
            assert reader._session is not None
            reader._session.abort()
            await wills.count(1)
    assert seen.payloads == [b"1", b"2"]


async def test_a_restart_forgets_and_the_shelf_refills(embedded_broker: BrokerHandle, tmp_path: Path) -> None:
    store = BlobStore(tmp_path / "source")
    ref = store.put(bytes(range(256)) * 400, 16 * 1024)
    refills: list[int] = []

    async def refilled(count: int) -> None:
        refills.append(count)

    shelves: list[RetainedShelf] = []

    async def prepare(link: Link) -> None:
        shelves.append(RetainedShelf(link, TOPICS.coordinator("beacon"), "b"))
        shelves[0].on_refill(refilled)

    async with running(embedded_broker.url, "coordinator", prepare=prepare) as link:
        await BlobPublisher(link, TOPICS, store, shelves[0]).publish(ref)
        await embedded_broker.kill()
        await embedded_broker.restart()
        await eventually(lambda: refills == [ref.count])
        async with running(embedded_broker.url, "device") as device:
            fetcher = BlobFetcher(device, TOPICS, BlobStore(tmp_path / "target"))
            path = await fetcher.fetch(ref)
        assert path.read_bytes() == store.read(ref.name)


async def test_many_messages_while_away_arrive_in_order(embedded_broker: BrokerHandle) -> None:
    seen = Collector()

    async def prepare(link: Link) -> None:
        await link.subscribe("q", seen)

    async with running(embedded_broker.url, "reader", prepare=prepare):
        pass
    async with running(embedded_broker.url, "sender") as sender:
        for number in range(500):
            await sender.publish("q", b"%d" % number)
    async with running(embedded_broker.url, "reader", prepare=prepare) as reader:
        await seen.count(500)
        assert reader.stats.peak_backlog <= reader.settings.window + 1
    assert seen.payloads == [b"%d" % n for n in range(500)]


async def test_an_older_broker_is_spoken_to_in_its_own_version(tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "old.toml"
    configuration.write_text(OLD_BROKER.format(port=port))
    command = [sys.executable, "-m", "iotcore._serve", f'{{"config_path": "{configuration}"}}']
    broker = BrokerHandle("embedded", port, command, tmp_path / "log")
    await broker.start()
    try:
        seen = Collector()
        async with running(broker.url, "a", connect_timeout_s=1.0) as link:
            await link.subscribe("t", seen)
            await link.publish("t", b"1")
            await seen.count(1)
    finally:
        await broker.stop()
