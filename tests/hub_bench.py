"""A small fleet for hub tests: real keys, roster, posts, links and reports; numbers drawn at random."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from brokers import running
from shoal_codecs.secagg.additive import combine, split
from shoal_codecs.secagg.agreement import sum_context
from shoal_codecs.secagg.hub_floors import HubFloors
from shoal_codecs.secagg.share_seed import new_share_seed
from shoal_codecs.security.identity import Identity, create_identity
from shoal_codecs.security.post import Post
from shoal_codecs.security.roster import Party, RosterBody, load_roster, sign_roster
from shoal_codecs.security.sealing import new_sealing_key, seal, unseal
from shoal_codecs.transport.link import Link
from shoal_codecs.transport.messages import Delivery
from shoal_codecs.transport.settings import LinkSettings
from shoal_codecs.updates.keystream import Words
from shoal_codecs.updates.plan_ring import ring_spec
from shoal_codecs.updates.ring import pack_ring, unpack_ring
from shoal_codecs.wire.blob import digest_of
from shoal_codecs.wire.hubs import (
    HubPromise,
    NeverReleased,
    challenge_digest,
    promise_of,
    promise_set_digest,
    promise_signing_bytes,
)
from shoal_codecs.wire.messages import (
    AnyMessage,
    HubStatus,
    HubSumPart,
    Message,
    NonceRevealed,
    PeerLog,
    PlanProposal,
    ReportPart,
    RevealWanted,
    RoundAbandoned,
)
from shoal_codecs.wire.plan import (
    CodecPlan,
    HubOffer,
    Plan,
    TrainingPlan,
    encode_plan,
    plan_hash,
    plan_signing_bytes,
    whole_share_place,
)
from shoal_codecs.wire.report import (
    Report,
    encode_report,
    report_id,
    report_signing_bytes,
    share_context,
)
from shoal_codecs.wire.topics import Topics
from shoal_coordinator.hub.config import HubSettings
from shoal_coordinator.hub.service import HubService

M = TypeVar("M", bound=Message)
FLEET = "test"
HUBS = ("hub-1", "hub-2")
DEVICES = ("device-01", "device-02", "device-03", "device-04")
BITS = 12
BASE = hashlib.sha256(b"base").digest()


class Fleet:
    """Everybody's keys and folders under ``root``, and what a coordinator and devices would make."""

    def __init__(self, root: Path, url: str, hubs: tuple[str, ...] = HUBS) -> None:
        self.root, self.url, self.hubs = root, url, hubs
        self.topics = Topics(FLEET)
        authority = Identity("authority", os.urandom(32))
        self.people = {
            name: create_identity(name, root / name / "identity.key")
            for name in ("coordinator", "operator", *hubs, *DEVICES)
        }
        parties = tuple(Party(name, self._role(name), one.public) for name, one in self.people.items())
        for name in self.people:
            (root / name / "authority.pub").write_bytes(authority.public)
            (root / name / "roster.bin").write_bytes(sign_roster(RosterBody(FLEET, 1, parties), authority))
        self.roster = load_roster(root / "hub-1" / "roster.bin", root / "hub-1" / "authority.pub", FLEET)

    @staticmethod
    def _role(name: str) -> Any:
        return name.partition("-")[0]

    def post(self, name: str) -> Post:
        return Post(self.topics, self.people[name], self.roster)

    def settings(self, hub: str, **floors: Any) -> HubSettings:
        return HubSettings(
            name=hub,
            fleet=FLEET,
            folder=str(self.root / hub),
            link=LinkSettings(url=self.url, backoff_min_s=0.05, backoff_max_s=0.5),
            floors=HubFloors(**floors),
        )

    def hub(self, name: str, **floors: Any) -> HubService:
        return HubService(self.settings(name, **floors), self.people[name], self.roster)

    def plan(self, offers: dict[str, HubOffer], number: int = 1, **changes: Any) -> Plan:
        now_ms = int(time.time() * 1000)
        fields: dict[str, Any] = {
            "mode": "hubs",
            "fleet": FLEET,
            "round": number,
            "task": bytes(32),
            "base": BASE,
            "roster": self.roster.digest,
            "cohort": DEVICES,
            "hubs": tuple(offers[hub] for hub in self.hubs),
            "codec": CodecPlan("randk", 200, 50, 4.0, 12, BITS, 150),
            "training": TrainingPlan(1, 0.1, 8),
            "n_min": 4,
            "n_max": 4,
            "quorum": 4,
            "patience_ms": 200,
            "opens_ms": now_ms - 1000,
            "closes_ms": now_ms + 30_000,
        }
        return Plan(**(fields | changes))


class Update:
    """One device's update, shared, sealed and signed for every hub of a plan."""

    def __init__(self, fleet: Fleet, plan: Plan, device: str, seed: int = 1, levels: int = 1 << BITS) -> None:
        spec = ring_spec(plan)
        rng = np.random.default_rng([seed, DEVICES.index(device)])
        self.device, self.plan = device, plan
        self.words: Words = rng.integers(0, levels, spec.words).astype(np.uint16)
        digest = plan_hash(encode_plan(plan))
        shares = [new_share_seed() for _ in plan.hubs[1:]]
        whole = whole_share_place(plan, device) if device in plan.cohort else 0
        first = split(self.words, BITS, len(plan.hubs), shares, digest, device, whole + 1)
        shares.insert(whole, pack_ring(first, BITS))
        sealed = [
            seal(offer.key, share, share_context(digest, device, offer.hub))
            for offer, share in zip(plan.hubs, shares, strict=True)
        ]
        self._bind(fleet, digest, sealed)

    def _bind(self, fleet: Fleet, digest: bytes, sealed: list[bytes]) -> None:
        hashes = tuple(digest_of(one) for one in sealed)
        self.id = report_id(digest, self.device, hashes)
        signature = fleet.people[self.device].sign(report_signing_bytes(digest, self.device, hashes))
        self.reports = {
            offer.hub: Report(memoryview(one), (*hashes[:n], *hashes[n + 1 :]), signature)
            for n, (offer, one) in enumerate(zip(self.plan.hubs, sealed, strict=True))
        }

    def with_shares(self, fleet: Fleet, *shares: bytes) -> Update:
        """Carry other shares, properly sealed and signed."""
        digest = plan_hash(encode_plan(self.plan))
        sealed = [
            seal(offer.key, share, share_context(digest, self.device, offer.hub))
            for offer, share in zip(self.plan.hubs, shares, strict=True)
        ]
        self._bind(fleet, digest, sealed)
        return self


class Voice:
    """A link and a post that remember what they heard and believed."""

    def __init__(self, fleet: Fleet, link: Link, name: str) -> None:
        self.fleet, self.link, self.name = fleet, link, name
        self.post = fleet.post(name)
        self.heard: list[AnyMessage] = []
        self.hubs = fleet.hubs
        self.asked: set[bytes] = set()
        self._news = asyncio.Event()

    async def listen(self, delivery: Delivery) -> None:
        _, message = self.post.open(delivery.topic, delivery.payload)
        self.heard.append(message)
        self._news.set()

    def all(self, kind: type[M], sender: str = "", number: int = 0) -> list[M]:
        return [
            one
            for one in self.heard
            if isinstance(one, kind)
            and sender in {"", one.sender}
            and number in {0, getattr(one, "round", 0)}
        ]

    async def until(self, condition: Callable[[], Any], seconds: float = 15) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                self._news.clear()
                await self._news.wait()

    async def first(self, kind: type[M], sender: str = "", number: int = 0) -> M:
        await self.until(lambda: self.all(kind, sender, number))
        return self.all(kind, sender, number)[0]

    async def say(self, topic: str, kind: type[Message], **fields: Any) -> None:
        message: Any = self.post.compose(kind, **fields)
        await self.link.publish(topic, self.post.encode(topic, message))

    async def tell_hubs(self, kind: type[Message], *hubs: str, **fields: Any) -> None:
        for hub in hubs or self.hubs:
            await self.say(self.fleet.topics.hub(hub, "control"), kind, **fields)

    async def propose(self, plan: Plan, *hubs: str, **changes: Any) -> bytes:
        """Propose ``plan``, signed as the coordinator signs, with all certificates; return its hash."""
        data = encode_plan(plan)
        fields: dict[str, Any] = {
            "plan": data,
            "signature": self.fleet.people["coordinator"].sign(plan_signing_bytes(data)),
            "certificates": self.certificates(),
        }
        await self.tell_hubs(PlanProposal, *hubs, **(fields | changes))
        return plan_hash(data)

    def certificates(self) -> tuple[NeverReleased, ...]:
        """Return what hubs have certified, as a coordinator passes it on."""
        by_plan: dict[bytes, dict[str, bytes]] = {}
        for one in self.all(RoundAbandoned):
            by_plan.setdefault(one.plan_hash, {})[one.sender] = one.certificate
        return tuple(NeverReleased(digest, signatures) for digest, signatures in by_plan.items())

    async def promises(self) -> tuple[HubPromise, ...]:
        """Return what every hub promises, once each promises something that was not asked for before."""

        def newest() -> dict[str, HubPromise]:
            found = {one.sender: one.promise for one in self.all(HubStatus) if one.promise is not None}
            return {hub: one for hub, one in found.items() if one.key not in self.asked}

        await self.until(lambda: newest().keys() >= set(self.hubs))
        return tuple(newest()[hub] for hub in self.hubs)

    async def offers(self, base: bytes = BASE, task: bytes = bytes(32)) -> dict[str, HubOffer]:
        """Have every hub show what it promises to a plan on ``base`` and return it as plans name it."""
        promises = await self.promises()
        self.asked |= {one.key for one in promises}
        await self.tell_hubs(RevealWanted, *self.hubs, task=task, base=base, promises=promises)
        return await self.shown(promises)

    async def offers_again(self, promises: tuple[HubPromise, ...]) -> dict[str, HubOffer]:
        """Ask once more for what stands behind ``promises``."""
        self.heard = [one for one in self.heard if not isinstance(one, NonceRevealed)]
        await self.tell_hubs(RevealWanted, *self.hubs, task=bytes(32), base=BASE, promises=promises)
        return await self.shown(promises)

    async def shown(self, promises: tuple[HubPromise, ...]) -> dict[str, HubOffer]:
        """Return the offers behind ``promises`` once all of them are shown."""
        digest = promise_set_digest(promises)

        def nonces() -> dict[str, NonceRevealed]:
            return {one.sender: one for one in self.all(NonceRevealed) if one.set_digest == digest}

        asked = [one for one in promises if one.hub in self.hubs]
        await self.until(lambda: nonces().keys() >= {one.hub for one in asked})
        return {
            one.hub: HubOffer(one.hub, one.key, nonces()[one.hub].nonce, nonces()[one.hub].challenge)
            for one in asked
        }

    async def report(self, update: Update, *hubs: str, part_bytes: int = 65536, **changes: Any) -> None:
        """Send an update's reports, in parts."""
        for hub in hubs or self.hubs:
            data = encode_report(changes.get("report") or update.reports[hub])
            pieces = [data[start : start + part_bytes] for start in range(0, len(data), part_bytes)]
            topic = self.fleet.topics.report(hub, update.device)
            for index, piece in enumerate(pieces):
                part = ReportPart(
                    protocol=1,
                    sender=changes.get("sender", update.device),
                    message_id=os.urandom(8),
                    sent_ms=0,
                    round=changes.get("round", update.plan.round),
                    index=index,
                    count=len(pieces),
                    data=memoryview(piece),
                )
                await self.link.publish(topic, self.post.encode(topic, part))

    def opened_sum(self, plan: Plan) -> Words:
        """Return the sum of the updates from all hubs' sums, opened as the coordinator opens them."""
        digest, count = plan_hash(encode_plan(plan)), ring_spec(plan).words
        private = self.fleet.people["coordinator"].sealing_private()
        sums = []
        for hub in self.hubs:
            part = self.all(HubSumPart, hub, plan.round)[0]
            assert (part.index, part.count, part.plan_hash) == (0, 1, digest)
            clear = unseal(private, part.data, sum_context(digest, part.set_digest, hub))
            sums.append(unpack_ring(clear, count, BITS))
        return combine(sums, BITS)


class PlayedHub(Voice):
    """A hub that the test plays: it tells real hubs what it knows of their logs, and promises.

    ``heads`` is what it knows: (position, head) by hub.
    """

    def __init__(self, fleet: Fleet, link: Link, name: str) -> None:
        super().__init__(fleet, link, name)
        self.heads: dict[str, tuple[int, bytes]] = {}
        self.private, public = new_sealing_key()
        challenge = challenge_digest(os.urandom(32))
        self.offer = HubOffer(name, public, os.urandom(32), challenge)
        self.promise = self.signed(promise_of(self.offer))

    def signed(self, promise: HubPromise) -> HubPromise:
        """Return ``promise`` with this hub's signature."""
        signed = promise_signing_bytes(FLEET, promise.hub, promise.key, promise.commitment)
        return HubPromise(promise.hub, promise.key, promise.commitment, self.post.identity.sign(signed))

    async def listen(self, delivery: Delivery) -> None:
        await super().listen(delivery)
        status = self.heard[-1]
        if isinstance(status, HubStatus) and status.online and status.sender != self.name:
            position, head = self.heads.get(status.sender, (0, b""))
            await self.say(
                self.events, PeerLog, hub=status.sender, session=status.session, position=position, head=head
            )

    @property
    def events(self) -> str:
        return self.fleet.topics.hub(self.name, "events")

    async def drawn(self, lead: Voice, *real: str, base: bytes = BASE) -> dict[str, HubOffer]:
        """Have ``lead`` ask the ``real`` hubs for their nonces beside this one's; return all offers."""
        lead.hubs = real
        promises = (*await lead.promises(), self.promise)
        lead.asked |= {one.key for one in promises}
        await lead.tell_hubs(RevealWanted, *real, task=bytes(32), base=base, promises=promises)
        return await lead.shown(promises) | {self.name: self.offer}


@contextlib.asynccontextmanager
async def played_hub(fleet: Fleet, name: str) -> AsyncIterator[PlayedHub]:
    """A connected hub that the test plays and that hears all others."""
    made: list[PlayedHub] = []

    async def prepare(link: Link) -> None:
        made.append(PlayedHub(fleet, link, name))
        for hub in fleet.hubs:
            if hub != name:
                await link.subscribe(fleet.topics.hub(hub, "events"), made[0].listen)
                await link.subscribe(fleet.topics.hub(hub, "status"), made[0].listen)

    async with running(fleet.url, name, prepare=prepare):
        yield made[0]


@contextlib.asynccontextmanager
async def party(fleet: Fleet, name: str, *filters: str, post_as: str = "") -> AsyncIterator[Voice]:
    """A connected party called ``name`` that hears ``filters`` (below the prefix)."""
    made: list[Voice] = []

    async def prepare(link: Link) -> None:
        made.append(Voice(fleet, link, post_as or name))
        for one in filters:
            await link.subscribe(f"{fleet.topics.prefix}/{one}", made[0].listen)

    async with running(fleet.url, name, prepare=prepare):
        yield made[0]


@contextlib.asynccontextmanager
async def coordinator(fleet: Fleet) -> AsyncIterator[Voice]:
    async with party(fleet, "coordinator", "hubs/+/status", "hubs/+/events") as one:
        yield one


@contextlib.asynccontextmanager
async def serving(*hubs: HubService) -> AsyncIterator[None]:
    """Hubs that run."""
    tasks = [asyncio.create_task(hub.run()) for hub in hubs]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome


def total(updates: list[Update]) -> Words:
    """Return the sum modulo 2**12 of the updates' words."""
    added = np.sum([one.words.astype(np.uint32) for one in updates], axis=0) % (1 << BITS)
    return np.asarray(added, dtype=np.uint16)
