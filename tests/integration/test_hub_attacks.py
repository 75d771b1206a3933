"""What a coordinator, a peer or whoever puts old folders back tries on hubs; each is refused by its name."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from brokers import eventually
from hub_bench import (
    BASE,
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
from shoal_codecs.security.identity import verify
from shoal_codecs.wire.hubs import HubPromise, NeverReleased, never_released_bytes, promise_set_digest
from shoal_codecs.wire.messages import (
    Agreement,
    HubStatus,
    HubSumPart,
    NonceRevealed,
    PeerLog,
    PlanRefused,
    PlanSigned,
    RevealRefused,
    RevealWanted,
    RoundAbandoned,
    RoundAborted,
    RoundCommitted,
)
from shoal_codecs.wire.plan import Plan, encode_plan, plan_hash
from shoal_coordinator.demo.broker import BrokerHandle
from shoal_coordinator.hub.errors import LogBehindError, LogForkedError

OTHER_BASE = b"\x07" * 32


@dataclass
class Bench:
    fleet: Fleet
    lead: Voice
    field: Voice

    async def refused_nonce(self, promises: tuple[HubPromise, ...], *hubs: str, base: bytes = BASE) -> str:
        """Ask for nonces that the hubs do not show; return the first reason."""
        before = len(self.lead.all(RevealRefused))
        await self.lead.tell_hubs(RevealWanted, *hubs, task=bytes(32), base=base, promises=promises)
        await self.lead.until(
            lambda: len(self.lead.all(RevealRefused)) >= before + len(hubs or self.fleet.hubs)
        )
        return self.lead.all(RevealRefused)[before].reason

    async def signed(self, number: int = 1, base: bytes = BASE, **changes: Any) -> Plan:
        plan = self.fleet.plan(await self.lead.offers(base=base), number, base=base, **changes)
        await self.lead.propose(plan)
        for hub in self.fleet.hubs:
            await self.lead.first(PlanSigned, hub, number)
        return plan

    async def refused_plan(self, plan: Plan, *hubs: str, **changes: Any) -> str:
        await self.lead.propose(plan, *hubs, **changes)
        for hub in hubs or self.fleet.hubs:
            reason = (await self.lead.first(PlanRefused, hub, plan.round)).reason
        return reason

    async def abandoned(self, plan: Plan) -> bytes:
        """Have every hub give ``plan`` up; return its hash."""
        digest = plan_hash(encode_plan(plan))
        await self.lead.tell_hubs(RoundAborted, round=plan.round, plan_hash=digest, reason="for the test")
        for hub in self.fleet.hubs:
            await self.lead.first(RoundAbandoned, hub, plan.round)
        return digest

    async def summed(self, plan: Plan) -> list[Update]:
        """Send everybody's report and wait for the sums."""
        updates = [Update(self.fleet, plan, device) for device in DEVICES]
        for update in updates:
            await self.field.report(update)
        for hub in self.fleet.hubs:
            await self.lead.first(HubSumPart, hub, plan.round)
        return updates


@contextlib.asynccontextmanager
async def benches(broker: BrokerHandle, root: Path, hubs: tuple[str, ...] = HUBS) -> AsyncIterator[Bench]:
    """A fleet whose hubs do not run yet."""
    fleet = Fleet(root, broker.url, hubs)
    async with (
        coordinator(fleet) as lead,
        party(fleet, "field", "devices/+/receipts/+", post_as=DEVICES[0]) as field,
    ):
        yield Bench(fleet, lead, field)


@pytest.fixture
async def bench(open_mosquitto: BrokerHandle, tmp_path: Path) -> AsyncIterator[Bench]:
    async with (
        benches(open_mosquitto, tmp_path / "fleet") as one,
        serving(*(one.fleet.hub(name, free_draws=6) for name in HUBS)),
    ):
        yield one


# --- chosen coordinates -----------------------------------------------------------------------------


async def test_a_nonce_is_shown_for_one_set_of_promises_one_task_and_one_base(bench: Bench) -> None:
    promises = await bench.lead.promises()
    offers = await bench.lead.offers()
    # The same question gets the same answer.
    again = await bench.lead.offers_again(promises)
    assert again == offers
    # Another base, or the same promises beside a fresh one of a peer: what was shown stays where it was.
    assert (await bench.refused_nonce(promises, base=OTHER_BASE)).startswith("StalePromiseError")
    fresh = {one.hub: one for one in await bench.lead.promises()}
    mixed = (promises[0], fresh["hub-2"])
    assert (await bench.refused_nonce(mixed, "hub-1")).startswith("StalePromiseError")


async def test_promises_that_are_not_the_hubs_own_open_nothing(bench: Bench) -> None:
    own, peer = await bench.lead.promises()
    forged = msgspec.structs.replace(peer, commitment=b"\x01" * 32)
    assert (await bench.refused_nonce((own, forged), "hub-1")).startswith("PromiseSignatureError")
    assert (await bench.refused_nonce((own,), "hub-1")).startswith("PromiseSetError")
    assert (await bench.refused_nonce((own, peer, peer), "hub-1")).startswith("PromiseSetError")
    stranger = msgspec.structs.replace(peer, hub="hub-9")
    assert (await bench.refused_nonce((own, peer, stranger), "hub-1")).startswith("PromiseSetError")
    assert not bench.lead.all(NonceRevealed)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"nonce": b"\x01" * 32}, "PlanDrawError"),
        ({"key": b"\x01" * 32}, "PlanDrawError"),
        ({"challenge": b"\x01" * 32}, "PlanDrawError"),
    ],
)
async def test_a_plan_with_another_nonce_of_a_peer_is_not_signed(
    bench: Bench, changes: dict[str, bytes], error: str
) -> None:
    offers = await bench.lead.offers()
    swapped = offers | {"hub-2": msgspec.structs.replace(offers["hub-2"], **changes)}
    assert (await bench.refused_plan(bench.fleet.plan(swapped), "hub-1")).startswith(error)


async def test_a_plan_on_another_base_or_task_than_was_drawn_for_is_not_signed(bench: Bench) -> None:
    offers = await bench.lead.offers()
    assert (await bench.refused_plan(bench.fleet.plan(offers, 1, base=OTHER_BASE))).startswith(
        "PlanDrawError"
    )
    assert (await bench.refused_plan(bench.fleet.plan(offers, 2, task=OTHER_BASE))).startswith(
        "PlanDrawError"
    )


async def test_coordinates_cannot_be_drawn_until_they_suit(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with benches(open_mosquitto, tmp_path / "fleet") as bench:
        async with serving(*(bench.fleet.hub(name, free_draws=3) for name in HUBS)):
            first = await bench.lead.offers()
            assert (await bench.refused_plan(bench.fleet.plan(first, n_min=1, quorum=1))).startswith(
                "Lowered"
            )
            await bench.abandoned(await bench.signed(2, base=OTHER_BASE))
            await bench.lead.offers(base=b"\x08" * 32)
            reason = await bench.refused_nonce(await bench.lead.promises(), base=b"\x09" * 32)
            assert reason.startswith("DrawLimitError")
        # A restart forgets no draw.
        bench.lead.heard.clear()
        async with serving(*(bench.fleet.hub(name, free_draws=3) for name in HUBS)):
            reason = await bench.refused_nonce(await bench.lead.promises(), base=b"\x0a" * 32)
            assert reason.startswith("DrawLimitError")
        # A sum does.
        bench.lead.heard.clear()
        async with serving(*(bench.fleet.hub(name, free_draws=4) for name in HUBS)):
            await bench.summed(await bench.signed(3))
            for place in range(4):
                await bench.lead.offers(base=bytes([32 + place]) * 32)


async def test_what_was_shown_survives_a_restart_of_the_hubs(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with benches(open_mosquitto, tmp_path / "fleet") as bench:
        async with serving(*(bench.fleet.hub(name) for name in HUBS)):
            promises = await bench.lead.promises()
            offers = await bench.lead.offers()
        bench.lead.heard.clear()
        async with serving(*(bench.fleet.hub(name) for name in HUBS)):
            await bench.lead.promises()
            assert await bench.lead.offers_again(promises) == offers
            plan = bench.fleet.plan(offers)
            await bench.lead.propose(plan)
            for hub in HUBS:
                await bench.lead.first(PlanSigned, hub)
            updates = await bench.summed(plan)
            np.testing.assert_array_equal(bench.lead.opened_sum(plan), total(updates))


# --- a second plan on a base ------------------------------------------------------------------------


async def test_a_second_plan_needs_every_hubs_certificate_for_the_first(bench: Bench) -> None:
    digest = await bench.abandoned(await bench.signed())
    for one in bench.lead.all(RoundAbandoned):
        verify(bench.fleet.people[one.sender].public, never_released_bytes(digest), one.certificate)
    (full,) = bench.lead.certificates()
    lacking = NeverReleased(digest, {"hub-1": full.signatures["hub-1"]})
    swapped = NeverReleased(digest, {"hub-1": full.signatures["hub-2"], "hub-2": full.signatures["hub-1"]})
    foreign = NeverReleased(bytes(32), full.signatures)
    plan = bench.fleet.plan(await bench.lead.offers(), 2)
    for certificates, error in (
        ((), "MissingCertificateError"),
        ((lacking,), "MissingCertificateError"),
        ((foreign,), "MissingCertificateError"),
        ((swapped,), "BadCertificateError"),
    ):
        bench.lead.heard = [one for one in bench.lead.heard if not isinstance(one, PlanRefused)]
        assert (await bench.refused_plan(plan, certificates=certificates)).startswith(error)
    await bench.lead.propose(plan, certificates=(full,))
    for hub in HUBS:
        await bench.lead.first(PlanSigned, hub, 2)
    # A third needs those of both.
    digest = await bench.abandoned(plan)
    third = bench.fleet.plan(await bench.lead.offers(), 3)
    newest = tuple(one for one in bench.lead.certificates() if one.plan_hash == digest)
    assert (await bench.refused_plan(third, certificates=newest)).startswith("MissingCertificateError")


async def test_an_uncertified_second_plan_is_refused_after_a_restart_too(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with benches(open_mosquitto, tmp_path / "fleet") as bench:
        async with serving(*(bench.fleet.hub(name) for name in HUBS)):
            await bench.abandoned(await bench.signed())
        certificates = bench.lead.certificates()
        bench.lead.heard.clear()
        async with serving(*(bench.fleet.hub(name) for name in HUBS)):
            plan = bench.fleet.plan(await bench.lead.offers(), 2)
            assert (await bench.refused_plan(plan, certificates=())).startswith("MissingCertificateError")
            await bench.lead.propose(plan, certificates=certificates)
            for hub in HUBS:
                await bench.lead.first(PlanSigned, hub, 2)


async def test_a_hub_that_never_signed_a_plan_certifies_it_and_then_never_signs_it(bench: Bench) -> None:
    """Hub 2 refused: for the base to be free again, it must bind itself as well."""
    plan = bench.fleet.plan(await bench.lead.offers())
    digest = await bench.lead.propose(plan, "hub-1")
    await bench.lead.first(PlanSigned, "hub-1")
    await bench.abandoned(plan)
    assert {one.sender for one in bench.lead.all(RoundAbandoned)} == set(HUBS)
    assert (await bench.refused_plan(plan, "hub-2")).startswith("RenouncedPlanError")
    await bench.signed(2)
    assert {one.plan_hash for one in bench.lead.certificates()} == {digest}


async def test_what_was_released_is_never_certified(bench: Bench) -> None:
    plan = await bench.signed()
    await bench.summed(plan)
    digest = plan_hash(encode_plan(plan))
    await bench.lead.tell_hubs(RoundAborted, round=1, plan_hash=digest, reason="?")
    await bench.lead.until(lambda: len(bench.lead.all(HubSumPart)) > len(HUBS))
    assert not bench.lead.all(RoundAbandoned)
    assert (await bench.refused_nonce(await bench.lead.promises())).startswith("BaseAnsweredError")


# --- folders that were put back ---------------------------------------------------------------------


async def restarted(bench: Bench, hub: str) -> None:
    """Run ``hub`` until it ends by itself."""
    await asyncio.wait_for(bench.fleet.hub(hub).run(), 20)


@pytest.mark.parametrize("step", ["promised", "signed", "agreed"])
async def test_a_hub_put_back_to_an_older_folder_is_told_so_and_stops(
    open_mosquitto: BrokerHandle, tmp_path: Path, step: str
) -> None:
    """Otherwise it could sign, agree or certify again: hub 2 remembers what hub 1 has shown."""
    async with benches(open_mosquitto, tmp_path / "fleet") as bench:
        data, snapshot = bench.fleet.root / "hub-1" / "data", tmp_path / "snapshot"
        async with serving(bench.fleet.hub("hub-2")):
            async with serving(bench.fleet.hub("hub-1")):
                offers = await bench.lead.offers()
                plan = bench.fleet.plan(offers)
                if step != "promised":
                    await bench.lead.propose(plan)
                    for hub in HUBS:
                        await bench.lead.first(PlanSigned, hub)
                if step == "agreed":
                    await bench.summed(plan)
            shutil.copytree(data, snapshot)
            async with serving(bench.fleet.hub("hub-1")):
                await eventually(lambda: bench.lead.all(HubStatus, "hub-1")[-1].promise is not None)
                if step == "promised":
                    await bench.lead.propose(plan)
                    for hub in HUBS:
                        await bench.lead.first(PlanSigned, hub)
                if step != "agreed":
                    await bench.abandoned(plan)
                else:
                    digest = plan_hash(encode_plan(plan))
                    await bench.lead.tell_hubs(RoundCommitted, round=1, plan_hash=digest)
                    ended = bench.lead.all(HubStatus, "hub-1")[-1].position
                    await eventually(lambda: bench.lead.all(HubStatus, "hub-1")[-1].position > ended)
            newest = tmp_path / "newest"
            data.rename(newest)
            shutil.copytree(snapshot, data)
            bench.lead.heard.clear()
            with pytest.raises(LogBehindError, match="put the newest one back"):
                await restarted(bench, "hub-1")
            said = {type(one) for one in bench.lead.heard if one.sender == "hub-1"}
            assert said <= {HubStatus, PeerLog}
            assert all(one.promise is None for one in bench.lead.all(HubStatus, "hub-1"))
            # The newest folder works again.
            shutil.rmtree(data)
            newest.rename(data)
            async with serving(bench.fleet.hub("hub-1")):
                await eventually(
                    lambda: any(one.promise for one in bench.lead.all(HubStatus, "hub-1")), seconds=10
                )


async def test_a_peer_remembers_over_its_own_restart(open_mosquitto: BrokerHandle, tmp_path: Path) -> None:
    async with benches(open_mosquitto, tmp_path / "fleet") as bench:
        data, snapshot = bench.fleet.root / "hub-1" / "data", tmp_path / "snapshot"
        async with serving(*(bench.fleet.hub(name) for name in HUBS)):
            await bench.lead.offers()
        shutil.copytree(data, snapshot)
        async with serving(*(bench.fleet.hub(name) for name in HUBS)):
            await bench.lead.offers(base=OTHER_BASE)
        shutil.rmtree(data)
        shutil.copytree(snapshot, data)
        async with serving(bench.fleet.hub("hub-2")):
            with pytest.raises(LogBehindError):
                await restarted(bench, "hub-1")


async def test_a_history_that_forked_is_found_out_however_long_it_is(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        bench = await stack.enter_async_context(benches(open_mosquitto, tmp_path / "fleet"))
        peer = await stack.enter_async_context(played_hub(bench.fleet, "hub-2"))
        async with serving(bench.fleet.hub("hub-1")):
            await peer.drawn(bench.lead, "hub-1")
        peer.heads["hub-1"] = (1, b"\x01" * 32)
        with pytest.raises(LogForkedError, match="another name"):
            await restarted(bench, "hub-1")


async def test_a_hub_says_nothing_until_every_peer_has_said_what_it_knows(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with benches(open_mosquitto, tmp_path / "fleet") as bench, serving(bench.fleet.hub("hub-1")):
        await bench.lead.until(lambda: len(bench.lead.all(HubStatus, "hub-1")) > 2)
        assert all(one.promise is None for one in bench.lead.all(HubStatus, "hub-1"))
        async with serving(bench.fleet.hub("hub-2")):
            await bench.signed()


async def test_the_word_of_a_peer_that_fell_behind_is_not_believed(
    open_mosquitto: BrokerHandle, tmp_path: Path
) -> None:
    async with benches(open_mosquitto, tmp_path / "fleet") as bench:
        hub_1 = bench.fleet.hub("hub-1")
        async with played_hub(bench.fleet, "hub-2") as peer, serving(hub_1):
            plan = bench.fleet.plan(await peer.drawn(bench.lead, "hub-1"))
            digest = await bench.lead.propose(plan, "hub-1")
            await bench.lead.first(PlanSigned, "hub-1")
            status = bench.fleet.topics.hub("hub-2", "status")
            await peer.say(status, HubStatus, online=True, session=b"s" * 8, position=7, head=b"\x07" * 32)
            for position, head in ((6, b"\x06" * 32), (7, b"\x08" * 32), (0, b"")):
                hub_1.refused.clear()
                bond: dict[str, Any] = {"set_digest": bytes(32), "members": DEVICES}
                where = {"position": position, "head": head}
                await peer.say(peer.events, Agreement, round=1, plan_hash=digest, **bond, **where)
                await eventually(lambda: hub_1.refused["PeerBehindError"] > 0)


def test_the_set_digest_does_not_hang_on_the_order() -> None:
    promises = tuple(HubPromise(f"hub-{n}", bytes([n]) * 32, bytes(32), b"") for n in range(3))
    assert promise_set_digest(promises) == promise_set_digest(promises[::-1])
