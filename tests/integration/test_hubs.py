"""Two real hubs on a real broker; coordinator and devices made of the real post and report code."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from brokers import eventually
from hub_bench import (
    BASE,
    BITS,
    DEVICES,
    HUBS,
    Fleet,
    Update,
    Voice,
    coordinator,
    party,
    played_hub,
    serving,
    total,
)
from shoal_codecs.secagg.agreement import set_digest
from shoal_codecs.security.identity import verify
from shoal_codecs.security.post import Post
from shoal_codecs.settings import print_settings
from shoal_codecs.wire.messages import (
    Agreement,
    HubStatus,
    HubSumPart,
    Message,
    PlanProposal,
    PlanRefused,
    PlanSigned,
    Receipt,
    ReportSet,
    RevealRefused,
    RevealWanted,
    RoundAbandoned,
    RoundAborted,
    RoundCommitted,
)
from shoal_codecs.wire.plan import CodecPlan, Plan, PrivacyPlan, encode_plan, plan_signing_bytes
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.hub.errors import HubFolderBusyError, HubRoleError
from shoal_coordinator.hub.service import HubService


@dataclasses.dataclass
class Bench:
    fleet: Fleet
    lead: Voice
    field: Voice
    hubs: tuple[HubService, HubService]

    async def signed(self, number: int = 1, **changes: Any) -> Plan:
        """Propose a plan that both hubs sign."""
        plan = self.fleet.plan(await self.lead.offers(), number, **changes)
        await self.lead.propose(plan)
        for hub in HUBS:
            await self.lead.first(PlanSigned, hub, number)
        return plan

    async def no_nonce(self, error: str, **changes: Any) -> None:
        """Ask for nonces that no hub shows, because of ``error``."""
        promises = changes.pop("promises", None) or await self.lead.promises()
        before = len(self.lead.all(RevealRefused))
        fields = {"task": bytes(32), "base": BASE, "promises": promises} | changes
        await self.lead.tell_hubs(RevealWanted, **fields)
        await self.lead.until(lambda: len(self.lead.all(RevealRefused)) >= before + len(HUBS))
        reasons = [one.reason for one in self.lead.all(RevealRefused)[before:]]
        assert all(reason.startswith(error) for reason in reasons), reasons

    async def receipts(self, update: Update, *hubs: str) -> None:
        wanted = set(hubs or HUBS)
        await self.field.until(
            lambda: wanted <= {one.sender for one in self.field.all(Receipt) if one.report_id == update.id}
        )

    async def refusal(self, name: str, hub: int = 0) -> None:
        await eventually(lambda: self.hubs[hub].refused[name] > 0)


@pytest.fixture
async def bench(open_mosquitto: BrokerHandle, tmp_path: Path) -> AsyncIterator[Bench]:
    """Hubs, a coordinator, and one link that may speak for every device."""
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url)
    hubs = (fleet.hub("hub-1", cohort_share=0.75), fleet.hub("hub-2", cohort_share=0.75))
    async with (
        coordinator(fleet) as lead,
        serving(*hubs),
        party(fleet, "field", "devices/+/receipts/+", post_as=DEVICES[0]) as field,
    ):
        yield Bench(fleet, lead, field, hubs)


def updates_for(bench: Bench, plan: Plan) -> list[Update]:
    return [Update(bench.fleet, plan, device) for device in DEVICES]


async def test_a_round_under_the_fleets_access_rules_sums_exactly(
    mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    fleet = Fleet(tmp_path / "fleet", mosquitto.url)
    async with contextlib.AsyncExitStack() as stack:
        lead = await stack.enter_async_context(coordinator(fleet))
        await stack.enter_async_context(serving(fleet.hub("hub-1"), fleet.hub("hub-2")))
        devices = [
            await stack.enter_async_context(party(fleet, name, f"devices/{name}/receipts/+"))
            for name in DEVICES
        ]
        offers = await lead.offers()
        plan = fleet.plan(offers, codec=CodecPlan("randk", 9610, 5000, 4.0, 12, BITS, 150))
        digest = await lead.propose(plan)
        for hub in HUBS:
            answer = await lead.first(PlanSigned, hub)
            signed = plan_signing_bytes(encode_plan(plan))
            verify(fleet.roster.party(hub).key, signed, answer.signature)
        assert {one.key for one in await lead.promises()}.isdisjoint(one.key for one in offers.values())
        updates = [Update(fleet, plan, device) for device in DEVICES]
        for device, update in zip(devices, updates, strict=True):
            await device.report(update, part_bytes=2000)
        for device, update in zip(devices, updates, strict=True):
            for hub in HUBS:
                receipt = await device.first(Receipt, hub)
                assert (receipt.report_id, receipt.plan_hash) == (update.id, digest)
        for hub in HUBS:
            await lead.first(HubSumPart, hub)
        agreements = lead.all(Agreement)
        assert {one.members for one in agreements} == {DEVICES}
        assert {one.set_digest for one in agreements} == {set_digest({u.device: u.id for u in updates})}
        np.testing.assert_array_equal(lead.opened_sum(plan), total(updates))


async def test_after_the_commit_key_and_ciphertexts_are_gone_from_the_file(bench: Bench) -> None:
    plan = await bench.signed()
    updates = updates_for(bench, plan)
    for update in updates:
        await bench.field.report(update)
    digest = (await bench.lead.first(HubSumPart, "hub-1")).plan_hash
    await bench.lead.first(HubSumPart, "hub-2")
    folder = bench.fleet.root / "hub-1" / "data"
    secret = bytes(updates[0].reports["hub-1"].ciphertext)
    assert any(secret in file.read_bytes() for file in folder.iterdir())
    await bench.lead.tell_hubs(RoundCommitted, round=1, plan_hash=digest)
    await eventually(lambda: not any(secret in file.read_bytes() for file in folder.iterdir()))
    # A late repetition is answered from the log all the same, and the base stays answered.
    before = len(bench.field.all(Receipt, "hub-1"))
    await bench.field.report(updates[0], "hub-1")
    await bench.field.until(lambda: len(bench.field.all(Receipt, "hub-1")) > before)
    await bench.no_nonce("BaseAnsweredError")


THREE = {"n_min": 3, "quorum": 3, "patience_ms": 200}


async def test_a_device_that_reached_one_hub_only_is_outside_the_set(bench: Bench) -> None:
    plan = await bench.signed(**THREE)
    updates = updates_for(bench, plan)
    await bench.field.report(updates[3], "hub-1")
    for update in updates[:3]:
        await bench.field.report(update)
    for hub in HUBS:
        await bench.lead.first(HubSumPart, hub)
        assert (await bench.lead.first(Agreement, hub)).members == DEVICES[:3]
    assert set((await bench.lead.first(ReportSet, "hub-1")).reports) == set(DEVICES)
    np.testing.assert_array_equal(bench.lead.opened_sum(plan), total(updates[:3]))


async def test_under_the_floor_everything_is_abandoned_and_the_base_may_be_planned_again(
    bench: Bench,
) -> None:
    plan = bench.fleet.plan(await bench.lead.offers(), **THREE)
    plan = msgspec.structs.replace(plan, closes_ms=plan.opens_ms + 2500)
    digest = await bench.lead.propose(plan)
    for hub in HUBS:
        await bench.lead.first(PlanSigned, hub)
    for update in updates_for(bench, plan)[:2]:
        await bench.field.report(update)
    # The first hub's clock names the floor; the other may hear of it before its own clock says so.
    reasons = [(await bench.lead.first(RoundAbandoned, hub)).reason for hub in HUBS]
    assert any("the floor is 3" in reason for reason in reasons)
    assert all("the floor is 3" in reason or "has abandoned" in reason for reason in reasons)
    assert not bench.lead.all(ReportSet)
    await bench.lead.tell_hubs(RoundAborted, round=1, plan_hash=digest, reason="too few")
    again = await bench.signed(2, **THREE)
    assert again.base == plan.base


async def test_an_abort_before_the_agreement_lets_every_hub_go(bench: Bench) -> None:
    plan = await bench.signed()
    updates = updates_for(bench, plan)
    for update in updates:
        await bench.field.report(update, "hub-1")
    digest = (await bench.lead.first(ReportSet, "hub-1")).plan_hash
    await bench.lead.tell_hubs(RoundAborted, "hub-2", round=1, plan_hash=digest, reason="no more time")
    for hub in HUBS:
        await bench.lead.first(RoundAbandoned, hub)
    await bench.field.report(updates[0], "hub-2")
    await bench.refusal("LateReportError", hub=1)
    assert not bench.lead.all(HubSumPart)


# --- bad input --------------------------------------------------------------------------------------


async def test_reports_that_cannot_be_believed_are_refused_by_name_and_the_round_goes_on(
    bench: Bench,
) -> None:
    plan = await bench.signed()
    updates = updates_for(bench, plan)
    first, fleet, field = updates[0], bench.fleet, bench.field
    good = first.reports["hub-1"]

    flipped = memoryview(bytes([good.ciphertext[0] ^ 1]) + good.ciphertext[1:])
    tampered = msgspec.structs.replace(good, ciphertext=flipped)
    await field.report(first, "hub-1", report=tampered)
    await bench.refusal("BadSignatureError")

    other = Update(fleet, plan, DEVICES[1]).reports["hub-1"]
    bench.hubs[0].refused.clear()
    await field.report(first, "hub-1", report=other)
    await bench.refusal("BadSignatureError")

    await field.report(Update(fleet, plan, DEVICES[0]).with_shares(fleet, bytes(10), bytes(33)), "hub-1")
    await bench.refusal("ShareLengthError")
    await field.report(Update(fleet, plan, DEVICES[0]).with_shares(fleet, bytes(80), bytes(32)), "hub-2")
    await bench.refusal("ShareLengthError", hub=1)
    strange = b"\x03" + bytes(32)
    await field.report(Update(fleet, plan, DEVICES[0]).with_shares(fleet, bytes(80), strange), "hub-2")
    await bench.refusal("SeedError", hub=1)

    await field.report(first, "hub-1", report=msgspec.structs.replace(good, others=()))
    await bench.refusal("MalformedMessageError")
    await field.report(first, "hub-1", round=7)
    await bench.refusal("UnknownRoundError")
    await field.report(first, "hub-1", sender=DEVICES[1])
    await bench.refusal("SenderMismatchError")
    await bench.field.link.publish(fleet.topics.report("hub-1", DEVICES[0]), b"garbage")
    await eventually(lambda: bench.hubs[0].refused["MalformedMessageError"] > 1)

    for update in updates:
        await field.report(update)
    for hub in HUBS:
        await bench.lead.first(HubSumPart, hub)
    np.testing.assert_array_equal(bench.lead.opened_sum(plan), total(updates))


async def test_a_seal_for_another_plan_or_key_does_not_open(bench: Bench) -> None:
    plan = await bench.signed()
    fresh = await bench.lead.offers(base=bytes(32))
    stale = msgspec.structs.replace(plan, hubs=tuple(fresh[hub] for hub in HUBS))
    update = Update(bench.fleet, stale, DEVICES[0])
    await bench.field.report(update, "hub-1")
    await bench.refusal("BadSignatureError")
    # Signed for this plan, yet sealed to the key of the next.
    good = Update(bench.fleet, plan, DEVICES[0])
    sealed = [bytes(update.reports[hub].ciphertext) for hub in HUBS]
    good._bind(bench.fleet, (await bench.lead.first(PlanSigned)).plan_hash, sealed)
    await bench.field.report(good, "hub-1")
    await bench.refusal("UnsealError")


async def test_the_first_report_stands_and_the_same_again_gets_its_receipt_again(bench: Bench) -> None:
    plan = await bench.signed()
    update, second = Update(bench.fleet, plan, DEVICES[0]), Update(bench.fleet, plan, DEVICES[0], seed=2)
    await bench.field.report(update, "hub-1")
    await bench.receipts(update, "hub-1")
    await bench.field.report(second, "hub-1")
    await bench.refusal("SecondReportError")
    await bench.field.report(update, "hub-1")
    await bench.field.until(lambda: len(bench.field.all(Receipt, "hub-1")) == 2)
    assert {one.report_id for one in bench.field.all(Receipt)} == {update.id}


async def test_an_uninvited_device_is_refused(bench: Bench) -> None:
    plan = await bench.signed(cohort=DEVICES[:3], n_min=3, quorum=3, n_max=3)
    await bench.field.report(Update(bench.fleet, plan, DEVICES[3]), "hub-1")
    await bench.refusal("UninvitedReportError")


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"n_min": 2, "quorum": 2}, "LoweredFloorError"),
        ({"roster": bytes(32)}, "PlanRosterError"),
        ({"fleet": "other"}, "PlanRosterError"),
        ({"closes_ms": 2_000, "opens_ms": 1_000}, "PlanWindowError"),
        ({"opens_ms": 1 << 52, "closes_ms": 1 << 53}, "PlanWindowError"),
        ({"cohort": (*DEVICES[:3], "coordinator")}, "PlanCohortError"),
        ({"norm_check": 100.0}, "PlanPromiseError"),
        ({"privacy": PrivacyPlan("skellam", 1e6, 1, 1e-5)}, "PlanPromiseError: RingOverflowError"),
        ({"privacy": PrivacyPlan("skellam", 1e-4, 1, 1e-5)}, "PlanPromiseError: NoiseSizeError"),
    ],
)
async def test_plans_a_hub_may_not_sign_are_refused(
    bench: Bench, changes: dict[str, Any], error: str
) -> None:
    await bench.lead.propose(bench.fleet.plan(await bench.lead.offers(), **changes))
    for hub in HUBS:
        assert (await bench.lead.first(PlanRefused, hub)).reason.startswith(error)


async def test_a_plan_with_another_key_or_without_the_coordinators_signature_is_refused(bench: Bench) -> None:
    offers = await bench.lead.offers()
    swapped = {**offers, "hub-1": msgspec.structs.replace(offers["hub-1"], key=bytes([9]) * 32)}
    await bench.lead.propose(bench.fleet.plan(swapped), "hub-1")
    assert (await bench.lead.first(PlanRefused)).reason.startswith("PlanOfferError")
    data = encode_plan(bench.fleet.plan(offers, 2))
    await bench.lead.tell_hubs(PlanProposal, "hub-1", plan=data, signature=bytes(64))
    assert (await bench.lead.first(PlanRefused, number=2)).reason.startswith("BadSignatureError")
    await bench.lead.tell_hubs(PlanProposal, "hub-2", plan=b"\x80", signature=bytes(64))
    assert (await bench.lead.first(PlanRefused, "hub-2")).reason.startswith("InvalidPlanError")


async def test_a_second_plan_for_a_base_or_a_used_number_is_refused(bench: Bench) -> None:
    plan = await bench.signed()
    await bench.no_nonce("BaseAnsweredError")
    offers = await bench.lead.offers(base=bytes(32))
    await bench.lead.propose(bench.fleet.plan(offers, 1, base=bytes(32)), "hub-1")
    assert (await bench.lead.first(PlanRefused, number=1)).reason.startswith("RoundReusedError")
    # The same plan again is the same answer again.
    await bench.lead.propose(plan, "hub-1")
    await bench.lead.until(lambda: len(bench.lead.all(PlanSigned, "hub-1")) == 2)
    assert len({one.signature for one in bench.lead.all(PlanSigned, "hub-1")}) == 1


async def test_words_from_the_wrong_mouth_or_said_twice_are_refused(bench: Bench) -> None:
    plan = await bench.signed()
    digest = (await bench.lead.first(PlanSigned)).plan_hash
    fleet, link = bench.fleet, bench.lead.link
    head: dict[str, Any] = {"round": plan.round, "plan_hash": digest}
    control, events = fleet.topics.hub("hub-1", "control"), fleet.topics.hub("hub-2", "events")

    async def say(topic: str, post: Post, kind: type[Message], **fields: Any) -> bytes:
        message: Any = post.compose(kind, **fields)
        payload = post.encode(topic, message)
        await link.publish(topic, payload)
        return payload

    hub_2 = fleet.post("hub-2")
    await say(control, hub_2, RoundAborted, **head, reason="a peer is no coordinator")
    await bench.refusal("SenderMismatchError")
    await say(control, bench.lead.post, RoundCommitted, **head)
    await bench.refusal("UnlistedEventError")
    await say(control, bench.lead.post, RoundCommitted, round=9, plan_hash=bytes(32))
    await bench.refusal("UnknownRoundError")
    await say(control, bench.lead.post, PlanSigned, **head, signature=b"")
    await bench.refusal("UnexpectedMessageError")
    status = bench.lead.all(HubStatus, "hub-2")[-1]
    head |= {"position": status.position, "head": status.head}
    set_of_2 = await say(events, hub_2, ReportSet, **head, reports={DEVICES[0]: bytes(32)})
    await link.publish(events, set_of_2)
    await bench.refusal("ReplayedMessageError")
    await say(events, hub_2, ReportSet, **head, reports={})
    await bench.refusal("PeerContradictionError")
    await link.publish(events.replace("hub-2", "hub-1"), set_of_2)
    forged = Post(fleet.topics, fleet.people["operator"], fleet.roster)
    forged.identity.name = "hub-2"
    await say(events, forged, RoundAbandoned, round=1, plan_hash=digest, reason="not me")
    await bench.refusal("BadSignatureError")


# --- restarts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [HubStatus, PlanSigned, ReportSet, Agreement, HubSumPart])
async def test_a_hub_restarted_at_any_step_goes_on_from_its_folder(
    open_mosquitto: BrokerHandle, tmp_path: Path, kind: type[Message]
) -> None:
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url)
    async with (
        coordinator(fleet) as lead,
        party(fleet, "field", post_as=DEVICES[0]) as field,
        serving(fleet.hub("hub-2")),
    ):
        second_life = asyncio.Event()

        async def lives() -> None:
            async with serving(fleet.hub("hub-1")):
                await lead.first(kind, "hub-1")
            lead.heard = [one for one in lead.heard if one.sender != "hub-1" or not isinstance(one, kind)]
            second_life.set()
            async with serving(fleet.hub("hub-1")):
                await asyncio.Event().wait()

        hub_1 = asyncio.create_task(lives())
        plan = fleet.plan(await lead.offers())
        digest = await lead.propose(plan)
        for hub in HUBS:
            await lead.first(PlanSigned, hub)
        updates = [Update(fleet, plan, device) for device in DEVICES]
        for update in updates:
            await field.report(update)
        await second_life.wait()
        for hub in HUBS:
            await lead.first(HubSumPart, hub)
        np.testing.assert_array_equal(lead.opened_sum(plan), total(updates))
        sums = {(one.sender, one.data) for one in lead.all(HubSumPart)}
        assert len(sums) == 2
        await lead.tell_hubs(RoundCommitted, round=1, plan_hash=digest)
        hub_1.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await hub_1


@contextlib.contextmanager
def hub_process(fleet: Fleet, name: str) -> Any:
    config = fleet.root / name / "config.toml"
    config.write_text(print_settings(fleet.settings(name)))
    command = [sys.executable, "-m", "shoal_coordinator.hub", "--config", str(config), "--stop-on-stdin-eof"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdin is not None
        process.stdin.close()


async def test_a_hub_killed_between_agreement_and_sum_releases_the_same_set(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    """Hub 2 is played by the test, so that hub 1 stands exactly between its agreement and its sum."""
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url)
    async with contextlib.AsyncExitStack() as stack:
        lead = await stack.enter_async_context(coordinator(fleet))
        hub_2 = await stack.enter_async_context(played_hub(fleet, "hub-2"))
        with hub_process(fleet, "hub-1") as process:
            plan = fleet.plan(await hub_2.drawn(lead, "hub-1"))
            await lead.propose(plan, "hub-1")
            digest = (await lead.first(PlanSigned)).plan_hash
            updates = [Update(fleet, plan, device) for device in DEVICES]
            for update in updates:
                await hub_2.report(update, "hub-1")
            head: dict[str, Any] = {"round": 1, "plan_hash": digest}
            events = fleet.topics.hub("hub-2", "events")
            reports = {update.device: update.id for update in updates}
            await hub_2.say(events, ReportSet, **head, reports=reports)
            bond = await lead.first(Agreement, "hub-1")
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not lead.all(HubSumPart)
        await hub_2.say(events, Agreement, **head, set_digest=bond.set_digest, members=bond.members)
        with hub_process(fleet, "hub-1") as process:
            part = await lead.first(HubSumPart, "hub-1")
            assert part.set_digest == bond.set_digest == set_digest(reports)
            assert {one.set_digest for one in lead.all(Agreement, "hub-1")} == {bond.set_digest}
            process.stdin.close()
            await lead.until(lambda: not lead.all(HubStatus, "hub-1")[-1].online)
            assert await asyncio.to_thread(process.wait, 10) == 0


async def test_a_folder_serves_one_hub_at_a_time(bench: Bench) -> None:
    with pytest.raises(HubFolderBusyError, match="stop that hub first"):
        await bench.fleet.hub("hub-1").run()


async def test_a_stranger_does_not_run_as_a_hub(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet", open_mosquitto.url)
    with pytest.raises(HubRoleError, match="enrol it"):
        HubService(fleet.settings("hub-1"), fleet.people["device-01"], fleet.roster)
