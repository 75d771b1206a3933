import asyncio
import random
from types import SimpleNamespace

import pytest

from shoal_codecs.transport.link import Link
from shoal_codecs.transport.retained import RetainedShelf
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.status import FleetView
from shoal_codecs.wire.topics import Topics
from shoal_coordinator import status_board
from shoal_coordinator.announcer import Announcer
from shoal_coordinator.status_board import StatusBoard
from wire_parts import FLEET, post

VIEW = FleetView(
    fleet=FLEET,
    taken_ms=1,
    mode="hubs",
    codec="randk",
    algorithm="fedadam",
    phase="idle",
    round=0,
    target=0,
    version=0,
    digest="",
    parameters=0,
)


async def test_a_picture_that_fits_no_packet_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link(LinkSettings(max_packet_bytes=64), "coordinator", rng=random.Random(1))
    topics = Topics(FLEET)
    remedies: list[str] = []
    log = SimpleNamespace(warning=lambda _event, remedy: remedies.append(remedy))
    monkeypatch.setattr(status_board, "log", log)
    shelf = RetainedShelf(link, topics.coordinator("beacon"), "boot")
    topic = topics.coordinator("status")
    board = StatusBoard(topic, Announcer(link, post("coordinator")), shelf, lambda: VIEW, shortest_s=0)
    running = asyncio.create_task(board.run())
    for wanted in (1, 2):
        board.changed()
        async with asyncio.timeout(30):
            while len(remedies) < wanted:
                await asyncio.sleep(0)
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert all("raise max_packet_bytes" in remedy for remedy in remedies)
