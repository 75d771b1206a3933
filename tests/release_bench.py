"""A fleet for release tests: a real coordinator with three stored versions, real agents, real digits."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from coordinator_bench import background
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import load_roster
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.wire.messages import ReleaseOrder
from shoal_codecs.wire.status import FleetView, ReleaseRow, RoundRow
from shoal_codecs.wire.task import decode_task, initial_weights
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.aggregation import vector_bytes
from shoal_coordinator.config import CoordinatorSettings, shipped
from shoal_coordinator.fleet_init import init_fleet
from shoal_coordinator.operator import Operator, operator_session
from shoal_coordinator.service import serve
from shoal_coordinator.store import Store, VersionRecord
from shoal_edge.agent import EdgeAgent
from shoal_edge.config import DevicePrivacy, EdgeSettings
from shoal_edge.data import Examples, split_held_out
from shoal_edge.trainers.base import FitOptions
from shoal_edge.trainers.litert import LiteRtTrainer

FLEET = "meadow"
DEVICES = ("device-1", "device-2", "device-3")
SIZES = (500, 300, 200)
UNTRAINED, HALF_WAY, FINAL = 0, 1, 2


@cache
def trained_versions() -> tuple[npt.NDArray[np.float32], ...]:
    """Return an untrained, a half-trained and a trained model of the digits, never of held-out examples."""
    bundle = decode_task(shipped("digits.task").read_bytes())
    with np.load(shipped("digits.npz")) as archive:
        train, _ = split_held_out(Examples(archive["x"], archive["y"].astype(np.int32)))
    trainer, rng = LiteRtTrainer(bundle), np.random.default_rng(1)
    versions = [initial_weights(bundle.parameters, 1)]
    for epochs in (2, 15):
        trainer.set_weights(versions[-1])
        trainer.fit(train.x, train.y, FitOptions(epochs=epochs, learning_rate=0.2, batch_size=16), rng)
        versions.append(trainer.get_weights())
    return tuple(versions)


class ReleaseBench:
    """Everybody's folders under ``root``; ``device-1`` holds the most examples and becomes the canary."""

    def __init__(self, root: Path, url: str) -> None:
        self.url = url
        self.folders = init_fleet(root, FLEET, devices=DEVICES, hubs=("hub-1", "hub-2"))
        self.agents: dict[str, EdgeAgent] = {}
        self.privacy = DevicePrivacy()
        start = 0
        with np.load(shipped("digits.npz")) as archive:
            x, y = archive["x"], archive["y"]
        for name, size in zip(DEVICES, SIZES, strict=True):
            np.savez(
                self.folders[name] / "examples.npz", x=x[start : start + size], y=y[start : start + size]
            )
            start += size

    async def store_versions(self) -> None:
        """Put the three versions where the coordinator keeps what its rounds made."""
        store = await Store.open(self.folders["coordinator"] / "data")
        task, parent = store.blobs.put(shipped("digits.task").read_bytes()).digest, b""
        for number, vector in enumerate(trained_versions()):
            whole = store.blobs.put(vector_bytes(vector))
            record = VersionRecord(
                number=number, digest=whole.digest, parent=parent, round=number, task=task, whole=whole
            )
            if number:
                await store.commit_version(record, RoundRow(number, "committed", number))
            else:
                await store.add_first_version(record)
            parent = whole.digest
        await store.close()

    def link(self, name: str) -> LinkSettings:
        return LinkSettings(url=self.url, username=name, backoff_min_s=0.05, backoff_max_s=0.3)

    def post(self, name: str) -> Post:
        folder = self.folders[name]
        roster = load_roster(folder / "roster.bin", folder / "authority.pub", FLEET)
        return Post(Topics(FLEET), load_identity(name, folder / "identity.key"), roster)

    @contextlib.asynccontextmanager
    async def coordinator(self) -> AsyncIterator[None]:
        settings = CoordinatorSettings(
            fleet=FLEET,
            folder=str(self.folders["coordinator"]),
            link=self.link("coordinator"),
            status_s=0.05,
        )
        async with background(serve(settings)):
            yield

    @contextlib.asynccontextmanager
    async def device(self, name: str) -> AsyncIterator[EdgeAgent]:
        settings = EdgeSettings(
            name=name,
            fleet=FLEET,
            folder=str(self.folders[name]),
            link=self.link(name),
            heartbeat_s=1.0,
            privacy=self.privacy,
        )
        agent = self.agents[name] = EdgeAgent(settings)
        async with background(agent.run()):
            try:
                yield agent
            finally:
                await agent.link.close()

    @contextlib.asynccontextmanager
    async def fleet(self, *names: str) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            for name in names:
                await stack.enter_async_context(self.device(name))
            yield

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[Operator]:
        async with operator_session(self.folders["operator"], FLEET, self.link("operator")) as operator:
            yield operator


def row_of(view: FleetView, release: str) -> ReleaseRow | None:
    return next((row for row in view.releases if row.release == release), None)


def stands(release: str, *states: str) -> Callable[[FleetView], bool]:
    def holds(view: FleetView) -> bool:
        row = row_of(view, release)
        return row is not None and row.state in states

    return holds


async def online(operator: Operator, *names: str) -> None:
    """Wait until the coordinator sees these devices and how many examples they hold out."""

    def seen(view: FleetView) -> bool:
        return set(names) <= {row.name for row in view.devices if row.online and row.held_out}

    await operator.until(seen, 30)


async def release(operator: Operator, version: int, name: str, **arguments: Any) -> ReleaseRow:
    """Order a release and return its row when it has ended."""
    await operator.command("release.create", version=version, name=name, **arguments)
    return await ended(operator, name)


async def ended(operator: Operator, name: str) -> ReleaseRow:
    row = row_of(await operator.until(stands(name, "complete", "aborted", "withdrawn"), 60), name)
    assert row is not None
    return row


async def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def order_of(post: Post, release: str, manifest: bytes, signature: bytes) -> ReleaseOrder:
    return post.compose(ReleaseOrder, release=release, manifest=manifest, signature=signature)
