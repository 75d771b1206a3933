"""Mode ``single`` with real processes on a real broker: whoever dies in between, the sum comes out."""

import asyncio
import os
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from fleet_bench import LiveFleet, change_settings, live_fleet
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.messages import Message
from shoal_codecs.wire.plan import decode_plan
from shoal_codecs.wire.single import Prekey
from shoal_coordinator.demo.fleet import DemoFleet
from shoal_coordinator.demo.state import DemoOptions

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]
COUNT = 5
VICTIM = "device-03"


def patient(layout: DemoFleet) -> None:
    """Everybody is waited for; one of five may vanish."""
    rounds = {"quorum_share": 1.0, "window_s": 22.0, "shares_s": 10.0, "unmask_s": 9.0, "patience_s": 4.0}
    change_settings(layout.config_of("coordinator"), rounds=rounds)
    for device in layout.devices:
        change_settings(layout.config_of(device), heartbeat_s=1.0, resend_s=0.5)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LiveFleet]:
    options = DemoOptions(devices=COUNT, mode="single", calm=True)
    async with live_fleet(tmp_path_factory.mktemp("single"), options, prepare=patient) as made:
        await made.rounds(1, devices=COUNT)
        yield made


async def finished(fleet: LiveFleet, version: int, since: int) -> int:
    """Wait for ``version``; return how many devices are in it. It moved the model."""
    view = await fleet.reach(version)
    kinds = [event.kind for event in fleet.all(wire.CoordinatorEvent, since=since)]
    assert "round.unmoved" not in kinds
    row = next(row for row in reversed(view.rounds) if row.version == version)
    return row.devices


async def begun(fleet: LiveFleet) -> tuple[int, int]:
    """Ask for a round once all can take part; return where it begins in what was heard, and its version."""
    fresh = time.time() * 1000

    def ready() -> bool:
        rows = [row for row in fleet.view.devices if row.online and row.examples > 0 and row.phase == "idle"]
        return fleet.view.taken_ms > fresh and len(rows) == COUNT

    await fleet.until(ready)
    return fleet.mark, await fleet.ask()


async def revive(fleet: LiveFleet, since: int) -> None:
    """Start the victim again and wait until it can take part in the next round."""
    await fleet.children.restart(VICTIM)
    await fleet.until(lambda: fleet.all(wire.Prekeys, sender=VICTIM, since=since))
    await fleet.online(VICTIM)


async def test_what_crosses_the_broker_is_what_the_plan_says(fleet: LiveFleet) -> None:
    mark, version = await begun(fleet)
    assert await finished(fleet, version, mark) == COUNT
    notice = fleet.all(wire.PlanNotice, since=mark)[0]
    plan = decode_plan(notice.plan)
    assert plan.mode == "single"
    assert [hub.hub for hub in plan.hubs] == ["coordinator"]
    assert plan.n_min == 4
    assert plan.single is not None
    assert (plan.single.neighbours, plan.single.edges) == (COUNT - 1, COUNT - 1)
    assert len(notice.prekeys) == COUNT
    # Every key bundle served one round: none of them stands in what is parked afterwards.
    assert {one.sender for one in fleet.all(wire.SingleUnmask, since=mark)} == set(plan.cohort)
    await fleet.until(lambda: len({one.sender for one in fleet.all(wire.Prekeys, since=mark)}) == COUNT)
    newest = {one.sender: one.bundles for one in fleet.all(wire.Prekeys)}
    assert not {bundle for bundles in newest.values() for bundle in bundles} & set(notice.prekeys)


@pytest.mark.parametrize("word", [wire.SingleShares, wire.ReportPart, wire.SingleConsent])
async def test_an_agent_killed_between_two_phases_goes_on_where_it_was(
    fleet: LiveFleet, word: type[Message]
) -> None:
    mark, version = await begun(fleet)
    # Report parts name nobody: their topic does.
    await fleet.first(word, on=VICTIM, since=mark)
    await fleet.children.kill(VICTIM)
    await revive(fleet, fleet.mark)
    assert await finished(fleet, version, mark) == COUNT
    consents = [one.signature for one in fleet.all(wire.SingleConsent, sender=VICTIM, since=mark)]
    assert len(set(consents)) == 1


async def test_a_device_lost_after_masking_is_in_the_sum_without_it(fleet: LiveFleet) -> None:
    mark, version = await begun(fleet)
    await fleet.first(wire.Receipt, on=VICTIM, since=mark)
    await fleet.children.kill(VICTIM)
    try:
        await fleet.until(lambda: fleet.all(wire.SingleUnmask, since=mark))
        consented = {one.sender for one in fleet.all(wire.SingleConsent, since=mark)}
        assert await finished(fleet, version, mark) == COUNT
        if VICTIM not in consented:
            assert VICTIM not in {one.sender for one in fleet.all(wire.SingleUnmask, since=mark)}
    finally:
        await revive(fleet, fleet.mark)


async def test_a_device_lost_before_masking_is_left_out(fleet: LiveFleet) -> None:
    mark, version = await begun(fleet)
    await fleet.first(wire.SingleDelivery, on=VICTIM, since=mark)
    await fleet.children.kill(VICTIM)
    try:
        assert await finished(fleet, version, mark) >= COUNT - 1
        survivors = fleet.all(wire.SingleSurvivors, since=mark)[0]
        reported = {one.topic for one in fleet.heard[mark:] if "/reports/" in one.topic}
        if not any(VICTIM in topic for topic in reported):
            assert int.from_bytes(survivors.dead, "little").bit_count() == 1
    finally:
        await revive(fleet, fleet.mark)


@pytest.mark.parametrize(
    "word", [wire.SingleShares, wire.SingleDelivery, wire.SingleSurvivors, wire.SingleUnmaskWanted]
)
async def test_a_coordinator_killed_in_a_phase_goes_on_where_it_was(
    fleet: LiveFleet, word: type[Message]
) -> None:
    mark, version = await begun(fleet)
    await fleet.first(word, since=mark)
    await fleet.children.kill("coordinator")
    await asyncio.sleep(0.2)
    await fleet.children.restart("coordinator")
    assert await finished(fleet, version, mark) == COUNT
    splits = {(one.alive, one.dead) for one in fleet.all(wire.SingleSurvivors, since=mark)}
    assert len(splits) == 1


async def test_where_nobody_consents_the_round_ends_and_the_next_has_fresh_keys(fleet: LiveFleet) -> None:
    fleet.deny("pattern deny shoal/+/rounds/+/single/consent/%u")
    mark, version = await begun(fleet)
    await fleet.until(lambda: "round.aborted" in kinds_of(fleet, mark))
    assert not fleet.all(wire.SingleUnmaskWanted, since=mark)
    fleet.deny("")
    assert await finished(fleet, version, mark) == COUNT
    notices = fleet.all(wire.PlanNotice, since=mark)
    plans = {one.plan: one.prekeys for one in notices}
    first, *later = plans.values()
    assert all(not set(first) & set(others) for others in later)
    bases = {decode_plan(plan).base for plan in plans}
    assert len(bases) == 1


async def test_where_masks_stay_shut_the_base_is_spent_and_the_fleet_goes_on(fleet: LiveFleet) -> None:
    fleet.deny("pattern deny shoal/+/rounds/+/single/unmask/%u")
    mark, version = await begun(fleet)
    await fleet.until(lambda: "round.unmoved" in kinds_of(fleet, mark))
    fleet.deny("")
    await fleet.reach(version)
    later, version = await begun(fleet)
    assert await finished(fleet, version, later) == COUNT


@pytest.mark.parametrize(
    ("word", "kind"),
    [(wire.SingleDelivery, "round.aborted"), (wire.SingleUnmaskWanted, "round.unmoved")],
)
async def test_a_coordinator_whose_words_were_damaged_says_so_and_goes_on(
    fleet: LiveFleet, word: type[Message], kind: str
) -> None:
    """Before masks may be open the round ends; after that a version follows that moves nothing."""
    mark, version = await begun(fleet)
    await fleet.first(word, since=mark)
    await fleet.children.kill("coordinator")
    kept = fleet.layout.folders["coordinator"] / "data" / "single"
    shares = list(kept.glob("*.words/shares/device-*"))
    assert len(shares) == COUNT
    for path in shares:
        path.write_bytes(os.urandom(60))
    await fleet.children.restart("coordinator")
    await fleet.until(lambda: kind in kinds_of(fleet, mark))
    told = next(one for one in fleet.all(wire.CoordinatorEvent, since=mark) if one.kind == kind)
    assert "LostWordsError" in told.text
    await fleet.reach(version)
    later, version = await begun(fleet)
    assert await finished(fleet, version, later) == COUNT


async def test_words_that_nobody_means_end_nothing(fleet: LiveFleet) -> None:
    """Thousands of bundles that are none, boxes without end, words about plans that never were."""
    device, topics = "device-01", fleet.topics
    place = topics.prekeys(device)
    real = next(one.payload for one in reversed(fleet.heard) if one.topic == place and one.message)
    odd = tuple(Prekey(os.urandom(number % 64), bytes(32), bytes(32), b"") for number in range(5000))
    forged = tuple(
        Prekey(os.urandom(32), os.urandom(32), os.urandom(32), os.urandom(64)) for _ in range(3000)
    )
    for bundles in (odd, forged, ()):
        await fleet.say(device, place, wire.Prekeys, bundles=bundles)
    mark, version = await begun(fleet)
    wanted = await fleet.first(wire.Invitation, since=mark)
    for plan_hash in (bytes(32), b"", wanted.plan_hash):
        head = {"round": wanted.round, "plan_hash": plan_hash}
        at = {kind: topics.single(wanted.round, kind, device) for kind in ("shares", "consent", "unmask")}
        for boxes in ((b"",) * 60_000, (os.urandom(1_000_000),), ()):
            await fleet.say(
                device, at["shares"], wire.SingleShares, **head, draw=b"", seed=b"x" * 9999, boxes=boxes
            )
        await fleet.say(device, at["consent"], wire.SingleConsent, **head, signature=os.urandom(9999))
        await fleet.say(device, at["unmask"], wire.SingleUnmask, **head, sealed=os.urandom(9999))
    await fleet.throw(place, real)
    assert await finished(fleet, version, mark) >= COUNT - 1
    later, version = await begun(fleet)
    assert await finished(fleet, version, later) == COUNT
    text = (fleet.layout.folders["coordinator"] / "log.jsonl").read_text()
    assert "Traceback" not in text
    assert "handler_failed" not in text


def kinds_of(fleet: LiveFleet, since: int) -> list[str]:
    return [event.kind for event in fleet.all(wire.CoordinatorEvent, since=since)]
