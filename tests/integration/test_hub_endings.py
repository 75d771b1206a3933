"""How rounds of mode ``hubs`` go on or end: hubs that restart, part, fall silent or are lost for good."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import coordinator_bench
from brokers import eventually
from coordinator_bench import Device, background, everybody, kill, until_version
from hub_bench import (
    BITS,
    DEVICES,
    HUBS,
    Fleet,
    PlayedHub,
    Update,
    Voice,
    coordinator,
    party,
    played_hub,
    serving,
    total,
)
from shoal_codecs.secagg.agreement import set_digest
from shoal_codecs.transport.messages import Delivery
from shoal_codecs.wire.messages import (
    Agreement,
    CoordinatorEvent,
    HubChallenge,
    HubProjections,
    HubStatus,
    HubSumPart,
    Message,
    NonceRevealed,
    PlanSigned,
    ReportSet,
    RoundAbandoned,
    RoundAborted,
    RoundCommitted,
)
from shoal_codecs.wire.plan import CodecPlan, Plan, encode_plan, plan_hash
from shoal_coordinator.coordinator import CoordinatorService
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.operator import OperatorError
from shoal_coordinator.round_steps import RoundTimings
from shoal_coordinator.service import make_organs
from shoal_coordinator.store import Store

THREE = ("hub-1", "hub-2", "hub-3")


@contextlib.asynccontextmanager
async def voices(fleet: Fleet) -> AsyncIterator[tuple[Voice, Voice]]:
    """A coordinator, and one link that may speak for every device."""
    async with (
        coordinator(fleet) as lead,
        party(fleet, "field", "devices/+/receipts/+", post_as=DEVICES[0]) as field,
    ):
        yield lead, field


async def signed(fleet: Fleet, lead: Voice, number: int = 1, **changes: Any) -> Plan:
    plan = fleet.plan(await lead.offers(), number, **changes)
    await lead.propose(plan)
    for hub in fleet.hubs:
        await lead.first(PlanSigned, hub, number)
    return plan


# --- restarts ---------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def restarted_at(
    fleet: Fleet, hub: str, lead: Voice, kind: type[Message], **floors: Any
) -> AsyncIterator[asyncio.Event]:
    """Run ``hub``, end it once it has said a ``kind``, and run it again; the event tells of that."""
    second_life = asyncio.Event()

    async def lives() -> None:
        async with serving(fleet.hub(hub, **floors)):
            await lead.first(kind, hub)
        second_life.set()
        async with serving(fleet.hub(hub, **floors)):
            await asyncio.Event().wait()

    task = asyncio.create_task(lives())
    try:
        yield second_life
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize("hubs", [HUBS, THREE])
@pytest.mark.parametrize("kind", [HubStatus, NonceRevealed, PlanSigned, ReportSet, Agreement, HubSumPart])
async def test_a_hub_that_restarts_at_any_step_goes_on_and_releases_the_same_bytes(
    open_mosquitto: BrokerHandle, tmp_path: Path, kind: type[Message], hubs: tuple[str, ...]
) -> None:
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url, hubs)
    async with contextlib.AsyncExitStack() as stack:
        lead, field = await stack.enter_async_context(voices(fleet))
        await stack.enter_async_context(serving(*(fleet.hub(hub) for hub in hubs[1:])))
        second_life = await stack.enter_async_context(restarted_at(fleet, "hub-1", lead, kind))
        if kind is HubStatus:
            await second_life.wait()
        plan = fleet.plan(await lead.offers())
        if kind is NonceRevealed:
            await second_life.wait()
        digest = await lead.propose(plan)
        for hub in hubs:
            await lead.first(PlanSigned, hub)
        if kind is PlanSigned:
            await second_life.wait()
        updates = [Update(fleet, plan, device) for device in DEVICES]
        for update in updates:
            await field.report(update)
        await second_life.wait()
        for hub in hubs:
            await lead.first(HubSumPart, hub)
        np.testing.assert_array_equal(lead.opened_sum(plan), total(updates))
        # Asked again by an abort that comes too late, each sends the same bytes.
        before = len(lead.all(HubSumPart))
        await lead.tell_hubs(RoundAborted, round=1, plan_hash=digest, reason="too late")
        await lead.until(lambda: len(lead.all(HubSumPart)) >= before + len(hubs))
        assert len({(one.sender, one.data) for one in lead.all(HubSumPart)}) == len(hubs)
        assert len({(one.sender, one.set_digest) for one in lead.all(Agreement)}) == len(hubs)
        await lead.tell_hubs(RoundCommitted, round=1, plan_hash=digest)


async def test_hubs_that_restart_after_abandoning_certify_again_and_the_base_is_free(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url, THREE)
    async with voices(fleet) as (lead, field):
        async with serving(*(fleet.hub(hub) for hub in THREE)):
            plan = await signed(fleet, lead)
            await field.report(Update(fleet, plan, DEVICES[0]))
            digest = plan_hash(encode_plan(plan))
            await lead.tell_hubs(RoundAborted, "hub-3", round=1, plan_hash=digest, reason="no more time")
            for hub in THREE:
                await lead.first(RoundAbandoned, hub)
        before = lead.certificates()
        lead.heard.clear()
        async with serving(*(fleet.hub(hub) for hub in THREE)):
            await lead.tell_hubs(RoundAborted, round=1, plan_hash=digest, reason="please certify")
            for hub in THREE:
                await lead.first(RoundAbandoned, hub)
            assert lead.certificates()[0].signatures == before[0].signatures
            again = await signed(fleet, lead, 2)
            updates = [Update(fleet, again, device) for device in DEVICES]
            for update in updates:
                await field.report(update)
            for hub in THREE:
                await lead.first(HubSumPart, hub, 2)
            np.testing.assert_array_equal(lead.opened_sum(again), total(updates))


@pytest.mark.parametrize("kind", [NonceRevealed, PlanSigned, ReportSet, Agreement, HubSumPart])
async def test_a_coordinator_that_is_killed_at_any_step_goes_on_with_the_same_plan(
    mosquitto: BrokerHandle, tmp_path: Path, kind: type[Message]
) -> None:
    bench = coordinator_bench.Bench(tmp_path, mosquitto.url)
    async with coordinator_bench.fleet(bench) as devices, bench.operator() as operator:
        heard: list[Message] = []
        ear, reached = next(iter(devices.values())), asyncio.Event()

        async def hear(delivery: Delivery) -> None:
            _, message = ear.post.open(delivery.topic, delivery.payload)
            heard.append(message)
            if isinstance(message, kind):
                reached.set()

        await ear.link.subscribe(bench.topics.hub("+", "events"), hear)
        process = await bench.coordinator_process()
        try:
            await operator.until(everybody, 20)
            await operator.command("rounds.run", count=1)
            await asyncio.wait_for(reached.wait(), 20)
        finally:
            await kill(process)
        async with bench.coordinator():
            view = await operator.until(until_version(1), 40)
        assert [row.outcome for row in view.rounds] == ["committed"]
        assert len({one.set_digest for one in heard if isinstance(one, NonceRevealed)}) == 1
        assert len({one.plan_hash for one in heard if isinstance(one, PlanSigned)}) == 1


# --- hubs that part or fall silent ------------------------------------------------------------------


async def bound(
    fleet: Fleet, lead: Voice, hub_2: PlayedHub, **changes: Any
) -> tuple[dict[str, Any], Agreement, dict[str, bytes]]:
    """Bring hub 1 to its agreement with a hub 2 that the test plays; return head, agreement and reports."""
    plan = fleet.plan(await hub_2.drawn(lead, "hub-1"), **changes)
    digest = await lead.propose(plan, "hub-1")
    await lead.first(PlanSigned)
    updates = [Update(fleet, plan, device) for device in DEVICES]
    for update in updates:
        await hub_2.report(update, "hub-1")
    head: dict[str, Any] = {"round": 1, "plan_hash": digest}
    reports = {update.device: update.id for update in updates}
    await hub_2.say(hub_2.events, ReportSet, **head, reports=reports)
    return head, await lead.first(Agreement, "hub-1"), reports


async def test_two_hubs_that_agree_on_different_sets_end_the_round_and_release_nothing(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url)
    async with voices(fleet) as (lead, _), played_hub(fleet, "hub-2") as hub_2:
        async with serving(fleet.hub("hub-1")):
            head, bond, reports = await bound(fleet, lead, hub_2)
            fewer = {device: reports[device] for device in DEVICES[:3]}
            other = {"set_digest": set_digest(fewer), "members": tuple(fewer)}
            await hub_2.say(hub_2.events, Agreement, **head, **other)
            end = await lead.first(RoundAbandoned, "hub-1")
            assert end.reason == "hub-2 agreed to another set of reports: nothing is released"
            assert lead.certificates()[0].signatures.keys() == {"hub-1"}
            # Not even if it thinks better of it.
            same = {"set_digest": bond.set_digest, "members": bond.members}
            await hub_2.say(hub_2.events, Agreement, **head, **same)
        async with serving(fleet.hub("hub-1")):
            await hub_2.say(hub_2.events, Agreement, **head, **same)
            await lead.until(lambda: len(lead.all(RoundAbandoned, "hub-1")) > 1)
        assert not lead.all(HubSumPart)


async def test_a_hub_that_is_silent_after_the_agreement_ends_the_round(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url)
    async with (
        voices(fleet) as (lead, _),
        played_hub(fleet, "hub-2") as hub_2,
        serving(fleet.hub("hub-1", silence_s=0.5)),
    ):
        now_ms = int(time.time() * 1000)
        await bound(fleet, lead, hub_2, closes_ms=now_ms + 4000)
        end = await lead.first(RoundAbandoned, "hub-1")
        assert end.reason == "hub-2 agreed to no set of reports in time"
        assert end.certificate
        assert not lead.all(HubSumPart)


async def test_one_of_three_hubs_lost_for_good_after_the_agreement(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    """Two have released, in vain: neither certifies, and no second plan on this base is signed."""
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url, THREE)
    async with (
        voices(fleet) as (lead, field),
        played_hub(fleet, "hub-3") as hub_3,
        serving(fleet.hub("hub-1"), fleet.hub("hub-2")),
    ):
        plan = fleet.plan(await hub_3.drawn(lead, "hub-1", "hub-2"))
        digest = await lead.propose(plan, "hub-1", "hub-2")
        for hub in HUBS:
            await lead.first(PlanSigned, hub)
        updates = [Update(fleet, plan, device) for device in DEVICES]
        for update in updates:
            await field.report(update, *HUBS)
        head: dict[str, Any] = {"round": 1, "plan_hash": digest}
        reports = {update.device: update.id for update in updates}
        await hub_3.say(hub_3.events, ReportSet, **head, reports=reports)
        bond = {"set_digest": set_digest(reports), "members": tuple(sorted(reports))}
        await hub_3.say(hub_3.events, Agreement, **head, **bond)
        for hub in HUBS:
            await lead.first(HubSumPart, hub)
        await lead.tell_hubs(RoundAborted, *HUBS, **head, reason="hub-3 is lost")
        await lead.until(lambda: len(lead.all(HubSumPart)) >= 4)
        assert not lead.all(RoundAbandoned)


async def test_late_duplicate_and_foreign_reports_change_nothing(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url, THREE)
    hubs = {name: fleet.hub(name, cohort_share=0.75) for name in THREE}
    async with voices(fleet) as (lead, field), serving(*hubs.values()):
        plan = await signed(fleet, lead, n_min=3, quorum=3, patience_ms=300)
        updates = [Update(fleet, plan, device) for device in DEVICES]
        foreign = Update(fleet, msgspec.structs.replace(plan, round=9), DEVICES[3])
        await field.report(foreign, "hub-1", round=1)
        await eventually(lambda: hubs["hub-1"].refused["BadSignatureError"] > 0)
        for update in updates[:3]:
            await field.report(update)
            await field.report(update)
        for hub in THREE:
            await lead.first(ReportSet, hub)
        await field.report(updates[3])
        await eventually(lambda: all(one.refused["LateReportError"] > 0 for one in hubs.values()))
        for hub in THREE:
            await lead.first(HubSumPart, hub)
        np.testing.assert_array_equal(lead.opened_sum(plan), total(updates[:3]))


# --- a version that can never be trained on again ---------------------------------------------------


class Stopped:
    """A hub's service that ends once something is heard of it."""

    def __init__(self, bench: coordinator_bench.Bench, name: str) -> None:
        self.bench, self.name = bench, name
        self.task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.task = asyncio.create_task(self.bench.hub(self.name).run())

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)


async def signed_by(devices: dict[str, Device], hub: str) -> asyncio.Event:
    """Return an event that tells when ``hub`` signs a plan."""
    ear, signed_one = next(iter(devices.values())), asyncio.Event()

    async def hear(delivery: Delivery) -> None:
        _, message = ear.post.open(delivery.topic, delivery.payload)
        if isinstance(message, PlanSigned):
            signed_one.set()

    await ear.link.subscribe(ear.bench.topics.hub(hub, "events"), hear)
    return signed_one


async def test_a_version_whose_hub_is_lost_is_skipped_by_the_operator(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = coordinator_bench.Bench(tmp_path, mosquitto.url)
    events: list[CoordinatorEvent] = []
    hub_2 = Stopped(bench, "hub-2")
    store = await Store.open(bench.folders["coordinator"] / "data")
    organs = await make_organs(bench.settings(), store)
    organs.timings = RoundTimings(let_go_ms=1500)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        devices = await stack.enter_async_context(coordinator_bench.fleet(bench, hubs=False))
        await stack.enter_async_context(background(bench.hub("hub-1").run()))
        hub_2.start()
        stack.push_async_callback(hub_2.stop)
        await stack.enter_async_context(background(CoordinatorService(organs).run()))
        operator = await stack.enter_async_context(bench.operator())
        operator.on_event.append(events.append)
        await operator.until(everybody, 20)
        with pytest.raises(OperatorError, match="can still be trained on"):
            await operator.command("rounds.skip")
        # Hub 2 is gone as soon as it has signed; the devices' other shares never arrive.
        gone = await signed_by(devices, "hub-2")
        for device in devices.values():
            device.silent = True
        await operator.command("rounds.run", count=2)
        await asyncio.wait_for(gone.wait(), 20)
        await hub_2.stop()
        await operator.command("rounds.skip", reason="hub-2 burnt down")
        view = await operator.until(until_version(1), 30)
        assert [(row.outcome, row.devices) for row in view.rounds] == [("aborted", 0), ("committed", 0)]
        assert view.rounds[-1].reason == "hub-2 burnt down"
        assert "round.skipped" in {event.kind for event in events}
        # With the hub back the two rounds that were asked for are still run.
        for device in devices.values():
            device.silent = False
        hub_2.start()
        view = await operator.until(until_version(3), 40)
        assert [row.devices for row in view.rounds[-2:]] == [len(devices)] * 2


async def test_a_base_waits_for_the_certificate_of_a_hub_that_is_away(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    """The round is given up without hub 2; the next on this version begins once it is back and certifies."""
    bench = coordinator_bench.Bench(tmp_path, mosquitto.url)
    hub_2 = Stopped(bench, "hub-2")
    store = await Store.open(bench.folders["coordinator"] / "data")
    organs = await make_organs(bench.settings(), store)
    organs.timings = RoundTimings(let_go_ms=1500)
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(store.close)
        devices = await stack.enter_async_context(coordinator_bench.fleet(bench, hubs=False))
        await stack.enter_async_context(background(bench.hub("hub-1").run()))
        hub_2.start()
        stack.push_async_callback(hub_2.stop)
        await stack.enter_async_context(background(CoordinatorService(organs).run()))
        operator = await stack.enter_async_context(bench.operator())
        await operator.until(everybody, 20)
        gone = await signed_by(devices, "hub-2")
        for device in devices.values():
            device.silent = True
        await operator.command("rounds.run", count=1)
        await asyncio.wait_for(gone.wait(), 20)
        await hub_2.stop()
        # Everybody declines, so that the plan is withdrawn: hub 1 certifies, hub 2 is away.
        for device in devices.values():
            device.silent, device.accepts = False, False
        await operator.until(lambda view: any(row.outcome == "aborted" for row in view.rounds), 20)
        task, base = organs.models.task.digest, organs.models.newest.digest
        assert set(organs.certificates.missing(task, base).values()) == {("hub-2",)}
        for device in devices.values():
            device.accepts = True
        hub_2.start()
        view = await operator.until(until_version(1), 40)
        assert view.rounds[-1].devices >= 4
        assert len(organs.certificates.certificates(task, base)[0].signatures) == 2


# --- the norm check ---------------------------------------------------------------------------------


async def test_a_device_that_poisons_its_update_is_left_out_of_the_sum(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    bench = coordinator_bench.Bench(tmp_path, mosquitto.url, norm_check=1.6)
    async with (
        bench.coordinator(),
        coordinator_bench.fleet(bench) as devices,
        bench.operator() as operator,
    ):
        await operator.until(everybody, 20)
        devices[coordinator_bench.DEVICES[1]].poison = 900
        await operator.command("rounds.run", count=2)
        view = await operator.until(until_version(2), 40)
        assert [row.devices for row in view.rounds] == [4, 4]
        devices[coordinator_bench.DEVICES[1]].poison = None
        await operator.command("rounds.run", count=1)
        view = await operator.until(until_version(3), 40)
        assert view.rounds[-1].devices == 5


@pytest.mark.parametrize("kind", [HubChallenge, HubProjections, Agreement])
async def test_a_hub_that_restarts_in_the_norm_check_goes_on(
    open_mosquitto: BrokerHandle, tmp_path: Path, kind: type[Message]
) -> None:
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url, THREE)
    floors: dict[str, Any] = {"cohort_share": 0.75, "norm_check": True}
    async with contextlib.AsyncExitStack() as stack:
        lead, field = await stack.enter_async_context(voices(fleet))
        await stack.enter_async_context(serving(*(fleet.hub(hub, **floors) for hub in THREE[1:])))
        second_life = await stack.enter_async_context(restarted_at(fleet, "hub-1", lead, kind, **floors))
        codec = CodecPlan("randk", 400, 256, 4.0, 12, BITS, 150)
        plan = await signed(fleet, lead, codec=codec, norm_check=1.6, n_min=3, quorum=3)
        updates = [Update(fleet, plan, device, levels=3) for device in DEVICES[:3]]
        updates.append(Update(fleet, plan, DEVICES[3], levels=4000))
        for update in updates:
            await field.report(update)
        await second_life.wait()
        for hub in THREE:
            await lead.first(HubSumPart, hub)
        assert {one.members for one in lead.all(Agreement)} == {DEVICES[:3]}
        np.testing.assert_array_equal(lead.opened_sum(plan), total(updates[:3]))
        # One challenge for one set, and one set of projections.
        shown = {(one.sender, one.set_digest, one.challenge) for one in lead.all(HubChallenge)}
        assert len(shown) == 3
