"""What the coordinator does aside, and that nothing of it outlives the coordinator."""

import asyncio
import random

from shoal_codecs.transport.link import Link
from shoal_codecs.transport.settings import LinkSettings
from shoal_coordinator.announcer import Announcer
from wire_parts import post


async def test_closing_ends_what_runs_aside_and_nothing_begins_after_it() -> None:
    link = Link(LinkSettings(), "coordinator", rng=random.Random(1))
    announcer = Announcer(link, post("coordinator"))
    ended, begun = [], asyncio.Event()

    async def aside() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("aside")

    async def later() -> None:
        ended.append("later")

    announcer.spawn(aside)
    await begun.wait()
    await announcer.close()
    assert ended == ["aside"]
    announcer.spawn(later)
    announcer.event("too.late", "said while the store closes")
    others = asyncio.all_tasks() - {asyncio.current_task()}
    assert not others
    await asyncio.sleep(0)
    assert ended == ["aside"]
