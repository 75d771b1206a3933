"""Releases over a real broker: a real coordinator, real agents, real models of the digits."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from brokers import Collector, running
from release_bench import (
    DEVICES,
    FINAL,
    FLEET,
    HALF_WAY,
    UNTRAINED,
    ReleaseBench,
    ended,
    online,
    order_of,
    release,
    stands,
    trained_versions,
    until,
)
from shoal_codecs.ota.health import UNTOLD
from shoal_codecs.ota.manifest import Manifest, sign_manifest
from shoal_codecs.security.identity import Identity, load_identity
from shoal_codecs.transport.link import Link
from shoal_codecs.wire.blob import describe
from shoal_codecs.wire.messages import InstallReport, ReleaseWithdrawn
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.operator import OperatorError
from shoal_edge.agent import EdgeAgent
from shoal_edge.config import DevicePrivacy
from shoal_edge.trainers.inference import InferenceModel

TOPICS = Topics(FLEET)


@pytest.fixture
async def bench(tmp_path: Path, mosquitto: BrokerHandle) -> ReleaseBench:
    made = ReleaseBench(tmp_path / "fleet", mosquitto.url)
    await made.store_versions()
    return made


def versions_run(bench: ReleaseBench) -> list[int]:
    """Return the version in each device's active slot, verified, -1 for none."""
    found = [bench.agents[name].releases.active for name in DEVICES]
    return [one.manifest.version if one else -1 for one in found]


def states(bench: ReleaseBench) -> dict[str, str]:
    return {name: str(bench.agents[name].releases.record.state) for name in DEVICES}


async def test_good_bad_and_good_again(bench: ReleaseBench) -> None:
    async with bench.coordinator(), bench.operator() as operator, bench.fleet(*DEVICES):
        await online(operator, *DEVICES)
        first = await release(operator, HALF_WAY, "half-way", canaries=1, allow_older=True)
        assert (first.state, first.confirmed) == ("complete", 3)
        assert versions_run(bench) == [HALF_WAY] * 3

        bad = await release(operator, UNTRAINED, "untrained", canaries=1, allow_older=True)
        assert (bad.state, bad.confirmed, bad.rolled_back) == ("aborted", 0, 1)
        assert "device-1" in bad.reason
        assert states(bench) == dict.fromkeys(DEVICES, "confirmed") | {"device-1": "rolled-back"}
        assert versions_run(bench) == [HALF_WAY] * 3

        final = await release(operator, FINAL, "final", canaries=1, allow_older=True)
        assert (final.state, final.confirmed, final.rolled_back) == ("complete", 3, 0)
        assert final.accuracy > 0.93
        assert versions_run(bench) == [FINAL] * 3

        # The heartbeat tells the same as the report.
        def told(view: Any) -> bool:
            return {row.release for row in view.devices} == {"final"}

        await operator.until(told, 10)
        with pytest.raises(OperatorError, match="exists already"):
            await release(operator, FINAL, "final")
        with pytest.raises(OperatorError, match="not stored"):
            await release(operator, 99, "beyond")
    deployed = bench.agents["device-2"].releases.active
    assert deployed is not None
    assert InferenceModel(deployed.path).labels == 10


@pytest.mark.parametrize(("metrics", "ended"), [("verdict", "aborted"), ("none", "complete")])
async def test_devices_judge_releases_without_telling_what_they_counted(
    bench: ReleaseBench, metrics: Any, ended: str
) -> None:
    bench.privacy = DevicePrivacy(metrics=metrics)
    async with bench.coordinator(), bench.operator() as operator, bench.fleet(*DEVICES):
        await online(operator, *DEVICES)
        good = await release(operator, FINAL, "good", canaries=1, allow_older=True)
        assert (good.state, good.confirmed, good.accuracy) == ("complete", 3, 0.0)
        bad = await release(operator, UNTRAINED, "bad", canaries=1, allow_older=True)
        # Without a word on the health check there is none: what runs, stays.
        assert bad.state == ended
        records = [bench.agents[name].releases.record for name in DEVICES]
        assert {record.candidate for record in records} == {UNTOLD}
        assert not any("right" in record.reason for record in records)
        assert operator.view is not None
        assert {(row.examples, row.held_out) for row in operator.view.devices} == {(-1, -1)}


async def test_a_device_that_tells_nothing_does_not_try_releases_on_its_examples(
    bench: ReleaseBench,
) -> None:
    """A model can be made that fails on chosen examples: that it fails would tell of them."""
    bench.privacy = DevicePrivacy(metrics="none")
    async with bench.coordinator(), bench.operator() as operator, bench.fleet(*DEVICES):
        await online(operator, *DEVICES)
        for name in DEVICES:
            bench.agents[name].settings.examples_path.write_bytes(b"no examples that any model takes")
        good = await release(operator, FINAL, "good", canaries=1, allow_older=True)
        assert (good.state, good.confirmed) == ("complete", 3)


async def test_an_older_version_needs_the_operators_word(bench: ReleaseBench) -> None:
    async with bench.coordinator(), bench.operator() as operator, bench.fleet(*DEVICES):
        await online(operator, *DEVICES)
        await release(operator, FINAL, "final")
        refused = await release(operator, HALF_WAY, "back-again")
        assert refused.state == "aborted"
        assert "OlderVersionError" in refused.reason
        assert versions_run(bench) == [FINAL] * 3


async def test_a_late_device_is_served_though_a_chunk_is_corrupted_meanwhile(bench: ReleaseBench) -> None:
    async with bench.coordinator(), bench.operator() as operator, bench.fleet("device-1", "device-2"):
        await online(operator, "device-1", "device-2")
        await operator.command("release.create", version=FINAL, name="final")
        await until(lambda: bench.agents["device-2"].releases.record.state == "confirmed")
        assert stands("final", "all")(await operator.until(stands("final", "all"), 60))
        deployed = bench.agents["device-2"].releases.active
        assert deployed is not None
        topic = TOPICS.blob(deployed.manifest.artefacts[0].blob.name, 0)
        async with running(bench.url, "coordinator-double", username="coordinator") as saboteur:
            await saboteur.publish(topic, b"noise", retain=True)
        async with bench.device("device-3") as late:
            row = await ended(operator, "final")
            assert (row.state, row.confirmed) == ("complete", 3)
            assert late.fetcher.stats.corrupt >= 1
            assert versions_run(bench) == [FINAL] * 3


async def test_a_canary_that_dies_in_its_test_and_a_coordinator_that_starts_again(
    bench: ReleaseBench,
) -> None:
    async with bench.operator() as operator, bench.fleet("device-2", "device-3"):
        async with bench.coordinator():
            async with bench.device("device-1") as canary:
                await online(operator, *DEVICES)
                await operator.command("release.create", version=FINAL, name="final")
                await until(lambda: canary.releases.record.state == "testing")
                # The state is durable before the test begins, not when it is first seen.
                await until(lambda: canary.worker.pid is not None)
            assert stands("final", "canary")(await operator.until(stands("final", "canary"), 60))
        async with bench.coordinator(), bench.device("device-1") as back:
            row = await ended(operator, "final")
            assert (row.state, row.confirmed) == ("complete", 3)
            assert back.releases.record.tests == 2
            assert versions_run(bench) == [FINAL] * 3


async def test_an_operator_stops_a_release(bench: ReleaseBench) -> None:
    async with bench.coordinator(), bench.operator() as operator, bench.fleet("device-1"):
        await online(operator, "device-1")
        await operator.command("release.create", version=FINAL, name="final")
        await operator.until(stands("final", "all"), 60)
        await operator.command("release.withdraw", release="final", reason="second thoughts")
        assert (await ended(operator, "final")).reason == "second thoughts"
        with pytest.raises(OperatorError, match="withdrawn already"):
            await operator.command("release.withdraw", release="final")
        async with bench.device("device-2") as late:
            await online(operator, "device-2")
            assert late.releases.record.state == "idle"


async def test_without_a_device_that_can_judge_nothing_goes_out(bench: ReleaseBench) -> None:
    async with bench.coordinator(), bench.operator() as operator:
        await operator.until(lambda _: True, 30)
        with pytest.raises(OperatorError, match="held-out examples"):
            await operator.command("release.create", version=FINAL, name="final")


# --- one device, and a coordinator played by the test ---------------------------------------------


class Desk:
    """Says what a coordinator might, and hears what the device answers."""

    def __init__(self, bench: ReleaseBench, link: Link) -> None:
        self.bench, self.link = bench, link
        self.post = bench.post("coordinator")
        self.publisher = load_identity("publisher", bench.folders["coordinator"] / "publisher.key")
        self.events = Collector()

    def manifest(self, name: str, version: int, data: bytes, **changes: Any) -> Manifest:
        artefact = {"kind": "int8", "blob": msgspec.to_builtins(describe(data), builtin_types=(bytes,))}
        fields: dict[str, Any] = {
            "fleet": FLEET,
            "release": name,
            "version": version,
            "model": bytes(32),
            "parent": b"",
            "task": bytes(32),
            "artefacts": [artefact],
            "provenance": {},
            "created_ms": 1,
            "expires_ms": 1 << 42,
        }
        return msgspec.convert(fields | changes, Manifest, builtin_types=(bytes,))

    async def offer(self, data: bytes) -> None:
        await self.link.publish(TOPICS.blob(describe(data).name, 0), data, retain=True)

    async def order(self, manifest: Manifest, signer: Identity | None = None, name: str = "") -> None:
        topic = TOPICS.device("device-1", "commands")
        content, signature = sign_manifest(manifest, signer or self.publisher)
        message = order_of(self.post, name or manifest.release, content, signature)
        await self.link.publish(topic, self.post.encode(topic, message))

    @property
    def reports(self) -> list[InstallReport]:
        opened = bench_opener(self.bench)
        found = [opened.open(one.topic, one.payload)[1] for one in self.events.deliveries]
        return [message for message in found if isinstance(message, InstallReport)]

    async def said(self, name: str, state: str) -> InstallReport:
        """Return the first report of ``state`` on release ``name``."""

        def found() -> list[InstallReport]:
            return [one for one in self.reports if (one.release, one.state) == (name, state)]

        await self.events.until(lambda: bool(found()), 30)
        return found()[0]


def bench_opener(bench: ReleaseBench) -> Any:
    return bench.post("coordinator")


@asynccontextmanager
async def one_device(bench: ReleaseBench) -> AsyncIterator[tuple[Desk, EdgeAgent]]:
    async with running(bench.url, "coordinator") as link:
        desk = Desk(bench, link)
        await link.subscribe(TOPICS.device("+", "events"), desk.events)
        async with bench.device("device-1") as agent:
            await agent.link.wait_connected()
            yield desk, agent


@pytest.fixture(scope="module")
def models() -> tuple[bytes, bytes, bytes]:
    """Int8 files of the untrained, half-trained and trained model."""
    import numpy as np  # noqa: PLC0415 - only here

    from shoal_coordinator.artefacts import make_artefacts, templates_of_file  # noqa: PLC0415
    from shoal_coordinator.config import shipped  # noqa: PLC0415

    templates = templates_of_file(shipped("digits.task"))
    with np.load(shipped("digits_calibration.npz")) as archive:
        calibration = archive["x"]
    files = [make_artefacts(templates, vector, calibration).int8 for vector in trained_versions()]
    return files[0], files[1], files[2]


async def test_what_a_device_refuses(bench: ReleaseBench, models: tuple[bytes, bytes, bytes]) -> None:
    async with one_device(bench) as (desk, agent):
        good = models[2]
        await desk.offer(good)
        await desk.order(desk.manifest("good", 5, good))
        assert (await desk.said("good", "confirmed")).candidate[0] == 100
        stranger = Identity("publisher", b"\x05" * 32)
        refusals: list[tuple[str, Manifest, Identity | None, str]] = [
            ("forged", desk.manifest("forged", 6, good), stranger, "ManifestSignatureError"),
            ("foreign", desk.manifest("foreign", 6, good, fleet="forest"), None, "ManifestFleetError"),
            ("stale", desk.manifest("stale", 6, good, expires_ms=2), None, "ManifestExpiredError"),
            ("older", desk.manifest("older", 4, good), None, "OlderVersionError"),
            ("swapped", desk.manifest("other", 6, good), None, "ReleaseMismatchError"),
            (
                "boardless",
                desk.manifest("boardless", 6, good, hardware=["z80"]),
                None,
                "HardwareMismatchError",
            ),
        ]
        for name, manifest, signer, fault in refusals:
            await desk.order(manifest, signer, name)
            assert (await desk.said(name, "refused")).reason.startswith(fault)
            active = agent.releases.active
            assert active is not None
            assert active.manifest.release == "good"
            assert active.path.read_bytes() == good


async def test_a_release_left_once_is_not_taken_again(
    bench: ReleaseBench, models: tuple[bytes, bytes, bytes]
) -> None:
    untrained, half_way, trained = models
    async with one_device(bench) as (desk, agent):
        for data in models:
            await desk.offer(data)
        await desk.order(desk.manifest("good", 5, trained))
        await desk.said("good", "confirmed")
        bad = desk.manifest("bad", 6, untrained)
        await desk.order(bad)
        report = await desk.said("bad", "rolled-back")
        assert report.candidate[1] < report.replaced[1] / 2
        await desk.order(desk.manifest("fine", 7, half_way, gate={"significance": 1e-9}))
        await desk.said("fine", "confirmed")
        await desk.order(bad)
        assert (await desk.said("bad", "refused")).reason.startswith("RolledBackBeforeError")
        active = agent.releases.active
        assert active is not None
        assert active.path.read_bytes() == half_way


async def test_files_that_are_no_model_and_a_full_disk(
    bench: ReleaseBench, models: tuple[bytes, bytes, bytes]
) -> None:
    async with one_device(bench) as (desk, agent):
        await desk.offer(models[2])
        await desk.order(desk.manifest("good", 5, models[2]))
        await desk.said("good", "confirmed")
        noise = b"no flatbuffer at all" * 10
        await desk.offer(noise)
        await desk.order(desk.manifest("noise", 6, noise))
        assert (await desk.said("noise", "rolled-back")).reason.startswith("UnusableModelError")
        agent.releases._slots._free_bytes = lambda _: 0
        await desk.offer(models[1])
        await desk.order(desk.manifest("big", 7, models[1]))
        assert (await desk.said("big", "failed")).reason.startswith("DiskFullError")
        active = agent.releases.active
        assert active is not None
        assert active.manifest.release == "good"
        # With room again the same order is followed.
        agent.releases._slots._free_bytes = lambda _: 1 << 40
        await desk.order(desk.manifest("big", 7, models[1], gate={"significance": 1e-9}))
        await desk.said("big", "confirmed")


async def test_a_fetch_that_nobody_serves_can_be_stopped_and_replaced(
    bench: ReleaseBench, models: tuple[bytes, bytes, bytes]
) -> None:
    async with one_device(bench) as (desk, agent):
        await desk.order(desk.manifest("nowhere", 5, b"never published"))
        await desk.said("nowhere", "fetching")
        await desk.offer(models[2])
        await desk.order(desk.manifest("good", 5, models[2]))
        await desk.said("good", "confirmed")
    async with one_device(bench) as (desk, agent):
        # A new process says again where it stands, without being asked.
        assert (await desk.said("good", "confirmed")).version == 5
        assert agent.releases.active is not None


async def test_orders_and_stops_in_any_haste_end_in_the_last_word(
    bench: ReleaseBench, models: tuple[bytes, bytes, bytes]
) -> None:
    async with one_device(bench) as (desk, agent):
        await desk.offer(models[2])
        wanted = desk.manifest("good", 5, models[2])
        data, signature = sign_manifest(wanted, desk.publisher)
        for _ in range(20):
            agent.releases.handle_order(order_of(desk.post, "good", data, signature))
            agent.releases.handle_withdrawn(
                desk.post.compose(ReleaseWithdrawn, release="good", reason="hasty")
            )
            await asyncio.sleep(0)
        agent.releases.handle_order(order_of(desk.post, "good", data, signature))
        await desk.said("good", "confirmed")
        assert agent.releases.active is not None


async def test_a_disk_that_cannot_be_read_leaves_the_agent_running(
    bench: ReleaseBench, models: tuple[bytes, bytes, bytes]
) -> None:
    folder = bench.folders["device-1"] / "data" / "releases"
    folder.parent.mkdir(parents=True)
    folder.write_bytes(b"a file where the folder should be")
    async with one_device(bench) as (desk, agent):
        await desk.offer(models[2])
        await desk.order(desk.manifest("good", 5, models[2]))
        assert (await desk.said("good", "failed")).reason.startswith("StoreError")
        assert agent.releases.active is None
