"""A real agent process against a real broker; coordinator and hubs are played with the real wire code."""

import asyncio
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from brokers import eventually, running
from edge_parts import (
    FLEET,
    TASK,
    TASK_BYTES,
    TASK_REF,
    base_vector,
    codec_plan,
    enrol,
    make_fleet,
    make_plan,
    offer_of,
    write_examples,
)
from shoal_codecs.privacy.charge import charge_of
from shoal_codecs.privacy.ledger import decode_ledger
from shoal_codecs.secagg.additive import combine
from shoal_codecs.secagg.prg import expand
from shoal_codecs.security.sealing import unseal
from shoal_codecs.transport.blob_store import BlobStore
from shoal_codecs.transport.blobs import BlobPublisher
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Delivery
from shoal_codecs.updates.coordinates import rand_coordinates
from shoal_codecs.updates.levels import pack_levels
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import decode_sum, unpack_ring
from shoal_codecs.updates.step import Step, apply_step, step_from_sum
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.heartbeat import Reading, merged
from shoal_codecs.wire.hubs import NeverReleased, never_released_bytes
from shoal_codecs.wire.messages import (
    AnyMessage,
    BlobWanted,
    Cancel,
    DeviceStatus,
    Evaluate,
    Evaluated,
    Heartbeat,
    Invitation,
    ModelOffer,
    PlanNotice,
    Receipt,
    Reply,
    ReportPart,
)
from shoal_codecs.wire.plan import (
    HubOffer,
    Plan,
    PrivacyPlan,
    coordinate_seed,
    encode_plan,
    plan_hash,
    plan_signing_bytes,
)
from shoal_codecs.wire.report import (
    Report,
    ciphertext_digests,
    decode_report,
    report_id,
    report_signing_bytes,
    share_context,
)
from shoal_codecs.wire.step import ModelStep, encode_step, initial_step
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_edge.privacy_guard import LEDGER

DEVICE = "device-01"
DEVICES = 10
HUBS = ("hub-1", "hub-2")
M = TypeVar("M", bound=AnyMessage)


class Desk:
    """Coordinator and hubs as one test: hears everything, says what the test asks for."""

    def __init__(self, link: Link, folder: Path, receipts: tuple[str, ...] = HUBS) -> None:
        self.fleet = make_fleet(DEVICES)
        self.posts = {name: self.fleet.post(name) for name in ("coordinator", *HUBS)}
        self.topics = self.posts["coordinator"].topics
        self.link = link
        self.receipts = receipts
        self.heard: list[AnyMessage] = []
        self.reports: dict[str, list[Report]] = {hub: [] for hub in HUBS}
        self.news = asyncio.Event()
        self.plans: dict[int, bytes] = {}
        self.sizes: dict[str, int] = {}
        self._store = BlobStore(folder / "desk")
        self._publisher = BlobPublisher(link, self.topics, self._store)

    async def listen(self) -> None:
        for part in ("status", "heartbeat", "events"):
            await self.link.subscribe(self.topics.device("+", part), self._hear)
        await self.link.subscribe(f"{self.topics.prefix}/hubs/+/reports/0/+", self._take_part)

    async def offer(self, data: bytes, **more: Any) -> ModelOffer:
        """Publish ``data`` as a blob and return the offer of it as a model."""
        ref = self._store.put(data)
        await self._publisher.publish(ref)
        return ModelOffer(**(msgspec.structs.asdict(offer_of(data)) | {"whole": ref} | more))

    async def publish_task(self, data: bytes = TASK_BYTES) -> None:
        await self._publisher.publish(self._store.put(data))

    def plan(self, base: bytes, number: int, **changes: Any) -> Plan:
        now = int(time.time() * 1000)
        window = {"opens_ms": now - 60_000, "closes_ms": now + 60_000}
        return make_plan(self.fleet, base, **({"round": number} | window | changes))

    async def open_round(
        self, plan: Plan, model: ModelOffer, *, retain: bool = True, given_up: tuple[bytes, ...] = ()
    ) -> bytes:
        """Publish the plan with everybody's signature, invite the device and return M.

        ``given_up`` are the hashes of plans that every hub has certified it never releases.
        """
        data = encode_plan(plan)
        self.plans[plan.round] = data
        signed = plan_signing_bytes(data)
        names = ("coordinator", *(hub.hub for hub in plan.hubs if hub.hub in HUBS))
        signatures = {name: self.fleet.identities[name].sign(signed) for name in names}
        if retain:
            topic = self.topics.round(plan.round)
            certificates = tuple(
                NeverReleased(
                    digest,
                    {hub: self.fleet.identities[hub].sign(never_released_bytes(digest)) for hub in HUBS},
                )
                for digest in given_up
            )
            fields: dict[str, Any] = {
                "plan": data,
                "signatures": signatures,
                "certificates": certificates,
            }
            await self.say(topic, PlanNotice, retain=True, **fields)
        await self.invite(plan, model)
        return plan_hash(data)

    async def invite(self, plan: Plan, model: ModelOffer) -> None:
        digest = plan_hash(encode_plan(plan))
        await self.command(Invitation, round=plan.round, plan_hash=digest, task=TASK_REF, model=model)

    async def command(self, kind: type[Any], **fields: Any) -> None:
        await self.say(self.topics.device(DEVICE, "commands"), kind, **fields)

    async def say(
        self, topic: str, kind: type[Any], *, by: str = "coordinator", retain: bool = False, **fields: Any
    ) -> None:
        post = self.posts[by]
        await self.link.publish(topic, post.encode(topic, post.compose(kind, **fields)), retain=retain)

    def said(self, kind: type[M]) -> list[M]:
        return [message for message in self.heard if isinstance(message, kind)]

    async def until(self, kind: type[M], count: int = 1, seconds: float = 20) -> M:
        """Wait until ``count`` messages of ``kind`` were heard and return the last of them."""
        async with asyncio.timeout(seconds):
            while len(found := self.said(kind)) < count:
                self.news.clear()
                await self.news.wait()
        return found[count - 1]

    async def until_reports(self, count: int, hubs: tuple[str, ...] = HUBS, seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while min(len(self.reports[hub]) for hub in hubs) < count:
                self.news.clear()
                await self.news.wait()

    @property
    def readings(self) -> dict[int, Any]:
        found: dict[int, Any] = {}
        for beat in self.said(Heartbeat):
            found = merged(found, beat.readings, full=beat.full)
        return found

    async def _hear(self, delivery: Delivery) -> None:
        _, message = self.posts["coordinator"].open(delivery.topic, delivery.payload)
        self.heard.append(message)
        self._weigh(type(message).__name__, delivery)

    async def _take_part(self, delivery: Delivery) -> None:
        address, message = self.posts["hub-1"].open(delivery.topic, delivery.payload)
        assert isinstance(message, ReportPart)
        assert message.count == 1
        hub = address.name
        self._weigh(f"ReportPart to {hub}", delivery)
        report = decode_report(message.data, len(HUBS))
        self.reports[hub].append(report)
        digest = plan_hash(self.plans[message.round])
        position = HUBS.index(hub)
        digests = ciphertext_digests(report, position)
        if hub in self.receipts:
            asyncio.get_running_loop().create_task(
                self.say(
                    self.topics.receipt(DEVICE, hub),
                    Receipt,
                    by=hub,
                    round=message.round,
                    plan_hash=digest,
                    report_id=report_id(digest, DEVICE, digests),
                )
            )

    def _weigh(self, name: str, delivery: Delivery) -> None:
        self.sizes[name] = len(delivery.topic) + len(delivery.payload) + 7
        self.news.set()

    def update_of(self, plan: Plan) -> tuple[np.ndarray[Any, Any], Step, int]:
        """Open the last reports of all hubs as they would and return (update at k, step, weight)."""
        data = encode_plan(plan)
        digest, spec = plan_hash(data), ring_spec(plan)
        clear = []
        for position, hub in enumerate(HUBS):
            report = self.reports[hub][-1]
            digests = ciphertext_digests(report, position)
            key = self.fleet.roster.party(DEVICE).key
            from shoal_codecs.security.identity import verify  # noqa: PLC0415

            verify(key, report_signing_bytes(digest, DEVICE, digests), report.signature)
            private = self.fleet.keys[hub][0]
            clear.append(unseal(private, report.ciphertext, share_context(digest, DEVICE, hub)))
        first = unpack_ring(clear[0], spec.words, spec.ring_bits)
        second = expand(clear[1], digest, DEVICE, 2, spec.words, spec.ring_bits)
        total = decode_sum(combine([first, second], spec.ring_bits), spec)
        step = step_from_sum(total, spec)
        return total.q * np.float32(step.scale), step, total.weight


class Agent:
    """A real ``shoal-edge run``."""

    def __init__(self, folder: Path, url: str, **settings: Any) -> None:
        self.folder = folder
        lines = {"name": DEVICE, "fleet": FLEET, "n_min": 3, "heartbeat_s": 1.0, "resend_s": 0.5}
        table = {"url": url, "username": DEVICE, "backoff_min_s": 0.05, "backoff_max_s": 0.5}
        text = "".join(f"{key} = {json.dumps(value)}\n" for key, value in (lines | settings).items())
        text += "[link]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
        enrol(make_fleet(DEVICES), DEVICE, folder, text)
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        log = (self.folder / "log.jsonl").open("ab")
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "shoal_edge", "run", "--stop-on-stdin-eof"),
            *("--config", str(self.folder / "config.toml")),
            stdin=asyncio.subprocess.PIPE,
            stdout=log,
            stderr=log,
        )
        log.close()

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "log.jsonl").read_text().splitlines()]

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        assert self.process is not None
        await self.process.wait()

    async def stop(self) -> int:
        """Close its standard input, as the end of its parent would, and return its exit code."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        async with asyncio.timeout(5):
            return await self.process.wait()


@contextlib.asynccontextmanager
async def scene(
    broker: BrokerHandle,
    folder: Path,
    *,
    receipts: tuple[str, ...] = HUBS,
    examples: int = 60,
    start: bool = True,
    **settings: Any,
) -> AsyncIterator[tuple[Desk, Agent]]:
    async with running(broker.url, "desk") as link:
        desk = Desk(link, folder, receipts)
        await desk.listen()
        agent = Agent(folder / DEVICE, broker.url, **settings)
        if examples:
            write_examples(agent.folder / "examples.npz", examples)
        await agent.start()
        try:
            await desk.until(Heartbeat)
            yield desk, agent
        finally:
            if agent.process is not None and agent.process.returncode is None:
                with contextlib.suppress(TimeoutError):
                    await agent.stop()
                with contextlib.suppress(ProcessLookupError):
                    agent.process.kill()
                await agent.process.wait()


def vector(data: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.frombuffer(data, "<f4").astype(np.float32)


BASE = base_vector().astype("<f4").tobytes()


async def test_a_whole_round(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path, show_update_preview=True) as (desk, agent):
        status = await desk.until(DeviceStatus)
        assert status.roster == desk.posts["coordinator"].roster.held
        assert status.online
        readings = desk.readings
        assert (readings[Reading.EXAMPLES], readings[Reading.HELD_OUT]) == (48, 12)
        assert readings[Reading.PHASE] == "idle"
        assert readings[Reading.UPDATER] == "idle"

        await desk.publish_task()
        base = await desk.offer(BASE)
        plan = desk.plan(base.digest, 1)
        await desk.open_round(plan, base)
        assert (await desk.until(Reply)).accepted
        await desk.until_reports(1)
        update, step, weight = desk.update_of(plan)
        assert weight == 48
        (preview,) = agent.logged("update_preview")
        spec = ring_spec(plan)
        share = spec.kept / spec.dimension
        np.testing.assert_allclose(
            update[-8:] * share, preview["update"], rtol=0, atol=step.scale * share + 1e-4
        )
        assert preview["round"] == 1
        assert preview["device"] == DEVICE

        # The next version, as a step from the one the device holds; nothing else of it is published.
        coordinates = rand_coordinates(coordinate_seed(plan), TASK.dimension, spec.kept)
        child = apply_step(vector(BASE), coordinates, step).astype("<f4").tobytes()
        encoded = encode_step(
            ModelStep(
                "randk",
                base.digest,
                digest_of(child),
                coordinate_seed(plan),
                spec.kept,
                step.scale,
                pack_levels(step.q),
            )
        )
        grown = offer_of(child, 1, parent=base.digest, step=encoded)
        await desk.command(Evaluate, round=1, task=TASK_REF, model=grown)
        evaluated = await desk.until(Evaluated)
        assert evaluated.model_id == digest_of(child)[:8]
        assert (evaluated.examples, evaluated.round) == (12, 1)
        assert not desk.said(BlobWanted)
        assert evaluated.sent > 0
        assert evaluated.received > 0

        # A second round on the new version shows what a steady round costs.
        before = await measured(desk, grown)
        second = desk.plan(grown.digest, 2)
        await desk.open_round(second, grown)
        await desk.until_reports(2)
        after = await measured(desk, grown)
        sent, received = after.sent - before.sent, after.received - before.received
        print(f"\na steady round: {sent} bytes sent, {received} received; {desk.sizes}")  # noqa: T201
        assert sent <= 1900
        assert received <= 4800
        await eventually(lambda: desk.readings.get(Reading.OUTBOX) == 0)
        assert await agent.stop() == 0
        await eventually(lambda: not desk.said(DeviceStatus)[-1].online)
    assert f" as {Topics(FLEET).client_id(DEVICE)}" in open_mosquitto.log.read_text()


async def test_the_first_version_is_drawn_from_its_seed(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path) as (desk, agent):
        await desk.publish_task()
        first = offer_of(BASE, step=encode_step(initial_step(1, digest_of(BASE))))
        await desk.open_round(desk.plan(first.digest, 1), first)
        await desk.until_reports(1)
        assert not desk.said(BlobWanted)
        assert not agent.logged("step_refused")

        # A seed that leads elsewhere: the whole model is fetched instead.
        data = base_vector(2).astype("<f4").tobytes()
        other = await desk.offer(data, step=encode_step(initial_step(1, digest_of(data))))
        await desk.open_round(desk.plan(other.digest, 2), other)
        await desk.until_reports(2)
        (refused,) = agent.logged("step_refused")
        assert refused["fault"] == "VectorFileError"


async def measured(desk: Desk, model: ModelOffer) -> Evaluated:
    """Ask for an evaluation, whose answer tells all bytes so far."""
    count = len(desk.said(Evaluated))
    number = max(desk.plans)
    await desk.command(Evaluate, round=number, task=TASK_REF, model=model)
    return await desk.until(Evaluated, count + 1)


async def test_a_report_is_sent_again_after_kill_9_without_training_again(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with scene(open_mosquitto, tmp_path, receipts=()) as (desk, agent):
        await desk.publish_task()
        base = await desk.offer(BASE)
        plan = desk.plan(base.digest, 1)
        await desk.open_round(plan, base)
        await desk.until_reports(1)
        await agent.kill()
        (first,) = {report.ciphertext for report in desk.reports["hub-1"]}
        seen = len(desk.reports["hub-1"])
        desk.receipts = HUBS
        await agent.start()
        await desk.until_reports(seen + 1)
        assert {report.ciphertext for report in desk.reports["hub-1"]} == {first}
        assert len(agent.logged("trained")) == 1
        await eventually(lambda: not list((agent.folder / "data" / "outbox").glob("*.bin")))

        # Invited again, it says that it has answered, and trains no second time.
        replies = len(desk.said(Reply))
        await desk.invite(plan, base)
        assert (await desk.until(Reply, replies + 1)).accepted
        await desk.until(Heartbeat, len(desk.said(Heartbeat)) + 2)
        assert len(agent.logged("trained")) == 1


async def test_an_accepted_round_goes_on_after_kill_9(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path) as (desk, agent):
        base = await desk.offer(BASE)
        plan = desk.plan(base.digest, 1)
        # Without the task the device has accepted and waits.
        await desk.open_round(plan, base)
        assert (await desk.until(Reply)).accepted
        await desk.until(BlobWanted)
        await agent.kill()
        await desk.publish_task()
        await agent.start()
        await desk.until_reports(1)
        assert desk.update_of(plan)[2] == 48


async def test_a_hub_without_a_receipt_gets_the_report_again(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with scene(open_mosquitto, tmp_path, receipts=("hub-1",)) as (desk, agent):
        await desk.publish_task()
        base = await desk.offer(BASE)
        plan = desk.plan(base.digest, 1)
        digest = await desk.open_round(plan, base)
        await desk.until_reports(3, hubs=("hub-2",))
        assert len(desk.reports["hub-1"]) < len(desk.reports["hub-2"])
        assert len({report.ciphertext for report in desk.reports["hub-2"]}) == 1
        desk.receipts = HUBS
        await eventually(lambda: not list((agent.folder / "data" / "outbox").glob("*.bin")))
        await desk.command(Cancel, round=1, plan_hash=digest, reason="over")
        await eventually(lambda: desk.readings[Reading.PHASE] == "idle")


async def test_a_cancelled_round_stops_the_report(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path, receipts=()) as (desk, agent):
        await desk.publish_task()
        base = await desk.offer(BASE)
        digest = await desk.open_round(desk.plan(base.digest, 1), base)
        await desk.until_reports(1)
        await desk.command(Cancel, round=1, plan_hash=digest, reason="aborted")
        await eventually(lambda: not list((agent.folder / "data" / "outbox").glob("*.bin")))
        # A later plan on the same base, once the hubs have given up the first, and not before.
        await desk.open_round(desk.plan(base.digest, 2), base)
        reply = await desk.until(Reply, 2)
        assert (reply.accepted, reply.reason[:23]) == (False, "MissingCertificateError")
        await desk.open_round(desk.plan(base.digest, 3), base, given_up=(digest,))
        await desk.until_reports(len(desk.reports["hub-1"]) + 1)
        assert len({report.ciphertext for report in desk.reports["hub-1"]}) == 2


async def test_bad_plans_are_refused_with_the_reason(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path, plan_wait_s=1.0) as (desk, agent):
        await desk.publish_task()
        base = await desk.offer(BASE)
        own = desk.fleet.offer("hub-1")
        unknown = desk.plan(base.digest, 1, hubs=(own, HubOffer("hub-9", own.key, own.nonce)))
        low = desk.plan(base.digest, 2, n_min=2)
        plain = desk.plan(base.digest, 3, mode="plain", codec=codec_plan(DEVICES, ring_bits=0))
        expected = ["UnpinnedHubsError", "CohortFloorError", "ModeNotAllowedError"]
        for number, (plan, fault) in enumerate(zip((unknown, low, plain), expected, strict=True), 1):
            await desk.open_round(plan, base)
            reply = await desk.until(Reply, number)
            assert not reply.accepted
            assert reply.reason.startswith(fault)
        await desk.open_round(desk.plan(base.digest, 4), base, retain=False)
        reply = await desk.until(Reply, 4)
        assert not reply.accepted
        assert "did not come in time" in reply.reason
        # And it still takes part in a good one.
        await desk.open_round(desk.plan(base.digest, 5), base)
        await desk.until_reports(1)
        assert agent.pid


async def test_unbelievable_words_change_nothing(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path) as (desk, agent):
        topic = desk.topics.device(DEVICE, "commands")
        post = desk.posts["hub-1"]
        forged = post.compose(Cancel, round=1, plan_hash=b"\0" * 32, reason="not mine to say")
        for payload in (b"", b"\xff" * 40, post.encode(topic, forged), b"\x92\xc4\x01\x00\xc0"):
            await desk.link.publish(topic, payload)
        await eventually(lambda: len(agent.logged("message_refused")) == 4)
        assert {line["fault"] for line in agent.logged("message_refused")} == {
            "MalformedMessageError",
            "SenderMismatchError",
        }
        assert {line["topic"] for line in agent.logged("message_refused")} == {topic}


async def test_data_of_the_wrong_shape_is_said_and_survived(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with scene(open_mosquitto, tmp_path) as (desk, agent):
        np.savez(agent.folder / "examples.npz", x=np.zeros((60, 9, 9), np.uint8), y=np.zeros(60, np.uint8))
        await desk.publish_task()
        base = await desk.offer(BASE)
        await desk.open_round(desk.plan(base.digest, 1), base)
        reply = await desk.until(Reply, 2)
        assert not reply.accepted
        assert reply.reason.startswith("ExampleShapeError")
        await eventually(lambda: desk.readings.get(Reading.LAST_ERROR) == "ExampleShapeError")
        write_examples(agent.folder / "examples.npz")
        await desk.open_round(desk.plan(base.digest, 2), base)
        await desk.until_reports(1)
        assert agent.logged("trained")[0]["round"] == 2


async def test_a_fit_that_diverges_is_declined_with_the_reason(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with scene(open_mosquitto, tmp_path) as (desk, _):
        await desk.publish_task()
        base = await desk.offer(BASE)
        wild = msgspec.structs.replace(desk.plan(base.digest, 1).training, learning_rate=1e30)
        await desk.open_round(desk.plan(base.digest, 1, training=wild), base)
        reply = await desk.until(Reply, 2)
        assert not reply.accepted
        assert reply.reason.startswith("NonFinite")
        assert "lower the learning rate" in reply.reason
        await desk.open_round(desk.plan(base.digest, 2), base)
        await desk.until_reports(1)


async def test_a_worker_that_is_killed_costs_one_round(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path) as (desk, agent):
        await desk.publish_task()
        base = await desk.offer(BASE)
        long = msgspec.structs.replace(desk.plan(base.digest, 1).training, epochs=1_000_000, batch_size=1)
        await desk.open_round(desk.plan(base.digest, 1, training=long), base)
        await desk.until(Reply)
        await eventually(lambda: desk.readings.get(Reading.PHASE) == "training")
        (worker,) = children(agent.pid)
        os.kill(worker, signal.SIGKILL)
        reply = await desk.until(Reply, 2)
        assert reply.reason.startswith("WorkerCrashedError")
        await desk.open_round(desk.plan(base.digest, 2), base)
        await desk.until_reports(1)


async def test_a_later_round_replaces_one_that_trains(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path) as (desk, agent):
        await desk.publish_task()
        base = await desk.offer(BASE)
        long = msgspec.structs.replace(desk.plan(base.digest, 1).training, epochs=1_000_000, batch_size=1)
        await desk.open_round(desk.plan(base.digest, 1, training=long), base)
        await eventually(lambda: desk.readings.get(Reading.PHASE) == "training")
        await eventually(lambda: desk.readings.get(Reading.PROGRESS) == 0)
        (worker,) = children(agent.pid)
        await desk.open_round(desk.plan(base.digest, 2), base)
        await desk.until_reports(1)
        assert desk.update_of(Plan(**plain(desk.plans[2])))[2] == 48
        assert children(agent.pid) == [worker]


def plain(data: bytes) -> dict[str, Any]:
    from shoal_codecs.wire.plan import decode_plan  # noqa: PLC0415

    return msgspec.structs.asdict(decode_plan(data))


def children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def pss_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def test_an_idle_agent_gives_its_memory_back(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with scene(open_mosquitto, tmp_path, worker_idle_s=0.5) as (desk, agent):
        await desk.publish_task()
        base = await desk.offer(BASE)
        await desk.open_round(desk.plan(base.digest, 1), base)
        await desk.until_reports(1)
        await eventually(lambda: not children(agent.pid))
        pss = pss_mib(agent.pid)
        print(f"\nidle after a round: {pss:.1f} MB PSS")  # noqa: T201
        assert pss <= 32


NOISE = PrivacyPlan(mechanism="skellam", noise=4.4e6, corrupt=1, delta=1e-5)
CODEC = codec_plan(DEVICES, ring_bits=20)
BUDGET: dict[str, Any] = {"privacy.epsilon": 1.2}


async def test_a_device_with_a_budget_debits_first_and_keeps_its_counts_to_itself(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with scene(open_mosquitto, tmp_path, **BUDGET) as (desk, agent):
        readings = desk.readings
        assert Reading.EXAMPLES not in readings
        assert Reading.HELD_OUT not in readings
        assert readings[Reading.METRICS] == "verdict"

        await desk.publish_task()
        base = await desk.offer(BASE)
        await desk.open_round(desk.plan(base.digest, 1), base)
        refusal = await desk.until(Reply)
        assert not refusal.accepted
        assert refusal.unsent
        assert refusal.reason.startswith("UnprivateRoundError: round 1 adds no noise")

        noisy = desk.plan(base.digest, 2, privacy=NOISE, codec=CODEC)
        digest = await desk.open_round(noisy, base)
        assert (await desk.until(Reply, 2)).accepted
        await desk.until_reports(1)
        path = agent.folder / "data" / LEDGER
        ledger = decode_ledger(path.read_bytes())
        assert list(ledger.entries) == [digest]
        assert ledger.total == charge_of(noisy)

        await desk.command(Evaluate, round=2, task=TASK_REF, model=base)
        async with asyncio.timeout(10):
            while not agent.logged("evaluation_withheld"):
                await asyncio.sleep(0.05)
        assert desk.said(Evaluated) == []

        # Two rounds would cost more than the owner allows; a restart changes nothing.
        await agent.kill()
        await agent.start()
        assert charge_of(noisy).times(2).epsilon(1e-5) > 1.2 > charge_of(noisy).epsilon(1e-5)
        other = await desk.offer(bytes(len(BASE)))
        await desk.open_round(desk.plan(other.digest, 3, privacy=NOISE, codec=CODEC), other)
        refusal = await desk.until(Reply, 3)
        assert refusal.reason.startswith(
            "BudgetExceededError: this round would bring epsilon from 0.89 to 1."
        )
        assert list(decode_ledger(path.read_bytes()).entries) == [digest]
