"""The coordinator among real hubs, a real broker and devices made of the real wire code."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from brokers import eventually
from coordinator_bench import (
    DEVICES,
    HUBS,
    Bench,
    Device,
    anything,
    background,
    everybody,
    fleet,
    kill,
    until_version,
)
from shoal_codecs.security.identity import load_identity
from shoal_codecs.security.post import Post
from shoal_codecs.transport.errors import BlobStorageError
from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.control import decode_memory
from shoal_codecs.wire.status import FleetView
from shoal_codecs.wire.step import decode_step, initial_step
from shoal_coordinator.algorithms.settings import AlgorithmSettings
from shoal_coordinator.algorithms.state import decode_state
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.operator import Operator
from shoal_coordinator.service import serve
from shoal_coordinator.store import Store, VersionRecord


@contextlib.asynccontextmanager
async def running(bench: Bench, *, hubs: bool = True) -> AsyncIterator[tuple[Operator, dict[str, Device]]]:
    """A whole fleet with an operator who sees everybody."""
    async with bench.coordinator(), fleet(bench, hubs=hubs) as devices, bench.operator() as operator:
        await operator.until(everybody, 20)
        yield operator, devices


def taken_after(moment_ms: int) -> Callable[[FleetView], bool]:
    """Whether a view is newer than that."""
    return lambda view: view.taken_ms > moment_ms


async def stored(bench: Bench) -> Store:
    return await Store.open(bench.folders["coordinator"] / "data")


async def check_that_the_first_version_is_not_sent(device: Device) -> None:
    invitation = device.all(wire.Invitation)[0]
    first, topics = invitation.model, device.bench.topics
    assert (first.version, first.parent) == (0, b"")
    assert decode_step(first.step) == initial_step(1, first.digest)
    retained: list[str] = []

    async def hear(delivery: Delivery) -> None:
        retained.append(delivery.topic)

    for ref in (first.whole, invitation.task):
        await device.link.subscribe(topics.blob(ref.name, 0), hear)
    await eventually(lambda: bool(retained))
    assert retained == [topics.blob(invitation.task.name, 0)]


async def test_rounds_through_two_hubs_make_versions_with_their_provenance(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with running(bench) as (operator, devices):
        answer = await operator.command("rounds.run", count=3)
        assert answer.fields["target"] == 3
        view = await operator.until(until_version(3), 30)
        for device in devices.values():
            assert len(device.all(wire.Evaluate)) >= 3
            assert len({message.round for message in device.all(wire.Invitation)}) == 3
            offers = [message.model for message in device.all(wire.Evaluate)]
            assert all(offer.step and offer.parent for offer in offers)
            await check_that_the_first_version_is_not_sent(device)
        listed = await operator.command("rounds.list")
    assert [row.outcome for row in view.rounds] == ["committed"] * 3
    assert view.accuracy == pytest.approx(0.9)
    assert view.rounds[-1].devices == len(DEVICES)
    assert view.rounds[-1].up_bytes == pytest.approx(1500)
    assert view.rounds[-1].down_bytes == pytest.approx(4500)
    assert [row["version"] for row in listed.fields["rounds"]] == [1, 2, 3]
    store = await stored(bench)
    versions = await store.versions()
    assert [one.number for one in versions] == [0, 1, 2, 3]
    assert [one.parent for one in versions[1:]] == [one.digest for one in versions[:-1]]
    assert all(digest_of(store.blobs.read(one.whole.name)) == one.digest for one in versions)
    assert versions[-1].round == view.rounds[-1].round
    await store.close()
    # Two fleets on one broker have parties of the same names.
    connected = mosquitto.log.read_text()
    for party in ("coordinator", *HUBS, "operator-"):
        assert f" as {bench.topics.client_id(party)}" in connected


async def test_moments_of_the_server_s_adam_outlive_a_restart_and_follow_drawn_coordinates_alone(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    algorithm = AlgorithmSettings(name="fedadam", adaptivity=1e-4)
    bench = Bench(tmp_path, mosquitto.url, algorithm=algorithm, level_rms=0.01, kept_share=0.5)
    async with fleet(bench) as devices, bench.operator() as operator:
        for number in (1, 2):
            async with bench.coordinator():
                begun = int(time.time() * 1000)
                await operator.until(lambda view, t=begun: view.taken_ms > t and everybody(view), 20)  # type: ignore[misc]
                await operator.command("rounds.run", count=1)
                view = await operator.until(until_version(number), 30)
                assert (view.mode, view.algorithm) == ("hubs", "fedadam")
        plans = [devices[DEVICES[0]].plans[number] for number in sorted(devices[DEVICES[0]].plans)]
    store = await stored(bench)
    versions = (await store.versions())[1:]
    size = plans[0].codec.dimension
    moments = []
    for version in versions:
        assert version.state is not None
        moments.append(decode_state(store.blobs.read(version.state.name), "fedadam", size).vectors)
    drawn = [ring_spec(plan).selection.indices for plan in plans]
    first, then = (one["first"].astype(np.float64) for one in moments)
    assert plans[0].training.algorithm == "fedadam"
    assert set(np.flatnonzero(first)) <= set(drawn[0])
    # What only the first round drew keeps its moment over the restart and does not move.
    still = np.setdiff1d(drawn[0], drawn[1])
    np.testing.assert_array_equal(first[still], then[still])
    before, after = (
        np.frombuffer(store.blobs.read(one.whole.name), "<f4").astype(np.float64) for one in versions
    )
    np.testing.assert_array_equal(before[still], after[still])
    assert not np.array_equal(first[drawn[1]], then[drawn[1]])
    # And what moved, moved as Adam says by the moments that are stored, to half a level of the step.
    moved = 0.03 * then / (np.sqrt(moments[1]["second"].astype(np.float64)) + 1e-4)
    assert versions[1].step is not None
    level = decode_step(store.blobs.read(versions[1].step.name)).scale
    np.testing.assert_allclose((after - before)[drawn[1]], moved[drawn[1]], atol=0.51 * level + 1e-6)
    await store.close()


async def test_a_late_report_counts_once_for_a_later_version_also_after_a_restart(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    algorithm = AlgorithmSettings(name="fedbuff", buffer=3)
    bench = Bench(tmp_path, mosquitto.url, mode="plain", codec="int8", algorithm=algorithm)
    slow = DEVICES[-1]

    def settled(store: Store, version: VersionRecord) -> dict[str, int]:
        assert version.state is not None
        return decode_memory(store.blobs.read(version.state.name)).settled

    async with fleet(bench, hubs=False) as devices, bench.operator() as operator:
        late = devices[slow]
        late.holds = True
        async with bench.coordinator():
            await operator.until(everybody, 20)
            await operator.command("rounds.run", count=2)
            await operator.until(until_version(2), 30)
            # Who is at work is left alone, and no round waits for it.
            (held,) = late.reports
            assert len({message.round for message in late.all(wire.Invitation)}) == 1
            late.holds = False
            await late.deliver(held)
            await eventually(lambda: bool(late.receipts))
        # Slow again: were it among the first of round 3, version 3 would have used that report of it too.
        late.holds = True
        begun = int(time.time() * 1000)
        async with bench.coordinator():
            await operator.until(lambda view: view.taken_ms > begun and everybody(view), 20)
            await operator.command("rounds.run", count=1)
            await operator.until(until_version(3), 30)
            # As if its receipt had been lost: it is answered, and not counted again.
            late.holds = False
            late.receipts.clear()
            await late.deliver(held)
            await operator.command("rounds.run", count=2)
            view = await operator.until(until_version(5), 30)
    assert [row.outcome for row in view.rounds] == ["committed"] * 5
    store = await stored(bench)
    versions = await store.versions()
    told = [settled(store, version) for version in versions[1:]]
    await store.close()
    assert [one.get(slow, 0) for one in told[:3]] == [0, 0, held]
    # Nothing is used twice: each version used later reports of its devices than the one before, or none.
    for before, after in itertools.pairwise(told):
        used = {device for device in after if after[device] != before.get(device, 0)}
        # Of three reports two may be one device's: its late one, and that to the round after it.
        assert len(used) >= 2
        assert all(after[device] > before.get(device, 0) for device in used)


@pytest.mark.parametrize("codec", ["dense", "int4", "topk", "topk4", "randk"])
async def test_plain_rounds_make_versions(mosquitto: BrokerHandle, tmp_path: Path, codec: str) -> None:
    bench = Bench(tmp_path, mosquitto.url, mode="plain", codec=codec)
    opened: list[tuple[int, int]] = []

    def heard(event: wire.CoordinatorEvent) -> None:
        if event.kind == "round.opened":
            opened.append((event.fields["round"], event.fields["version"]))

    async with running(bench, hubs=False) as (operator, devices):
        operator.on_event.append(heard)
        await operator.command("rounds.run", count=2)
        view = await operator.until(until_version(2), 30)
        await eventually(lambda: all(len(device.receipts) == 2 for device in devices.values()))
        # Each with the version that its devices train on.
        await eventually(lambda: opened == [(1, 0), (2, 1)])
    assert [row.devices for row in view.rounds] == [len(DEVICES)] * 2


@pytest.mark.parametrize("mode", ["hubs", "plain"])
async def test_a_version_that_does_badly_on_devices_is_not_kept(
    mosquitto: BrokerHandle, tmp_path: Path, mode: str
) -> None:
    codec = "randk" if mode == "hubs" else "int8"
    algorithm = AlgorithmSettings(name="fedadam")
    bench = Bench(tmp_path, mosquitto.url, mode=mode, codec=codec, algorithm=algorithm)
    async with running(bench, hubs=mode == "hubs") as (operator, devices):
        await operator.command("rounds.run", count=1)
        await operator.until(until_version(1), 30)
        for device in devices.values():
            device.loss_sum = math.inf
        await operator.command("rounds.run", count=1)
        if mode == "hubs":
            await operator.until(until_version(2), 30)
        else:
            await operator.until(lambda view: view.rounds[-1].outcome == "aborted", 30)
        for device in devices.values():
            device.loss_sum = 2.5
        if mode == "hubs":
            await operator.command("rounds.run", count=1)
        view = await operator.until(until_version(3 if mode == "hubs" else 2), 30)
    store = await stored(bench)
    versions = await store.versions()
    first, second = (np.frombuffer(store.blobs.read(one.whole.name), "<f4") for one in versions[1:3])
    if mode == "hubs":
        # The base but for a trifle, with its algorithm's state: the moments are not those of the bad round.
        assert np.count_nonzero(first != second) == 1
        np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-29)
        assert versions[2].state == versions[1].state
        assert (versions[2].examples, versions[2].update_norm) == (0, 0.0)
    else:
        assert "unstable: the version answers no numbers" in view.rounds[1].reason
        assert versions[2].state != versions[1].state
    assert versions[1].state is not None
    assert versions[1].update_norm > 0
    assert versions[1].median_loss is not None
    assert versions[1].median_loss > 0
    kept = {one.state.name for one in versions if one.state} | {one.whole.name for one in versions}
    kept |= {one.step.name for one in versions if one.step}
    left = {path.name for path in (store.folder / "blobs").iterdir() if path.is_file()} - kept
    assert len(left) == 1, "the task, and no file of the version that was dropped"
    await store.close()


async def test_a_second_start_goes_on_from_the_stored_model(mosquitto: BrokerHandle, tmp_path: Path) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with fleet(bench), bench.operator() as operator:
        async with bench.coordinator():
            await operator.until(everybody, 20)
            await operator.command("rounds.run", count=1)
            first = await operator.until(until_version(1), 30)
        async with bench.coordinator():
            await operator.until(lambda view: view.taken_ms > first.taken_ms and everybody(view), 20)
            await operator.command("rounds.run", count=1)
            second = await operator.until(until_version(2), 30)
    assert [row.version for row in second.rounds] == [1, 2]
    # No number is used twice, and none is passed over.
    assert [row.round for row in second.rounds] == [1, 2]


async def test_a_repeated_command_does_nothing_after_a_restart_either(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    identity = load_identity("operator", bench.folders["operator"] / "identity.key")
    post = Post(bench.topics, identity, bench.roster("operator"))
    command = post.compose(wire.OperatorCommand, action="rounds.run", arguments={"count": 3})
    topic = bench.topics.coordinator("commands")
    link = Link(msgspec.structs.replace(bench.link, username="operator"), "operator-again")
    async with fleet(bench, hubs=False), bench.operator() as operator, background(link.run()):
        for _ in range(2):
            async with bench.coordinator():
                await operator.until(everybody, 20)
                await link.publish(topic, post.encode(topic, command))
                answer = await operator.command("rounds.list")
                view = await operator.until(taken_after(answer.sent_ms), 10)
                assert view.target == 3


def declined(view: FleetView) -> dict[str, str]:
    """Who has declined since it last took part, and for what."""
    return {row.name: row.declined_for for row in view.devices if row.declined}


async def test_a_round_below_its_floor_is_aborted_and_the_next_runs(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with running(bench) as (operator, devices):
        for name in DEVICES[:2]:
            devices[name].accepts = False
        await operator.command("rounds.run", count=1)
        view = await operator.until(lambda view: bool(view.rounds), 30)
        assert view.rounds[0].outcome == "aborted"
        assert "the floor is 4" in view.rounds[0].reason
        await eventually(lambda: bool(devices[DEVICES[2]].all(wire.Cancel)))
        await operator.until(lambda view: declined(view) == dict.fromkeys(DEVICES[:2], "busy"), 30)
        for name in DEVICES[:2]:
            devices[name].accepts = True
        view = await operator.until(until_version(1), 30)
        await operator.until(lambda view: not declined(view), 30)
    assert view.rounds[-1].outcome == "committed"
    assert view.rounds[-1].devices == len(DEVICES)


async def test_a_device_that_vanishes_after_accepting_does_not_stop_the_round(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with running(bench) as (operator, devices):
        devices[DEVICES[0]].silent = True
        await operator.command("rounds.run", count=1)
        view = await operator.until(until_version(1), 30)
    assert view.rounds[-1].devices == len(DEVICES) - 1


async def test_a_poisoned_plain_update_is_refused_and_harms_nobody(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url, mode="plain", codec="dense")
    async with running(bench, hubs=False) as (operator, devices):
        devices[DEVICES[0]].poison = float("nan")
        await operator.command("rounds.run", count=1)
        view = await operator.until(until_version(1), 30)
        assert view.rounds[-1].devices == len(DEVICES) - 1
        view = await operator.until(lambda view: view.refused.get("InvalidReportError", 0) > 0, 10)
        assert not devices[DEVICES[0]].receipts


async def test_a_device_whose_share_spoils_the_sum_stops_nobody(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with running(bench) as (operator, devices):
        devices[DEVICES[0]].poison = 800
        await operator.command("rounds.run", count=2)
        view = await operator.until(until_version(2), 30)
        assert [row.outcome for row in view.rounds] == ["committed", "committed"]
    store = await stored(bench)
    zero, one = [np.frombuffer(store.blobs.read(v.whole.name), "<f4") for v in (await store.versions())[:2]]
    await store.close()
    assert np.count_nonzero(zero != one) == 1
    np.testing.assert_allclose(one, zero, rtol=1e-6, atol=1e-29)


async def test_a_coordinator_that_cannot_keep_a_version_stops_and_goes_on_from_the_same_sums(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    blobs = bench.folders["coordinator"] / "data" / "blobs"
    async with fleet(bench), bench.operator() as operator:
        serving = asyncio.create_task(serve(bench.settings()))
        await operator.until(everybody, 20)
        # The folder cannot be written, as on a full disk.
        blobs.rename(blobs.with_name("away"))
        await operator.command("rounds.run", count=1)
        await asyncio.wait({serving}, timeout=20)
        with pytest.raises(BlobStorageError):
            serving.result()
        blobs.with_name("away").rename(blobs)
        async with bench.coordinator():
            view = await operator.until(until_version(1), 30)
    assert [row.outcome for row in view.rounds] == ["committed"]


async def test_words_that_do_not_belong_are_refused_by_name(mosquitto: BrokerHandle, tmp_path: Path) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with running(bench) as (operator, devices):
        device = devices[DEVICES[0]]
        for correct in (1, 9):
            await device.say(
                "events",
                wire.Evaluated,
                round=1,
                model_id=b"x" * 8,
                examples=3,
                correct=correct,
                loss_sum=1.0,
            )
        topic = bench.topics.device(device.name, "events")
        await device.link.publish(topic, b"\xff\xff")
        expected = {"UnknownModelError", "InvalidCountsError", "MalformedMessageError"}

        def counted(view: FleetView) -> bool:
            return expected <= set(view.refused)

        await operator.until(counted, 10)
        await operator.command("rounds.run", count=1)
        await operator.until(until_version(1), 30)


async def test_an_unknown_command_is_answered_with_the_known_ones(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with bench.coordinator(), bench.operator() as operator:
        await operator.until(anything, 20)
        for action, arguments in (
            ("rounds.halt", {}),
            ("rounds.run", {"count": 0}),
            ("rounds.run", {"n": 1}),
        ):
            with pytest.raises(Exception, match="rounds"):
                await operator.command(action, **arguments)


@pytest.mark.parametrize(
    ("mode", "state"),
    [
        ("hubs", "proposing"),  # in mode plain there is nobody to propose to
        ("hubs", "collecting"),
        ("hubs", "evaluating"),
        ("plain", "collecting"),
        ("plain", "evaluating"),
    ],
)
async def test_a_coordinator_killed_in_a_round_goes_on_with_it(
    mosquitto: BrokerHandle, tmp_path: Path, state: str, mode: str
) -> None:
    codec = "randk" if mode == "hubs" else "dense"
    bench = Bench(tmp_path, mosquitto.url, mode=mode, codec=codec, target_version=2)
    async with fleet(bench, hubs=mode == "hubs" and state != "proposing") as devices:
        held_back = DEVICES[: 3 if state == "collecting" else 0]
        for name in held_back:
            devices[name].silent = True
        for device in devices.values():
            device.evaluates = state != "evaluating"
        process = await bench.coordinator_process()
        try:
            async with bench.operator() as operator:
                await operator.until(anything, 30)
                if state != "proposing":
                    await operator.until(lambda view: view.phase == state, 30)
                await kill(process)
                for device in devices.values():
                    device.silent, device.evaluates = False, True
                process = await bench.coordinator_process()
                async with contextlib.AsyncExitStack() as stack:
                    if state == "proposing" and mode == "hubs":
                        await stack.enter_async_context(fleet_hubs(bench))
                    view = await operator.until(until_version(2), 45)
        finally:
            await kill(process)
    rounds = [row.round for row in view.rounds]
    assert len(set(rounds)) == len(rounds)
    store = await stored(bench)
    assert await store.unfinished_round() is None
    assert [one.number for one in await store.versions()] == [0, 1, 2]
    await store.close()


@contextlib.asynccontextmanager
async def fleet_hubs(bench: Bench) -> AsyncIterator[None]:

    async with contextlib.AsyncExitStack() as stack:
        for name in HUBS:
            await stack.enter_async_context(background(bench.hub(name).run()))
        yield


async def test_a_broker_killed_in_a_round_only_delays_it(mosquitto: BrokerHandle, tmp_path: Path) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with running(bench) as (operator, devices):
        for device in devices.values():
            device.evaluates = False
        await operator.command("rounds.run", count=2)
        await operator.until(lambda view: view.phase == "evaluating", 30)
        await mosquitto.kill()
        for device in devices.values():
            device.evaluates = True
        await mosquitto.restart()
        view = await operator.until(until_version(2), 40)
    assert [row.devices for row in view.rounds if row.outcome == "committed"] == [len(DEVICES)] * 2


async def test_a_hub_killed_while_reports_come_in_goes_on_from_its_log(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    async with bench.coordinator(), fleet(bench, hubs=False) as devices, bench.operator() as operator:
        async with fleet_hubs(bench):
            await operator.until(everybody, 20)
            for name in DEVICES[:2]:
                devices[name].silent = True
            await operator.command("rounds.run", count=1)
            await eventually(lambda: any(device.receipts for device in devices.values()))
        for name in DEVICES[:2]:
            devices[name].silent = False
        async with fleet_hubs(bench):
            view = await operator.until(until_version(1), 30)
    assert view.rounds[0].devices == len(DEVICES)


async def test_a_broker_killed_between_rounds_is_filled_again(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = Bench(tmp_path, mosquitto.url)
    events: list[str] = []
    async with running(bench) as (operator, _):
        operator.on_event.append(lambda event: events.append(event.kind))
        await operator.command("rounds.run", count=1)
        await operator.until(until_version(1), 30)
        await mosquitto.kill()
        # It saves once a second: killed right after that, it would have lost nothing.
        (tmp_path / "broker folder" / "mosquitto.db").unlink(missing_ok=True)
        await mosquitto.restart()
        await eventually(lambda: "broker.refilled" in events, 20)
        await operator.command("rounds.run", count=2)
        await operator.until(until_version(3), 40)
