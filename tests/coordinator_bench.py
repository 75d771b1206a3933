"""A fleet for coordinator tests: real hubs and coordinator, and devices made of the real wire code."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np

from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Roster, load_roster
from shoal_codecs.settings import print_settings
from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.transport.messages import Publication
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import pack_ring, unpack_ring
from shoal_codecs.updates.ring_extras import DeviceMetrics
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.packing import pack
from shoal_codecs.wire.plan import Plan, decode_plan, plan_hash
from shoal_codecs.wire.report import Report, encode_report, report_id, report_signing_bytes
from shoal_codecs.wire.status import FleetView
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.config import CoordinatorSettings, RoundSettings
from shoal_coordinator.fleet_init import init_fleet
from shoal_coordinator.hub.config import HubSettings
from shoal_coordinator.hub.service import HubService
from shoal_coordinator.operator import Operator, operator_session
from shoal_coordinator.service import serve
from shoal_edge.shares import clear_share, ring_shares, seal_shares

FLEET = "bench"
HUBS = ("hub-1", "hub-2")
DEVICES = tuple(f"device-{n}" for n in range(1, 6))
EXAMPLES = 40
METRICS = DeviceMetrics(loss=0.25, accuracy=0.9)


class Bench:
    """Everybody's folders under ``root`` and the settings that belong to them."""

    def __init__(self, root: Path, url: str, **rounds: Any) -> None:
        self.root, self.url = root, url
        self.topics = Topics(FLEET)
        self.folders = init_fleet(root, FLEET, devices=DEVICES, hubs=HUBS)
        self.rounds = {"patience_s": 0.3, "window_s": 30.0, "evaluation_s": 3.0} | rounds
        self.link = LinkSettings(url=url, backoff_min_s=0.05, backoff_max_s=0.3)

    def roster(self, party: str) -> Roster:
        folder = self.folders[party]
        return load_roster(folder / "roster.bin", folder / "authority.pub", FLEET)

    def settings(self) -> CoordinatorSettings:
        return CoordinatorSettings(
            fleet=FLEET,
            folder=str(self.folders["coordinator"]),
            link=self.link,
            rounds=RoundSettings(**self.rounds),
            status_s=0.1,
        )

    def hub(self, name: str) -> HubService:
        settings = HubSettings(
            name=name,
            fleet=FLEET,
            folder=str(self.folders[name]),
            link=self.link,
            floors=HubFloors(norm_check=True),
        )
        return HubService(
            settings, load_identity(name, self.folders[name] / "identity.key"), self.roster(name)
        )

    @contextlib.asynccontextmanager
    async def operator(self) -> AsyncIterator[Operator]:
        link = LinkSettings(url=self.url, username="operator", backoff_min_s=0.05, backoff_max_s=0.3)
        async with operator_session(self.folders["operator"], FLEET, link) as operator:
            yield operator

    @contextlib.asynccontextmanager
    async def coordinator(self) -> AsyncIterator[asyncio.Task[None]]:
        async with background(serve(self.settings())) as task:
            yield task

    async def coordinator_process(self) -> asyncio.subprocess.Process:
        """Start the coordinator as a process of its own; it may be killed."""
        path = self.folders["coordinator"] / "test.toml"
        path.write_text(print_settings(self.settings()), encoding="utf-8")
        with (self.folders["coordinator"] / "log").open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "shoal_coordinator", "coordinator", "run", "--config", str(path)),
                stderr=log,
            )


async def kill(process: asyncio.subprocess.Process) -> None:
    """End a process as a power cut would."""
    process.send_signal(signal.SIGKILL)
    await process.wait()


@contextlib.asynccontextmanager
async def background(work: Awaitable[None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run ``work`` meanwhile; what it raises fails the test."""
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
        outcome = (await asyncio.gather(task, return_exceptions=True))[0]
        if isinstance(outcome, Exception):
            raise outcome


class Device:
    """A device that answers as a real one, but for its training, which is a random small update.

    ``accepts``, ``silent``, ``skips`` (rounds), ``evaluates``, ``holds`` (reports) and ``poison`` say how it
    misbehaves.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        self.bench, self.name = bench, name
        identity = load_identity(name, bench.folders[name] / "identity.key")
        self.post = Post(bench.topics, identity, bench.roster(name))
        self.session = os.urandom(8)
        self.link = Link(self._link_settings(), bench.topics.client_id(name), will=self._status(online=False))
        self.heard: list[wire.AnyMessage] = []
        self.accepts = True
        self.silent = False
        self.skips: set[int] = set()
        self.evaluates = True
        self.poison: float | None = None
        self.loss_sum = 2.5
        self.holds = False
        self.decline_reason = "busy"
        self.reports: dict[int, dict[str, bytes]] = {}
        self.rounds: set[int] = set()
        self.plans: dict[int, Plan] = {}
        self.receipts: set[tuple[int, str]] = set()
        self.sent = self.beats = 0
        self._invitations: dict[int, wire.Invitation] = {}

    async def run(self) -> None:
        topics = self.bench.topics
        await self.link.subscribe(topics.device(self.name, "commands"), self._hear)
        await self.link.subscribe(topics.receipt(self.name, "+"), self._hear)
        self.link.on_connected(self._connected)
        await asyncio.gather(self.link.run(), self._resend())

    def all(self, kind: type[Any]) -> list[Any]:
        return [message for message in self.heard if isinstance(message, kind)]

    async def say(self, part: str, kind: type[wire.Message], *, retain: bool = False, **fields: Any) -> None:
        topic = self.bench.topics.device(self.name, part)
        message: Any = self.post.compose(kind, **fields)
        await self.link.publish(topic, self.post.encode(topic, message), retain=retain)

    async def send_parts(self, number: int, hub: str, data: bytes) -> None:
        topic = self.bench.topics.report(hub, self.name)
        message = self.post.compose(wire.ReportPart, round=number, index=0, count=1, data=data)
        await self.link.publish(topic, self.post.encode(topic, message))

    # --- what it does ---------------------------------------------------------------------------

    async def _connected(self, _present: bool) -> None:  # noqa: FBT001 - the callback's shape
        will = self._status(online=True)
        await self.link.publish(will.topic, will.payload, retain=True)
        await self._tell_all()

    async def _tell_all(self) -> None:
        self.beats += 1
        readings = {Reading.EXAMPLES: EXAMPLES, Reading.HELD_OUT: 10, Reading.PHASE: "idle", Reading.ROUND: 0}
        plain = {int(key): value for key, value in readings.items()}
        await self.say("heartbeat", wire.Heartbeat, sequence=self.beats, full=True, readings=plain)

    async def _hear(self, delivery: Delivery) -> None:
        _, message = self.post.open(delivery.topic, delivery.payload)
        self.heard.append(message)
        match message:
            case wire.HeartbeatWanted():
                await self._tell_all()
            case wire.Invitation():
                await self._invited(message)
            case wire.Receipt(round=number, sender=hub) if message.report_id:
                self.receipts.add((number, hub))
            case wire.Evaluate() if not self.silent and self.evaluates:
                self.sent += 1500
                await self.say(
                    "events",
                    wire.Evaluated,
                    round=message.round,
                    model_id=message.model.digest[:8],
                    examples=10,
                    correct=9,
                    loss_sum=self.loss_sum,
                    sent=self.sent,
                    received=3 * self.sent,
                )

    async def _invited(self, message: wire.Invitation) -> None:
        plan_id = message.plan_hash[:8]
        if not self.accepts:
            await self.say(
                "events",
                wire.Reply,
                round=message.round,
                plan_id=plan_id,
                accepted=False,
                reason=self.decline_reason,
            )
            return
        if self.silent or message.round in self.skips:
            return
        self._invitations[message.round] = message
        await self.link.subscribe(self.bench.topics.round(message.round), self._plan)

    async def _plan(self, delivery: Delivery) -> None:
        if not delivery.payload:
            return
        _, notice = self.post.open(delivery.topic, delivery.payload)
        assert isinstance(notice, wire.PlanNotice)
        plan = decode_plan(notice.plan)
        message = self._invitations.get(plan.round)
        if message is None or plan_hash(notice.plan) != message.plan_hash:
            return
        await self.say("events", wire.Reply, round=plan.round, plan_id=message.plan_hash[:8], accepted=True)
        if plan.round not in self.rounds:
            self.rounds.add(plan.round)
            self.plans[plan.round] = plan
            self.reports[plan.round] = self._train(plan, notice.plan)
        await self.deliver(plan.round)

    async def deliver(self, number: int) -> None:
        """Send the report to round ``number``, unless the device ``holds`` it back."""
        for hub, data in self.reports.get(number, {}).items():
            if not self.holds:
                await self.send_parts(number, hub, data)

    def _train(self, plan: Plan, data: bytes) -> dict[str, bytes]:
        rng = np.random.default_rng([plan.round, DEVICES.index(self.name)])
        update = rng.normal(scale=0.002, size=plan.codec.dimension).astype(np.float32)
        if plan.mode == "hubs":
            shared = ring_shares(update, EXAMPLES, plan, plan_hash(data), self.name, rng, metrics=METRICS)
            if self.poison is not None:
                # No encoder makes it, and no hub can tell: each sees one share only.
                words = unpack_ring(shared.plaintexts[0], ring_spec(plan).words, plan.codec.ring_bits)
                words[:] = (words + int(self.poison)) & ((1 << plan.codec.ring_bits) - 1)
                shared = type(shared)((pack_ring(words, plan.codec.ring_bits), *shared.plaintexts[1:]))
        else:
            folder = self.bench.folders[self.name]
            shared = clear_share(update, EXAMPLES, plan, rng, folder / "residual", folder / "residual.next")
        if plan.mode == "plain" and self.poison is not None:
            poisoned = np.full(plan.codec.dimension, self.poison, "<f4").tobytes()
            shared = type(shared)((pack([EXAMPLES, poisoned]),))
        return self.sealed(
            plan, data, [bytes(one) for one in seal_shares(shared, plan, plan_hash(data), self.name)]
        )

    def sealed(self, plan: Plan, data: bytes, ciphertexts: list[bytes]) -> dict[str, bytes]:
        hashes = tuple(digest_of(one) for one in ciphertexts)
        digest = plan_hash(data)
        self.post.identity.sign(report_id(digest, self.name, hashes))
        signature = self.post.identity.sign(report_signing_bytes(digest, self.name, hashes))
        reports = {}
        for place, (offer, one) in enumerate(zip(plan.hubs, ciphertexts, strict=True)):
            others = (*hashes[:place], *hashes[place + 1 :])
            reports[offer.hub] = encode_report(Report(memoryview(one), others, signature))
        return reports

    async def _resend(self) -> None:
        """Send again what has no receipt, as an outbox does."""
        while True:
            await asyncio.sleep(1)
            for number, reports in list(self.reports.items())[-1:]:
                for hub, data in reports.items():
                    if (number, hub) not in self.receipts and self.link.is_connected and not self.holds:
                        await self.send_parts(number, hub, data)

    def _status(self, *, online: bool) -> Publication:
        topic = self.bench.topics.device(self.name, "status")
        message = self.post.compose(
            wire.DeviceStatus, online=online, session=self.session, roster=self.post.roster.held
        )
        return Publication(topic, self.post.encode(topic, message), retain=True)

    def _link_settings(self) -> LinkSettings:
        return LinkSettings(url=self.bench.url, username=self.name, backoff_min_s=0.05, backoff_max_s=0.3)


@contextlib.asynccontextmanager
async def fleet(bench: Bench, *, hubs: bool = True) -> AsyncIterator[dict[str, Device]]:
    """All devices, and both hubs unless told otherwise, connected and running."""
    devices = {name: Device(bench, name) for name in DEVICES}
    async with contextlib.AsyncExitStack() as stack:
        for name in HUBS if hubs else ():
            await stack.enter_async_context(background(bench.hub(name).run()))
        for device in devices.values():
            await stack.enter_async_context(background(device.run()))
            stack.push_async_callback(device.link.close)
        yield devices


def everybody(view: FleetView) -> bool:
    """Whether all devices are online and known."""
    return sum(row.online and row.examples > 0 for row in view.devices) == len(DEVICES)


def anything(_view: FleetView) -> bool:
    """Whether the coordinator has said anything at all."""
    return True


def until_version(number: int) -> Callable[[FleetView], bool]:
    """Whether a version is reached."""
    return lambda view: view.version >= number
