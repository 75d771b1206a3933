"""A link against a real Mosquitto: what the field does to it, and what it does about that."""

import asyncio
import contextlib
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import structlog

from brokers import Collector, CountingProxy, eventually, running
from shoal_codecs.transport.errors import (
    LinkClosedError,
    PacketTooLargeError,
    PublishRefusedError,
)
from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.transport.messages import Publication
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.transport.traffic import Traffic
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import BrokerHandle


async def test_each_message_reaches_its_handler_in_order(open_mosquitto: BrokerHandle) -> None:
    exact, wild = Collector(), Collector()
    async with running(open_mosquitto.url, "a") as sender, running(open_mosquitto.url, "b") as other:
        await other.subscribe("t/1", exact)
        await other.subscribe("u/+/x/#", wild)
        for number in range(50):
            await sender.publish("t/1", b"%d" % number)
            await sender.publish(f"u/{number}/x", b"%d" % number)
        await wild.count(50)
        assert exact.payloads == wild.payloads == [b"%d" % n for n in range(50)]
        await other.unsubscribe("t/1")
        await sender.publish("t/1", b"unwanted")
        await sender.publish("u/1/x", b"last")
        await wild.count(51)
        assert len(exact.deliveries) == 50


async def test_publish_waits_for_a_dead_broker_to_come_back(open_mosquitto: BrokerHandle) -> None:
    seen = Collector()
    # One link sends to itself: it subscribes again before anything waiting is sent, so that the
    # message arrives even where the killed broker forgot the session.
    async with running(open_mosquitto.url, "both") as link:
        await link.subscribe("t", seen)
        await open_mosquitto.kill()
        await eventually(lambda: not link.is_connected)
        waiting = [asyncio.create_task(link.publish("t", b"%d" % n)) for n in range(30)]
        await asyncio.sleep(0.2)
        assert not any(task.done() for task in waiting)
        await open_mosquitto.restart()
        async with asyncio.timeout(10):
            await asyncio.gather(*waiting)
        await seen.until(lambda: len(set(seen.payloads)) == 30)
        assert link.stats.reconnects == 1


async def test_what_came_while_away_is_delivered_to_the_resumed_session(
    open_mosquitto: BrokerHandle,
) -> None:
    seen = Collector()
    present: list[bool] = []

    async def prepare(link: Link) -> None:
        async def note(session_present: bool) -> None:  # noqa: FBT001
            present.append(session_present)

        link.on_connected(note)
        await link.subscribe("t/+", seen)

    async with running(open_mosquitto.url, "reader", prepare=prepare):
        await eventually(lambda: present == [False])
    async with running(open_mosquitto.url, "sender") as sender:
        for number in range(10):
            await sender.publish(f"t/{number}", b"kept")
    async with running(open_mosquitto.url, "reader", prepare=prepare):
        await seen.count(10)
        await eventually(lambda: present == [False, True])


async def test_the_will_speaks_for_a_party_that_vanished_and_not_after_a_farewell(
    open_mosquitto: BrokerHandle,
) -> None:
    seen = Collector()
    will = Publication("status/x", b"gone", retain=True)
    async with running(open_mosquitto.url, "watcher") as watcher:
        await watcher.subscribe("status/+", seen)
        async with running(open_mosquitto.url, "x", will=will) as link:
            await link.close(Publication("status/x", b"bye", retain=True))
        await seen.count(1)
        async with running(open_mosquitto.url, "y", will=will) as link:
            assert link._session is not None
            link._session.abort()
            await seen.count(2)
    assert seen.payloads == [b"bye", b"gone"]


async def test_a_failing_handler_is_counted_and_the_next_message_handled(
    open_mosquitto: BrokerHandle,
) -> None:
    seen = Collector()

    async def fail_once(delivery: Delivery) -> None:
        await seen(delivery)
        if len(seen.deliveries) == 1:
            raise ValueError(delivery.payload)

    async with running(open_mosquitto.url, "a") as link:
        await link.subscribe("t", fail_once)
        await link.publish("t", b"one")
        await link.publish("t", b"two")
        await seen.count(2)
        assert link.stats.handler_errors == 1


async def test_too_large_a_message_is_refused_before_it_is_sent(
    open_mosquitto: BrokerHandle,
) -> None:
    async with running(open_mosquitto.url, "a") as link:
        with pytest.raises(PacketTooLargeError, match="blob"):
            await link.publish("t", bytes(3 * 1024 * 1024))
        await link.publish("t", bytes(1024 * 1024))


async def test_the_smaller_limit_of_the_broker_counts(open_mosquitto: BrokerHandle) -> None:
    async with running(open_mosquitto.url, "a", max_packet_bytes=16 * 1024 * 1024) as link:
        with pytest.raises(PacketTooLargeError, match="4194304"):
            await link.publish("t", bytes(5 * 1024 * 1024))
        assert link.is_connected


async def test_a_closed_link_says_so(open_mosquitto: BrokerHandle) -> None:
    async with running(open_mosquitto.url, "a") as link:
        await open_mosquitto.kill()
        await eventually(lambda: not link.is_connected)
        waiting = asyncio.create_task(link.publish("t", b""))
        await asyncio.sleep(0.05)
        await link.close()
        with pytest.raises(LinkClosedError):
            await waiting
        with pytest.raises(LinkClosedError):
            await link.publish("t", b"")


async def test_the_access_rules_refuse_a_strangers_topic(mosquitto: BrokerHandle) -> None:
    async with running(mosquitto.url, "d1") as link:
        await link.publish("shoal/f/devices/d1/status", b"")
        with pytest.raises(PublishRefusedError, match="access rules"):
            await link.publish("shoal/f/devices/d2/status", b"")


async def test_quality_zero_is_dropped_and_counted_without_a_connection(
    open_mosquitto: BrokerHandle,
) -> None:
    async with running(open_mosquitto.url, "a") as link:
        await open_mosquitto.kill()
        await eventually(lambda: not link.is_connected)
        await link.publish("t", b"", qos=0)
        assert link.stats.dropped_out == 1


async def test_a_slow_consumer_of_ten_thousand_messages_loses_none_in_bounded_memory(
    open_mosquitto: BrokerHandle,
) -> None:
    number, size, window = 10_000, 1024, 20
    # While the answer to a ping is waited for, the reading goes on: no ping is due where this takes long.
    options: dict[str, Any] = {"window": window, "keepalive_s": 600}
    numbers: list[int] = []

    async def slow(delivery: Delivery) -> None:
        numbers.append(int(delivery.payload[:8]))
        if len(numbers) % 100 == 0:
            await asyncio.sleep(0.02)

    async def prepare(link: Link) -> None:
        await link.subscribe("queue", slow)

    async with running(open_mosquitto.url, "slow", prepare=prepare, **options):
        pass
    async with running(open_mosquitto.url, "fast", window=100) as fast:
        left = iter(range(number))

        async def send() -> None:
            for index in left:
                await fast.publish("queue", b"%08d" % index + bytes(size - 8))

        await asyncio.gather(*(send() for _ in range(100)))
    tracemalloc.start()
    try:
        async with running(open_mosquitto.url, "slow", prepare=prepare, **options) as link:
            await eventually(lambda: len(numbers) >= number, 100)
            peak = tracemalloc.get_traced_memory()[1]
            # One is in the handler's hands, the window is what the broker may send unacknowledged.
            assert link.stats.peak_backlog <= window + 1
    finally:
        tracemalloc.stop()
    assert sorted(set(numbers)) == list(range(number))
    # Ten megabytes waited; a tenth of that was never here at once.
    assert peak < number * size / 10


async def test_a_consumer_killed_in_the_middle_gets_again_what_it_had_not_handled(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    number = 400
    ledger = tmp_path / "ledger"
    ledger.touch()

    def lines() -> list[str]:
        return ledger.read_text().split()

    async def consume() -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable, Path(__file__).with_name("slow_consumer.py"), open_mosquitto.url, ledger
        )

    consumer = await consume()
    async with running(open_mosquitto.url, "sender") as sender:
        ready = Collector()
        await sender.subscribe("ready", ready)
        await ready.count(1)
        for index in range(number):
            await sender.publish("work", b"%d" % index)
        await eventually(lambda: len(lines()) >= 20)
        consumer.kill()
        await consumer.wait()
        before = len(set(lines()))
        assert before < number
        consumer = await consume()
        await eventually(lambda: len(set(lines())) >= number, 20)
        consumer.kill()
        await consumer.wait()
    assert set(lines()) == {str(index) for index in range(number)}


async def test_what_a_resumed_session_sends_again_does_not_pile_up(
    open_mosquitto: BrokerHandle,
) -> None:
    gate = asyncio.Event()
    seen = Collector()

    async def blocked(delivery: Delivery) -> None:
        await gate.wait()
        await seen(delivery)

    async with (
        running(open_mosquitto.url, "sender") as sender,
        CountingProxy(open_mosquitto.port) as proxy,
        running(proxy.url, "reader", window=10) as reader,
    ):
        await reader.subscribe("t", blocked)
        for number in range(10):
            await sender.publish("t", b"%d" % number)
        await eventually(lambda: reader.stats.peak_backlog == 10)
        for cut in range(3):
            proxy.cut()
            # With a full inbox nothing is read; a publish reads on and so notices the cut.
            async with asyncio.timeout(10):
                await reader.publish("fence", b"")
            assert reader.stats.reconnects == cut + 1
        gate.set()
        await seen.until(lambda: len(set(seen.payloads)) == 10)
        await reader.publish("fence", b"")
    # The one in the handler's hands may come twice.
    assert len(seen.deliveries) <= 11
    assert reader.stats.peak_backlog <= 11
    assert reader.stats.duplicates >= 10


async def test_traffic_is_what_a_proxy_counted_over_every_connection(
    open_mosquitto: BrokerHandle,
) -> None:
    seen = Collector()
    async with (
        CountingProxy(open_mosquitto.port) as proxy,
        running(proxy.url, "metered", backoff_min_s=0.01) as link,
    ):
        await link.subscribe("t", seen)
        for size in (0, 100, 200_000):
            await link.publish("t", bytes(size))
        await seen.count(3)
        await link.publish("fence", b"")  # the last acknowledgement is on its way before this one's
        await eventually(lambda: link.traffic == Traffic(proxy.up, proxy.down))
        assert link.traffic.sent > 200_000
        proxy.cut()
        await eventually(lambda: link.stats.reconnects == 1)
        await link.publish("t", bytes(1000))
        await seen.count(4)
        await link.publish("fence", b"")
        await eventually(lambda: link.traffic == Traffic(proxy.up, proxy.down))
        await link.close()
        await eventually(lambda: link.traffic == Traffic(proxy.up, proxy.down))


async def test_sixteen_parties_come_back_at_once(open_mosquitto: BrokerHandle) -> None:
    seen = Collector()
    async with contextlib.AsyncExitStack() as stack:
        links = [await stack.enter_async_context(running(open_mosquitto.url, f"n{n}")) for n in range(16)]
        for number, link in enumerate(links):
            await link.subscribe(f"to/{number}", seen)
        await open_mosquitto.kill()
        await eventually(lambda: not any(link.is_connected for link in links))
        await open_mosquitto.restart()
        await eventually(lambda: all(link.is_connected for link in links))
        await asyncio.gather(*(link.publish(f"to/{(n + 1) % 16}", b"%d" % n) for n, link in enumerate(links)))
        await seen.until(lambda: len(set(seen.payloads)) == 16)


async def test_a_subscription_left_behind_by_an_earlier_life_is_ended(
    open_mosquitto: BrokerHandle,
) -> None:
    async with (
        running(open_mosquitto.url, "sender") as sender,
        CountingProxy(open_mosquitto.port) as proxy,
    ):
        async with running(proxy.url, "reader") as link:
            await link.subscribe("old", Collector())
        async with running(proxy.url, "reader") as link:
            await sender.publish("old", b"")
            await eventually(lambda: link.stats.unhandled == 1)
            await sender.publish("old", b"again")
            await link.publish("fence", b"")
            assert link.stats.unhandled == 1


async def test_a_link_that_is_cancelled_leaves_its_will(open_mosquitto: BrokerHandle) -> None:
    seen = Collector()
    async with running(open_mosquitto.url, "watcher") as watcher:
        await watcher.subscribe("w", seen)
        link = Link(LinkSettings(url=open_mosquitto.url, username="x"), "x", will=Publication("w", b"gone"))
        task = asyncio.create_task(link.run())
        await link.wait_connected()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await seen.count(1)
        with pytest.raises(LinkClosedError):
            await link.wait_connected()


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("mqtt://127.0.0.1:1", "BrokerUnreachableError"),
        ("mqtt://no-such-host.invalid:1883", "BrokerUnreachableError"),
    ],
)
async def test_a_broker_that_is_not_there_is_reported_once(url: str, fault: str) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(url, "a", wait=False, backoff_min_s=0.01, backoff_max_s=0.02):
            await asyncio.sleep(0.3)
    reports = [line for line in logs if line["event"] == "not_connected"]
    assert [line["fault"] for line in reports] == [fault]
    assert reports[0]["remedy"]


async def test_two_processes_of_one_name_are_told_so(open_mosquitto: BrokerHandle) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(open_mosquitto.url, "same"), running(open_mosquitto.url, "same"):
            await eventually(lambda: any(line.get("fault") == "SessionTakenOverError" for line in logs))


async def test_parties_of_one_name_in_two_fleets_do_not_take_each_other_s_session(
    open_mosquitto: BrokerHandle,
) -> None:
    herd, flock = (Topics(fleet).client_id("hub-1") for fleet in ("herd", "flock"))
    async with running(open_mosquitto.url, herd) as one, running(open_mosquitto.url, flock) as other:
        for link in (one, other):
            await link.publish("who", link.client_id.encode())
            assert link.stats.connects == 1
