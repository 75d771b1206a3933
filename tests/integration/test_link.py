"""A link against a real Mosquitto: what the field does to it, and what it does about that."""

import asyncio

import pytest

from brokers import Collector, eventually, running
from shoal_codecs.transport.errors import (
    LinkClosedError,
    PacketTooLargeError,
    PublishRefusedError,
)
from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.transport.messages import Publication
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
