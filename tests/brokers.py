"""Brokers and links for tests: real ones, on free ports."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Self

import pytest

from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Delivery, Publication
from shoal_codecs.transport.settings import LinkSettings
from shoal_coordinator.demo.broker import (
    BrokerHandle,
    free_port,
    loopback_configuration,
    start_embedded,
    start_mosquitto,
)


def open_configuration(folder: Path, port: int, extra: str = "") -> str:
    """Mosquitto without access rules: for tests of the transport alone."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = loopback_configuration(folder, port).splitlines()
    return "\n".join([*(line for line in lines if not line.startswith("acl_file")), extra, ""])


@pytest.fixture
async def mosquitto(tmp_path: Path) -> AsyncIterator[BrokerHandle]:
    """Mosquitto as the demo runs it, with the fleet's access rules."""
    broker = await start_mosquitto(tmp_path / "broker folder")
    yield broker
    await broker.stop()


@pytest.fixture
async def open_mosquitto(tmp_path: Path) -> AsyncIterator[BrokerHandle]:
    """Mosquitto without access rules."""
    broker = await start_open_mosquitto(tmp_path / "broker")
    yield broker
    await broker.stop()


@pytest.fixture
async def embedded_broker(tmp_path: Path) -> AsyncIterator[BrokerHandle]:
    """The embedded broker."""
    broker = await start_embedded(tmp_path / "embedded")
    yield broker
    await broker.stop()


async def start_open_mosquitto(folder: Path, extra: str = "") -> BrokerHandle:
    """Start Mosquitto without access rules, with ``extra`` lines of configuration."""
    port = free_port()
    return await start_mosquitto(folder, port, configuration=open_configuration(folder, port, extra))


@contextlib.asynccontextmanager
async def running(
    url: str,
    name: str,
    *,
    prepare: Callable[[Link], Any] | None = None,
    will: Publication | None = None,
    wait: bool = True,
    **settings: Any,
) -> AsyncIterator[Link]:
    """A link that runs; ``prepare`` may subscribe before it connects."""
    values: dict[str, Any] = {"username": name, "backoff_min_s": 0.05, "backoff_max_s": 0.5}
    link = Link(LinkSettings(url=url, **(values | settings)), name, will=will, rng=random.Random(1))
    if prepare is not None:
        await prepare(link)
    task = asyncio.create_task(link.run())
    try:
        if wait:
            async with asyncio.timeout(10):
                await link.wait_connected()
        yield link
    finally:
        await link.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class CountingProxy:
    """A TCP relay before a broker: counts the bytes each way and can cut every connection."""

    def __init__(self, port: int) -> None:
        self.up = 0
        self.down = 0
        self._broker_port = port
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    @property
    def url(self) -> str:
        assert self._server is not None
        return f"mqtt://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        """Close every connection, without a word in MQTT."""
        for writer in self._writers:
            writer.close()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._broker_port)
        both = {writer, far_writer}
        self._writers |= both
        try:
            await asyncio.gather(self._pump(reader, far_writer, "up"), self._pump(far_reader, writer, "down"))
        finally:
            self._writers -= both

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                setattr(self, way, getattr(self, way) + len(data))
                writer.write(data)
                await writer.drain()
        writer.close()


class Collector:
    """A handler that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self._arrived = asyncio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self._arrived.set()

    @property
    def payloads(self) -> list[bytes]:
        return [d.payload for d in self.deliveries]

    async def until(self, condition: Callable[[], bool], seconds: float = 10) -> None:
        """Wait until ``condition`` holds."""
        async with asyncio.timeout(seconds):
            while not condition():
                self._arrived.clear()
                await self._arrived.wait()

    async def count(self, number: int, seconds: float = 10) -> None:
        """Wait for ``number`` deliveries."""
        await self.until(lambda: len(self.deliveries) >= number, seconds)


async def eventually(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until ``condition`` holds, looking every few milliseconds."""
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
