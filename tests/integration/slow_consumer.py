"""A process that writes each message down and dies when the test says so."""

import asyncio
import sys
from pathlib import Path

from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.transport.settings import LinkSettings


async def main(url: str, ledger: Path) -> None:
    link = Link(LinkSettings(url=url, username="consumer"), "consumer")

    async def handle(delivery: Delivery) -> None:
        await asyncio.sleep(0.001)
        with ledger.open("ab") as file:
            file.write(delivery.payload + b"\n")

    async def ready(session_present: bool) -> None:  # noqa: FBT001
        del session_present
        await link.publish("ready", b"")

    link.on_connected(ready)
    await link.subscribe("work", handle)
    await link.run()


asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
