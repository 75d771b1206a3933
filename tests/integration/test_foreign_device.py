"""The example of a device of another make is run as a person would run it, and understood."""

import asyncio
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from brokers import Collector, running
from edge_parts import FLEET, make_fleet
from shoal_codecs.transport.link import Link
from shoal_codecs.wire.heartbeat import Reading, merged
from shoal_codecs.wire.messages import Heartbeat
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import BrokerHandle

EXAMPLE = Path(__file__).parents[2] / "examples" / "foreign_device.py"
NAME = "pump-17"


@asynccontextmanager
async def running_example(mosquitto: BrokerHandle, *words: str) -> AsyncIterator[tuple[Process, Collector]]:
    """Run the example, and collect what it says under the fleet's own access rules."""
    collector = Collector()

    async def prepare(link: Link) -> None:
        await link.subscribe(Topics(FLEET).device("+", "heartbeat"), collector)

    async with running(mosquitto.url, "coordinator", prepare=prepare):
        yield (
            await asyncio.create_subprocess_exec(
                *(sys.executable, str(EXAMPLE), "--port", mosquitto.url.rpartition(":")[2]),
                *("--fleet", FLEET, "--name", NAME, *words),
                stderr=asyncio.subprocess.PIPE,
            ),
            collector,
        )


async def test_a_device_without_shoal_is_heard(mosquitto: BrokerHandle) -> None:
    """By the coordinator's own post."""
    async with running_example(mosquitto, "--count", "3", "--seconds", "0.05") as (process, collector):
        async with asyncio.timeout(20):
            await process.communicate()
        assert process.returncode == 0
        await collector.count(3)
    assert f" as {Topics(FLEET).client_id(NAME)}" in mosquitto.log.read_text()
    post = make_fleet().post("coordinator")
    readings: dict[int, object] = {}
    for number, delivery in enumerate(collector.deliveries, 1):
        address, message = post.open(delivery.topic, delivery.payload)
        assert isinstance(message, Heartbeat)
        assert (address.name, message.sender, message.sequence) == (NAME, NAME, number)
        assert message.full is (number == 1)
        readings = merged(readings, message.readings, full=message.full)
    assert readings[Reading.AGENT] == "foreign-1"
    assert readings[Reading.PHASE] == "idle"


async def test_ctrl_c_ends_it_in_order(mosquitto: BrokerHandle) -> None:
    async with running_example(mosquitto, "--seconds", "30") as (process, collector):
        await collector.count(1)
        process.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            _, said = await process.communicate()
    assert (process.returncode, said) == (0, b"")


def test_the_example_needs_nothing_of_shoal() -> None:
    assert "import shoal" not in EXAMPLE.read_text()
    assert "from shoal" not in EXAMPLE.read_text()
