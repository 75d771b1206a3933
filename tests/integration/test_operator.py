"""What an operator sees and says, over a real broker."""

import asyncio
import signal
import sys
from pathlib import Path

from brokers import eventually, running
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import load_roster
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.messages import CoordinatorStatus
from shoal_codecs.wire.status import FleetView, encode_view
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.fleet_init import init_fleet
from shoal_coordinator.operator import operator_session

FLEET = "f"


def coordinator_post(folder: Path) -> Post:
    roster = load_roster(folder / "roster.bin", folder / "authority.pub", FLEET)
    return Post(Topics(FLEET), load_identity("coordinator", folder / "identity.key"), roster)


async def show(link: Link, post: Post, version: int) -> None:
    topic = post.topics.coordinator("status")
    view = FleetView(
        fleet=FLEET,
        taken_ms=version,
        mode="hubs",
        codec="randk",
        algorithm="fedadam",
        phase="idle",
        round=version,
        target=version,
        version=version,
        digest="",
        parameters=1,
    )
    status = post.compose(CoordinatorStatus, view=encode_view(view))
    await link.publish(topic, post.encode(topic, status), retain=True)


async def test_the_first_picture_is_the_newest(mosquitto: BrokerHandle, tmp_path: Path) -> None:
    """Also for an operator who was there before and missed some."""
    folders = init_fleet(tmp_path / "f", FLEET, devices=["d"], hubs=["h1", "h2"])
    post, settings = coordinator_post(folders["coordinator"]), LinkSettings(url=mosquitto.url)
    async with running(mosquitto.url, "coordinator") as link:
        for version in (1, 4):
            await show(link, post, version)
            async with operator_session(folders["operator"], FLEET, settings) as operator:
                assert (await operator.until(lambda _: True, 5)).version == version
            await show(link, post, version + 1)
            await show(link, post, version + 2)
        async with operator_session(folders["operator"], FLEET, settings) as operator:
            assert (await operator.until(lambda _: True, 5)).version == 6


async def test_an_operator_may_watch_and_command_at_once(mosquitto: BrokerHandle, tmp_path: Path) -> None:
    folders = init_fleet(tmp_path / "f", FLEET, devices=["d"], hubs=["h1", "h2"])
    post, settings = coordinator_post(folders["coordinator"]), LinkSettings(url=mosquitto.url)
    async with (
        running(mosquitto.url, "coordinator") as link,
        operator_session(folders["operator"], FLEET, settings) as one,
        operator_session(folders["operator"], FLEET, settings) as other,
    ):
        for version in (1, 2, 3):
            await show(link, post, version)
            for operator in (one, other):
                await operator.until(lambda view, version=version: view.version == version, 5)  # type: ignore[misc]
            await asyncio.sleep(0.1)
        assert one._link.stats.reconnects == other._link.stats.reconnects == 0


async def test_ctrl_c_ends_a_command_that_waits(mosquitto: BrokerHandle, tmp_path: Path) -> None:
    """Here for an answer that never comes, as there is no coordinator."""
    folders = init_fleet(tmp_path / "f", FLEET, devices=["d"], hubs=["h1", "h2"])
    (folders["operator"] / "config.toml").write_text(f'fleet = "{FLEET}"\n')
    words = ("rounds", "run", "--wait", "--broker", mosquitto.url)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shoal_coordinator", *words),
        *("--config", str(folders["operator"] / "config.toml")),
        stderr=asyncio.subprocess.PIPE,
    )
    client_id = Topics(FLEET).client_id("operator-")
    await eventually(lambda: f" as {client_id}" in mosquitto.log.read_text())
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(5):
        _, said = await process.communicate()
    assert (process.returncode, said) == (130, b"")
