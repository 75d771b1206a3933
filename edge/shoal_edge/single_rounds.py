"""A device's side of mode ``single``: performs what its machine decides, one thing after the other.

Key bundles are parked, the machine's memory is on disk before anything of it is said, and the heavy work is
the worker's. A word that the machine refuses is logged and changes nothing.
"""

import asyncio
import os
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.secagg.single.bundles import make_bundle
from shoal_codecs.secagg.single.device import SingleDevice
from shoal_codecs.secagg.single.device_messages import (
    BoxesOpened,
    DeliveryCame,
    DeviceAction,
    DeviceEvent,
    DeviceMemory,
    DeviceState,
    DeviceTerms,
    Keep,
    MakeShares,
    MaskVector,
    OpenBoxes,
    Resumed,
    SayConsent,
    SayOpening,
    SayShares,
    SharesMade,
    Split,
    SurvivorsNamed,
    UnmaskAsked,
    VectorMasked,
)
from shoal_codecs.secagg.single.errors import UnknownBundleError
from shoal_codecs.secagg.single.neighbours import drawn_by
from shoal_codecs.secagg.single.sharing_records import MadeShares, Neighbourly
from shoal_codecs.security.post import Post
from shoal_codecs.security.sealing import seal
from shoal_codecs.transport.errors import LinkClosedError
from shoal_codecs.transport.link import Link
from shoal_codecs.wire.messages import (
    AnyMessage,
    Prekeys,
    SingleConsent,
    SingleDelivery,
    SingleShares,
    SingleSurvivors,
    SingleUnmask,
    SingleUnmaskWanted,
)
from shoal_codecs.wire.packing import pack, unpack
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey, consent_bytes, encode_opening, unmask_context
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import PlanMissingError, StoreError, fault_name
from shoal_edge.round_events import Event, Failed, Job, MembersKnown
from shoal_edge.single_check import check_masks_closed, check_single
from shoal_edge.single_records import Masks
from shoal_edge.single_store import Session, SingleStore
from shoal_edge.worker_client import Worker

WORK_LIMIT_S = 120.0
MOST_WAIT_S = 30.0
SingleWord = SingleDelivery | SingleSurvivors | SingleUnmaskWanted

log = structlog.get_logger()


class SingleRounds:
    """``tell`` enqueues an event of the round, ``note_fault`` hears the name of each fault.

    ``fault`` makes the event of one that ends the round, in words that may leave the device.
    """

    def __init__(
        self,
        *,
        settings: EdgeSettings,
        post: Post,
        link: Link,
        store: SingleStore,
        worker: Worker,
        note_fault: Callable[[str], None],
    ) -> None:
        self.tell: Callable[[Event], None] = lambda _: None
        self.fault: Callable[[Job, ShoalError], Failed] = _failed
        self._settings = settings
        self._post = post
        self._link = link
        self._store = store
        self._worker = worker
        self._note_fault = note_fault
        self._job: Job | None = None
        self._machine: SingleDevice | None = None
        # What the machine decides last must be on the disk last.
        self._turn = asyncio.Lock()
        self._events: asyncio.Queue[tuple[bytes, DeviceEvent]] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._parking: set[asyncio.Task[None]] = set()

    # --- key bundles ----------------------------------------------------------------------------

    async def park(self) -> None:
        """Keep enough unused bundles and show them all, retained.

        Raises:
            StoreError: the disk does not take fresh ones.
        """
        if "single" not in self._settings.modes:
            return
        wanted = self._settings.parked_bundles
        if 2 * len(self._store.bundles) < wanted:
            identity, fleet = self._post.identity, self._post.topics.fleet
            fresh = [
                make_bundle(identity, fleet, os.urandom) for _ in range(wanted - len(self._store.bundles))
            ]
            await asyncio.to_thread(self._store.add_bundles, fresh)
        topic = self._post.topics.prekeys(self._post.identity.name)
        shown = tuple(bundle.prekey for bundle in self._store.bundles)
        await self._link.publish(
            topic, self._post.encode(topic, self._post.compose(Prekeys, bundles=shown)), retain=True
        )

    def check(self, job: Job, plan: Plan, prekeys: tuple[Prekey, ...]) -> None:
        """Check a plan of any mode: its base, and what one of mode ``single`` promises beside.

        Raises what ``check_masks_closed`` and ``check_single`` raise.
        """
        session = self._store.session
        if session is not None and session.plan_hash == job.plan_hash:
            # A second copy of a plan that was taken: its bundle is the round's now.
            return
        check_masks_closed(plan, self._store)
        check_single(
            plan,
            prekeys,
            device=self._post.identity.name,
            roster=self._post.roster,
            store=self._store,
            corrupt_share=self._settings.corrupt_share,
            dropout_share=self._settings.dropout_share,
        )

    async def take_bundle(self, job: Job, prekeys: tuple[Prekey, ...]) -> None:
        """Spend the bundle that the plan names.

        Raises:
            UnknownBundleError: it was spent meanwhile.
            StoreError: the disk does not take it.
        """
        plan, name = _plan_of(job), self._post.identity.name
        await asyncio.to_thread(self._store.begin, plan, job.plan_hash, name, prekeys)
        # Aside from the round, which may be over before the broker has heard of it.
        self._aside(self._said(job, self.park()), self._parking)

    # --- one round ------------------------------------------------------------------------------

    async def resume(self, job: Job, *, reported: bool) -> None:
        """Begin the round, or go on with it after a restart; ``reported`` if its masked vector is durable.

        Raises:
            UnknownBundleError: the round's secrets are not here any more.
            StoreError: the disk does not take what follows.
        """
        async with self._turn:
            await self._resume(job, reported=reported)

    async def _resume(self, job: Job, *, reported: bool) -> None:
        session, plan = self._session(job), _plan_of(job)
        name, roster = self._post.identity.name, self._post.roster
        neighbours = drawn_by(name, session.bundle.nonce, session.bundle.prekey, plan, job.plan_hash)
        opened = self._store.opened(session.base)
        terms = DeviceTerms(
            device=name,
            plan=plan,
            plan_hash=job.plan_hash,
            neighbours=neighbours,
            keys={one: roster.party(one).key for one in neighbours},
            base_opened=opened not in {None, job.plan_hash},
        )
        self._job, self._machine = job, SingleDevice(terms, session.memory)
        if reported and self._machine.state is DeviceState.MASKING:
            await self._perform(job, self._machine.handle(VectorMasked()))
        self._events.put_nowait((job.plan_hash, Resumed()))

    def hear(self, message: SingleWord) -> None:
        """Take a word of the coordinator; one about another round is late."""
        event: DeviceEvent
        match message:
            case SingleDelivery(members=members, draws=draws, boxes=boxes):
                event = DeliveryCame(members, draws, boxes)
            case SingleSurvivors(alive=alive, dead=dead):
                event = SurvivorsNamed(Split(alive, dead))
            case SingleUnmaskWanted(alive=alive, dead=dead, signatures=signatures):
                event = UnmaskAsked(Split(alive, dead), signatures)
        self._events.put_nowait((message.plan_hash, event))

    def masks(self, job: Job) -> bytes:
        """Return what the worker masks the round's vector with, packed.

        Raises:
            UnknownBundleError: the round's secrets are not here any more.
        """
        session = self._session(job)
        shares, near = session.memory.shares, session.memory.neighbourly
        if shares is None or near is None or session.memory.masked:
            # Two vectors under one mask would show their difference.
            raise UnknownBundleError("no masks to put on: they are used once, and for one vector")
        return pack(Masks(shares.seed, session.bundle.mask_private, near.peers, session.prekeys))

    async def masked(self, job: Job) -> None:
        """Note that the masked vector is durable; from now on it may leave."""
        async with self._turn:
            if self._machine is not None and self._machine.state is DeviceState.MASKING:
                await self._perform(job, self._machine.handle(VectorMasked()))

    async def forget(self, plan_hash: bytes) -> None:
        """End a round: its secrets are destroyed."""
        async with self._turn:
            if self._job is not None and self._job.plan_hash == plan_hash:
                self._job = self._machine = None
                for task in self._tasks:
                    task.cancel()
            await asyncio.to_thread(self._store.forget, plan_hash)

    async def forget_others(self, plan_hash: bytes) -> None:
        """Destroy what a power cut has left of any round but that of the plan with this hash."""
        session = self._store.session
        if session is not None and session.plan_hash != plan_hash:
            await self.forget(session.plan_hash)

    async def run(self) -> None:
        """Do what is heard, in order, until cancelled."""
        try:
            while True:
                plan_hash, event = await self._events.get()
                async with self._turn:
                    await self._take(plan_hash, event)
        finally:
            tasks = [*self._tasks, *self._parking]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _take(self, plan_hash: bytes, event: DeviceEvent) -> None:
        job, machine = self._job, self._machine
        if job is None or machine is None or job.plan_hash != plan_hash:
            return
        try:
            await self._perform(job, machine.handle(event))
        except StoreError as error:
            self._note_fault(fault_name(error))
            self.tell(Failed(job.plan_hash, f"{fault_name(error)}: {error}"))
        except ShoalError as error:
            self._refuse(job, error)

    # --- actions --------------------------------------------------------------------------------

    async def _keep(self, memory: DeviceMemory) -> None:
        try:
            await asyncio.to_thread(self._store.keep, memory)
        except StoreError:
            # It remembers what the disk does not: whatever it said now could be contradicted after a restart.
            self._machine = None
            raise

    async def _perform(self, job: Job, actions: tuple[DeviceAction, ...]) -> None:
        for action in actions:
            match action:
                case Keep(memory):
                    await self._keep(memory)
                case MakeShares():
                    self._aside(self._done(job, self._make_shares(job)), self._tasks)
                case SayShares(shares):
                    self._aside(self._say_shares(job, shares), self._tasks)
                case OpenBoxes():
                    self._aside(self._done(job, self._open_boxes(job, action)), self._tasks)
                case MaskVector():
                    self.tell(MembersKnown(job.plan_hash))
                case SayConsent(split):
                    signed = consent_bytes(job.plan_hash, split.alive, split.dead)
                    self._say(job, "consent", SingleConsent, signature=self._post.identity.sign(signed))
                case SayOpening(opening):
                    offer = _plan_of(job).hubs[0]
                    context = unmask_context(job.plan_hash, self._post.identity.name)
                    sealed = seal(offer.key, encode_opening(opening), context)
                    self._say(job, "unmask", SingleUnmask, sealed=sealed)

    async def _make_shares(self, job: Job) -> None:
        answer = await self._work(job, "single_shares")
        self._events.put_nowait((job.plan_hash, SharesMade(unpack(answer["shares"], MadeShares))))

    async def _open_boxes(self, job: Job, boxes: OpenBoxes) -> None:
        answer = await self._work(
            job,
            "single_boxes",
            members=boxes.members,
            draws=dict(boxes.draws),
            boxes=dict(boxes.boxes),
        )
        found = unpack(answer["neighbourly"], Neighbourly)
        if found.unopened:
            log.warning("boxes_unopened", round=job.round, senders=list(found.unopened), fault="BoxError")
        self._events.put_nowait((job.plan_hash, BoxesOpened(found)))

    async def _work(self, job: Job, do: str, **arguments: Any) -> dict[str, Any]:
        session = self._session(job)
        return await self._worker.request(
            do,
            WORK_LIMIT_S,
            plan=job.plan_bytes,
            device=self._post.identity.name,
            own=pack(session.bundle),
            prekeys=pack(session.prekeys),
            **arguments,
        )

    async def _say_shares(self, job: Job, shares: MadeShares) -> None:
        """Send the boxes again and again, ever more seldom, until the members are named."""
        wait_s, nonce = self._settings.resend_s, self._session(job).bundle.nonce
        while self._machine is not None and self._machine.state is DeviceState.SHARED:
            fields = {"draw": nonce, "seed": shares.commitment, "boxes": shares.boxes}
            await self._said(job, self._publish(job, "shares", SingleShares, **fields))
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, MOST_WAIT_S)

    def _say(self, job: Job, phase: str, kind: type[Any], **fields: Any) -> None:
        self._aside(self._said(job, self._publish(job, phase, kind, **fields)), self._tasks)

    async def _publish(self, job: Job, phase: str, kind: type[Any], **fields: Any) -> None:
        topic = self._post.topics.single(job.round, phase, self._post.identity.name)
        message: AnyMessage = self._post.compose(kind, round=job.round, plan_hash=job.plan_hash, **fields)
        await self._link.publish(topic, self._post.encode(topic, message))

    async def _done(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        """Do work that the round cannot do without; a fault ends it for this device."""
        try:
            await work
        except ShoalError as error:
            self.tell(self.fault(job, error))

    async def _said(self, job: Job, work: Coroutine[Any, Any, None]) -> None:
        """Send what is sent again when it is asked for again, or the next time there is occasion."""
        try:
            await work
        except LinkClosedError:
            return
        except ShoalError as error:
            self._note_fault(fault_name(error))
            log.warning("message_not_sent", round=job.round, fault=fault_name(error), remedy=str(error))

    @staticmethod
    def _aside(work: Coroutine[Any, Any, None], tasks: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    def _refuse(self, job: Job, error: ShoalError) -> None:
        name = fault_name(error)
        self._post.refused[name] += 1
        self._note_fault(name)
        log.warning("message_refused", round=job.round, fault=name, remedy=str(error))

    def _session(self, job: Job) -> Session:
        session = self._store.session
        if session is None or session.plan_hash != job.plan_hash:
            raise UnknownBundleError(
                "the secrets of this round are not here any more: nothing was sent that needs them"
            )
        return session


def _failed(job: Job, error: ShoalError) -> Failed:
    return Failed(job.plan_hash, f"{fault_name(error)}: {error}")


def _plan_of(job: Job) -> Plan:
    if job.plan is None:
        raise PlanMissingError("no plan to share secrets by: report this as a defect")
    return job.plan
