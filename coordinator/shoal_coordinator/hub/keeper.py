"""The rounds of a hub: reports checked and stored, believed words made events.

Everything runs under the performer's lock, so that a round cannot close between a report's check and its
storing.
"""

import asyncio
from typing import TYPE_CHECKING

import structlog

from shoal_codecs.secagg.hub_errors import SecondReportError, UninvitedReportError
from shoal_codecs.secagg.hub_messages import (
    Aborted,
    Committed,
    Event,
    PeerAbandoned,
    PeerAgreement,
    PeerSet,
    Reminded,
    ReportStored,
    State,
    Tick,
)
from shoal_codecs.secagg.report_opening import name_report, open_report
from shoal_codecs.secagg.share_seed import open_share_seed
from shoal_codecs.security.post import Post
from shoal_codecs.wire.messages import (
    Agreement,
    AnyMessage,
    HubChallenge,
    HubProjections,
    PlanProposal,
    ReportPart,
    ReportSet,
    RevealWanted,
    RoundAbandoned,
    RoundAborted,
    RoundCommitted,
)
from shoal_codecs.wire.plan import Plan, decode_plan, plan_hash
from shoal_coordinator.hub import norms
from shoal_coordinator.hub.config import HubSettings
from shoal_coordinator.hub.errors import LateReportError, UnknownRoundError
from shoal_coordinator.hub.live import LiveRound
from shoal_coordinator.hub.performer import Durably, RoundPerformer
from shoal_coordinator.hub.plan_desk import PlanDesk
from shoal_coordinator.hub.store import KEEP_FINISHED, HubStore, StoredRound

if TYPE_CHECKING:
    from shoal_coordinator.hub.sums import WholeShares
    from shoal_coordinator.running_sum import RunningSum

log = structlog.get_logger()
CREDIT_EVERY = 8
RUNNING_BYTES = 512 * 1024 * 1024
"""What the running sums of all rounds may take; a round without one opens its reports again at the end."""


class RoundKeeper:
    """All rounds this hub takes part in."""

    def __init__(
        self,
        settings: HubSettings,
        post: Post,
        store: HubStore,
        durably: Durably,
        performer: RoundPerformer,
        desk: PlanDesk,
    ) -> None:
        self._settings = settings
        self._name = post.identity.name
        self._post = post
        self._store = store
        self._durably = durably
        self._performer = performer
        self._desk = desk
        self._rounds: dict[bytes, LiveRound] = {}

    @property
    def waiting(self) -> bool:
        """Whether time can change anything."""
        return any(not live.machine.idle for live in self._rounds.values())

    async def restore(self) -> None:
        """Go on from the log."""
        for stored in await self._durably(self._store.rounds):
            plan = decode_plan(stored.plan)
            self._rounds[stored.plan_hash] = live = await self._live(plan, stored)
            if not live.machine.finished:
                log.info("round_resumed", round=plan.round, state=live.machine.state.value)

    async def remind(self) -> None:
        """Say the latest word of every round that is not over again."""
        async with self._performer.lock:
            for live in [live for live in self._rounds.values() if not live.machine.idle]:
                await self._performer.feed(live, Reminded())

    async def tick(self) -> None:
        """Let time pass."""
        async with self._performer.lock:
            for live in [live for live in self._rounds.values() if not live.machine.idle]:
                await self._performer.feed(live, Tick(self._performer.now_ms()))

    # --- what the coordinator and the peers say -------------------------------------------------

    async def hear(self, message: AnyMessage) -> None:
        """Take a believed message of the coordinator or of a peer.

        Raises:
            UnknownRoundError: of a plan this hub did not sign.
            HubRoundError: it cannot be true in the state the round is in.
        """
        event: Event
        match message:
            case RevealWanted():
                async with self._performer.lock:
                    await self._desk.hear_wanted(message)
                return
            case PlanProposal():
                await self._hear_proposal(message)
                return
            case RoundCommitted():
                event = Committed()
            case RoundAborted():
                event = Aborted(message.reason, self._performer.now_ms())
            case ReportSet():
                event = PeerSet(message.sender, message.reports)
            case Agreement():
                now_ms = self._performer.now_ms()
                event = PeerAgreement(message.sender, message.set_digest, message.members, now_ms)
            case RoundAbandoned():
                event = PeerAbandoned(message.sender)
            case HubChallenge() | HubProjections():
                await self._hear_norms(message)
                return
            case _:
                return
        async with self._performer.lock:
            live = self._rounds.get(message.plan_hash)
            if live is None and isinstance(message, RoundAborted):
                await self._desk.renounce(message)
                return
            if live is None:
                raise UnknownRoundError(
                    f"this hub signed no such plan of round {message.round}: if this repeats, see "
                    "whether a folder was put back to an older state"
                )
            await self._performer.feed(live, event)

    async def _hear_norms(self, message: HubChallenge | HubProjections) -> None:
        async with self._performer.lock:
            live = self._rounds.get(message.plan_hash)
            if live is None or message.sender not in live.machine.terms.peers:
                raise UnknownRoundError(
                    f"{message.sender} checks norms in round {message.round}, which it has no part in here: "
                    "look at that hub's folder"
                )
            event: Event | None
            if isinstance(message, HubChallenge):
                event = norms.hear_challenge(live, message)
            else:
                event = norms.hear_projections(live, message)
            if event is not None:
                await self._performer.feed(live, event)

    async def _hear_proposal(self, message: PlanProposal) -> None:
        """Sign a plan and begin its round; a plan that is signed already gets its latest word again."""
        async with self._performer.lock:
            live = self._rounds.get(plan_hash(message.plan))
            if live is None:
                signed = await self._desk.sign(message)
                if signed is None:
                    return
                plan, stored = signed
                live = await self._live(plan, stored)
                self._rounds[stored.plan_hash] = live
                self._forget_old()
            await self._performer.feed(live, Reminded())

    # --- what devices send ----------------------------------------------------------------------

    async def take_part(self, part: ReportPart) -> None:
        """Take a part of a device's report; answer a whole, stored one with a receipt.

        Raises:
            UnknownRoundError, UninvitedReportError, LateReportError, SecondReportError, ReportPartError:
                it does not belong here and now.
            MalformedMessageError, BadSignatureError, UnsealError, ShareLengthError, SeedError, UpdateError:
                the report is not one of this device for this plan.
        """
        async with self._performer.lock:
            live = next((one for one in self._rounds.values() if one.plan.round == part.round), None)
            if live is None:
                raise UnknownRoundError(f"this hub signed no plan of round {part.round}: the report is late")
            machine, device = live.machine, part.sender
            if device not in machine.terms.cohort:
                raise UninvitedReportError(
                    f"{device!r} is not in the cohort of round {part.round}: only invited devices report"
                )
            if machine.state is not State.SIGNED and device not in machine.reports:
                raise LateReportError(
                    f"the report of {device!r} came after round {part.round} had closed: raise patience_s "
                    "if many do"
                )
            data = live.assembler.add(device, part.index, part.count, part.data)
            if data is not None:
                await self._take_report(live, device, data)
                return
            credit = live.assembler.credit(device)
            if credit and credit % CREDIT_EVERY == 0:
                self._performer.receipt(live, device, b"", credit)

    async def _take_report(self, live: LiveRound, device: str, data: bytes | memoryview) -> None:
        known = live.machine.reports.get(device)
        if known is None:
            known = await self._store_report(live, device, data)
        elif name_report(data, device, live.receiver) != known:
            raise SecondReportError(f"{device!r} has reported already: the first report stands")
        self._performer.receipt(live, device, known)
        if live.machine.state is State.SIGNED:
            await self._performer.feed(live, ReportStored(device, known, self._performer.now_ms()))

    async def _store_report(self, live: LiveRound, device: str, data: bytes | memoryview) -> bytes:
        key = self._post.roster.party(device).key
        size = live.share_bytes(device)
        opened = await asyncio.to_thread(open_report, data, device, key, live.receiver, size)
        if device in live.whole:
            live.shares.check(opened.share)
        else:
            open_share_seed(opened.share)
        if device == self._settings.preview_device and device in live.whole:
            words = await asyncio.to_thread(_preview_share, live.plan, opened.share)
            log.info("share_preview", round=live.plan.round, device=device, share=words)
        await self._durably(
            self._store.put_report,
            live.plan_hash,
            device,
            opened.report_id,
            opened.ciphertext,
            self._performer.now_ms(),
        )
        await self._add_to_sum(live, device, opened.share)
        return opened.report_id

    async def _add_to_sum(self, live: LiveRound, device: str, share: bytes) -> None:
        """Add a durable report's share in full to the running sum, where there is room for one."""
        if device not in live.whole:
            return
        if live.running is None:
            held = sum(one.running.nbytes for one in self._rounds.values() if one.running is not None)
            # Memory that nobody has written to is not taken yet.
            running = await asyncio.to_thread(_running_sum, live.plan)
            if held + running.nbytes > RUNNING_BYTES:
                return
            live.running = running
        await asyncio.to_thread(live.running.add, device, share)

    # --- small help -----------------------------------------------------------------------------

    async def _live(self, plan: Plan, stored: StoredRound) -> LiveRound:
        shares = await asyncio.to_thread(_whole_shares, plan)
        return LiveRound.of(stored, self._name, self._settings.floors, shares)

    def _forget_old(self) -> None:
        idle = [key for key, live in self._rounds.items() if live.machine.idle]
        for key in idle[:-KEEP_FINISHED]:
            del self._rounds[key]


# numpy is imported when the first round needs it, and then in a thread.


def _whole_shares(plan: Plan) -> "WholeShares":
    from shoal_coordinator.hub.sums import whole_shares  # noqa: PLC0415 - see above

    return whole_shares(plan)


def _preview_share(plan: Plan, share: bytes) -> list[int]:
    from shoal_coordinator.hub.sums import preview_share  # noqa: PLC0415 - see above

    return preview_share(plan, share)


def _running_sum(plan: Plan) -> "RunningSum":
    from shoal_coordinator.running_sum import RunningSum  # noqa: PLC0415 - see above

    return RunningSum(plan)
