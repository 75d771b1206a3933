"""Carries out what the machine of mode ``single`` decides, within one round of the coordinator."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.secagg.single.errors import LostWordsError, MasksClosedError
from shoal_codecs.secagg.single.masking import unmask_sum
from shoal_codecs.secagg.single.opening import mask_edges_of, reconstruct
from shoal_codecs.secagg.single.opening_records import Answer, Secrets
from shoal_codecs.secagg.single.server import SingleServer
from shoal_codecs.secagg.single.server_memory import sound_memory
from shoal_codecs.secagg.single.server_messages import (
    AskOpening,
    ConsentCame,
    Deliver,
    DeviceOut,
    Dismiss,
    GiveUp,
    KeepAnswer,
    KeepAsked,
    KeepConsent,
    KeepMembers,
    KeepShares,
    KeepSplit,
    MasksOpened,
    MasksShut,
    NameSurvivors,
    OpeningCame,
    OpenMasks,
    PublishedShares,
    ServerAction,
    ServerEvent,
    ServerResumed,
    ServerState,
    ServerTerms,
    ServerTick,
    SharesCame,
    VectorStored,
)
from shoal_codecs.security.sealing import unseal
from shoal_codecs.updates.keystream import Words
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.plan import Plan
from shoal_codecs.wire.single import Prekey, decode_opening, unmask_context
from shoal_coordinator import round_steps as on
from shoal_coordinator.round_parts import RunnerParts
from shoal_coordinator.single_files import SingleFiles

THREADS = 2
DeviceWord = wire.SingleShares | wire.SingleConsent | wire.SingleUnmask
log = structlog.get_logger()


class SingleDesk:
    """The machine of one round, its files and its timer.

    ``private`` is the coordinator's X25519 key of the round; ``feed`` takes events of the round's machine.
    """

    def __init__(
        self,
        parts: RunnerParts,
        plan: Plan,
        plan_hash: bytes,
        *,
        prekeys: tuple[Prekey, ...],
        files: SingleFiles,
        private: bytes,
        feed: Callable[[on.RoundEvent], Awaitable[None]],
    ) -> None:
        self.prekeys = prekeys
        self._parts = parts
        self._plan = plan
        self._plan_hash = plan_hash
        self._files = files
        self._private = private
        self._feed = feed
        self._closed = False
        self._fault = ""
        self._secrets: Secrets | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        keys = {device: parts.roster.party(device).key for device in plan.cohort}
        terms = ServerTerms(plan, plan_hash, prekeys, keys, parts.timings.resend_ms)
        memory = files.memory()
        self._masks_may_be_open = memory.asked
        try:
            self.server = SingleServer(terms, sound_memory(terms, memory))
        except LostWordsError as error:
            self._fault = f"{type(error).__name__}: {error}"
            self.server = SingleServer(terms)
            self.server.state = ServerState.FAILED

    # --- what comes in --------------------------------------------------------------------------

    async def start(self, stored: Iterable[str]) -> None:
        """Begin, or go on after a restart with the vectors of these devices ``stored``."""
        if self._fault:
            held = tuple(stored)
            log.warning("words lost", round=self._plan.round, remedy=self._fault)
            await self._give_up(self._fault, held if self._masks_may_be_open else ())
            return
        if self.server.memory.split is not None:
            await self._feed(on.SurvivorsNamed())
        for device in stored:
            await self.handle(VectorStored(device))
        await self.handle(ServerResumed())

    def takes(self, device: str) -> bool:
        """Return whether a masked vector of ``device`` has a place; a late one is dropped."""
        server = self.server
        return device in (server.members if server.state is ServerState.MASKING else server.alive)

    async def stored(self, device: str) -> None:
        """Note that a device's masked vector is durable."""
        await self.handle(VectorStored(device))

    async def out(self, device: str) -> None:
        """Note that a device takes no further part."""
        await self.handle(DeviceOut(device))

    async def hear(self, message: DeviceWord) -> None:
        """Take a device's word; one about another plan is late.

        Raises:
            SingleError, WireError, SecurityError: it does not fit.
        """
        if message.plan_hash != self._plan_hash:
            return
        device = message.sender
        match message:
            case wire.SingleShares(draw=draw, seed=seed, boxes=boxes):
                await self.handle(SharesCame(device, PublishedShares(draw, seed, boxes)))
            case wire.SingleConsent(signature=signature):
                await self.handle(ConsentCame(device, signature))
            case wire.SingleUnmask(sealed=sealed):
                context, public = unmask_context(self._plan_hash, device), self._plan.hubs[0].key
                clear = unseal(self._private, sealed, context, public)
                await self.handle(OpeningCame(device, Answer(*decode_opening(clear, self._plan.cohort))))

    async def handle(self, event: ServerEvent) -> None:
        """Give the machine an event and do what it says.

        Raises:
            SingleError: the event does not fit.
        """
        if self._closed:
            return
        for action in self.server.handle(event, self._parts.clock_ms()):
            await self._perform(action)
        self._set_timer()

    def close(self) -> None:
        """Stop the timer; the round goes on from its files at the next start, or is over."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()

    def clear(self) -> None:
        """Throw the files away; blocking."""
        self._files.clear()

    # --- the sum --------------------------------------------------------------------------------

    def unmasked(self, total: Words) -> Words:
        """Take the masks off ``total`` (uint[spec.words]), the sum of masked vectors, in place; blocking.

        Raises:
            MasksClosedError: the masks stay on.
            SecAggError: keys or words that are none of this round's.
        """
        server, secrets, single = self.server, self._secrets, self._plan.single
        if secrets is None or single is None:
            raise MasksClosedError(self._fault or "nothing came that opens the masks: see the devices' logs")
        unmask_sum(
            total,
            self._plan.codec.ring_bits,
            seeds=secrets.seeds,
            mask_privates=secrets.mask_privates,
            edges=mask_edges_of(server.holders, single.edges, server.alive, secrets.mask_privates),
            plan=self._plan,
            plan_hash=self._plan_hash,
            prekeys=self.prekeys,
            threads=THREADS,
        )
        return total

    def _reconstruct(self) -> Secrets:
        server = self.server
        return reconstruct(
            self._plan,
            self._plan_hash,
            self.prekeys,
            alive=server.alive,
            dead=server.dead,
            holders=server.holders,
            commitments={device: shares.seed for device, shares in server.memory.shares.items()},
            answers=dict(server.memory.answers),
        )

    # --- actions --------------------------------------------------------------------------------

    async def _perform(self, action: ServerAction) -> None:
        match action:
            case KeepShares() | KeepMembers() | KeepSplit() | KeepConsent() | KeepAnswer() | KeepAsked():
                await asyncio.to_thread(self._files.keep, action)
            case Deliver(device, members, draws, boxes):
                self._say(device, wire.SingleDelivery, members=members, draws=dict(draws), boxes=dict(boxes))
            case NameSurvivors(devices, split):
                for device in devices:
                    self._say(device, wire.SingleSurvivors, alive=split.alive, dead=split.dead)
                await self._feed(on.SurvivorsNamed())
            case AskOpening(device, split, signatures):
                self._say(
                    device,
                    wire.SingleUnmaskWanted,
                    alive=split.alive,
                    dead=split.dead,
                    signatures=dict(signatures),
                )
            case OpenMasks():
                self._opening = asyncio.create_task(self._open())
            case Dismiss(devices, reason):
                for device in devices:
                    self._say(device, wire.Cancel, reason=reason)
            case GiveUp(reason, asked):
                await self._give_up(reason, self.server.alive if asked else ())

    async def _open(self) -> None:
        event: ServerEvent = MasksOpened()
        fault: Exception | None = None
        try:
            self._secrets = await asyncio.to_thread(self._reconstruct)
        except ShoalError as error:
            event = MasksShut(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - raised again where it ends the process
            fault = error

        async def tell() -> None:
            if fault is not None:
                raise fault
            await self.handle(event)
            if self._secrets is not None and not self._closed:
                await self._feed(on.MasksOpened(self.server.alive))

        self._parts.enqueue(tell)

    async def _give_up(self, reason: str, opened: tuple[str, ...]) -> None:
        """End the round; ``opened`` are devices whose masks may be open, nobody where none can be."""
        if not opened:
            await self._feed(on.GivenUp(reason))
            return
        # There must be no second sum on this base, so a version follows that moves nothing.
        self._fault = reason
        await self._feed(on.MasksOpened(opened))

    def _say(self, device: str, kind: type[Any], **fields: Any) -> None:
        self._parts.announcer.device(
            device, kind, round=self._plan.round, plan_hash=self._plan_hash, **fields
        )

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        wake_ms = self.server.wake_ms
        if wake_ms is None or self._closed:
            return
        delay_s = max(0, wake_ms - self._parts.clock_ms()) / 1000
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(delay_s, self._parts.enqueue, self._tick)

    async def _tick(self) -> None:
        if self._closed:
            return
        if self._parts.is_connected():
            await self.handle(ServerTick())
            return
        # Nobody can answer while the broker is away.
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(1.0, partial(self._parts.enqueue, self._tick))
