"""Carries out what the round machine decides: one round at a time, persisted before it is announced."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

import structlog

from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.hubs import HubPromise
from shoal_codecs.wire.plan import Plan, encode_plan, plan_hash
from shoal_codecs.wire.single import Prekey
from shoal_coordinator import round_steps as on
from shoal_coordinator.algorithms.stability import middle_loss
from shoal_coordinator.candidates import CandidateMaker, Harvest
from shoal_coordinator.late_reports import LateReports
from shoal_coordinator.plain import PlainCollector, round_private
from shoal_coordinator.round import RoundMachine
from shoal_coordinator.round_parts import Outcome, RunnerParts
from shoal_coordinator.round_words import RoundWords
from shoal_coordinator.single_desk import DeviceWord, SingleDesk
from shoal_coordinator.single_files import SingleFiles

log = structlog.get_logger()


class RoundRunner:
    """The present round; ``machine`` is None between rounds."""

    def __init__(self, parts: RunnerParts) -> None:
        self._parts = parts
        self.machine: RoundMachine | None = None
        self.opened_ms = 0
        self._hashed = (b"", b"")
        self._collector: PlainCollector | None = None
        self._single: SingleDesk | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._computing: asyncio.Task[None] | None = None
        self._words = RoundWords(parts)
        self._candidates = CandidateMaker(parts)

    @property
    def plan(self) -> Plan | None:
        """The present round's plan."""
        return self.machine.facts.plan if self.machine else None

    @property
    def plan_hash(self) -> bytes:
        """The hash of the present round's plan, nothing while it is not made."""
        machine = self.machine
        if machine is None or machine.facts.promises:
            return b""
        if self._hashed[0] is not machine.facts.plan_bytes:
            self._hashed = (machine.facts.plan_bytes, plan_hash(machine.facts.plan_bytes))
        return self._hashed[1]

    @property
    def phase(self) -> str:
        """The machine's state in a word."""
        return self.machine.state.value if self.machine else "idle"

    async def open(
        self,
        plan: Plan,
        promises: tuple[HubPromise, ...] = (),
        prekeys: tuple[Prekey, ...] = (),
    ) -> None:
        """Begin the round of ``plan``, which lacks the nonces of the hubs that made ``promises``.

        ``prekeys`` are the key bundles that a plan of mode ``single`` names.
        """
        self._set_up(encode_plan(plan), None, promises)
        if plan.mode == "single":
            # Whoever has opened masks on this base does not answer it again: then it can be skipped.
            await self._parts.certificates.propose(encode_plan(plan))
            await asyncio.to_thread(self._single_files(plan).begin, prekeys)
            await self._begin_single(plan)
        await self._lead(plan)
        if self._parts.late is not None:
            await self._parts.late.begin(plan, encode_plan(plan), self._parts.models.newest.number)
        await self.feed(on.Begun())
        await self._count_late()
        if self._single is not None:
            await self._single.start(())

    async def resume(self, snapshot: on.RoundSnapshot) -> None:
        """Go on with a round that an earlier process left."""
        machine = self._set_up(snapshot.plan, snapshot)
        await self._lead(machine.facts.plan)
        stored = await self._collector.restore() if self._collector else ()
        if machine.facts.plan.mode == "single":
            # First, for the plan is published again with its key bundles beside it.
            await self._begin_single(machine.facts.plan)
        await self.feed(on.Restored())
        if machine.facts.plan.mode == "single":
            await self._resume_single(machine, tuple(report.device for report in stored))
            return
        for report in stored:
            if self.machine is machine and machine.state is on.RoundState.COLLECTING:
                await self.feed(on.ReportStored(report.device))
        await self._count_late()

    async def _resume_single(self, machine: RoundMachine, stored: tuple[str, ...]) -> None:
        if machine.state is not on.RoundState.COLLECTING:
            # The version is made: nothing is to be opened any more.
            self._single = None
            return
        if self._single is None:
            await self.feed(on.GivenUp("the round's key bundles are lost: restore the coordinator's folder"))
            return
        await self._single.start(stored)

    async def _begin_single(self, plan: Plan) -> None:
        parts, files = self._parts, self._single_files(plan)
        prekeys = await asyncio.to_thread(files.prekeys)
        if len(prekeys) == len(plan.cohort):
            self._single = SingleDesk(
                parts,
                plan,
                self.plan_hash,
                prekeys=prekeys,
                files=files,
                private=round_private(parts.identity, plan.hubs[0].nonce),
                feed=self.feed,
            )

    def _single_files(self, plan: Plan) -> SingleFiles:
        return SingleFiles(self._parts.folder / "single" / f"{plan.round}.words")

    async def hear_single(self, message: DeviceWord) -> None:
        """Mode ``single``: take a device's shares, consent or opening.

        Raises:
            SingleError, WireError, SecurityError: it does not fit the round.
        """
        if self._single is not None:
            await self._single.hear(message)

    async def feed(self, event: on.RoundEvent) -> None:
        """Give the machine an event and do what it says.

        Raises:
            RoundError: the event has no place in the round.
        """
        machine = self.machine
        if machine is None:
            return
        for action in machine.handle(event, self._parts.clock_ms()):
            await self._perform(machine, action)
        if self._single is not None and isinstance(event, on.DeviceReplied) and not event.accepted:
            await self._single.out(event.device)
        if machine.finished:
            self._tear_down()
        else:
            self._set_timer(machine)

    async def _count_late(self) -> None:
        """Let reports to earlier rounds that nothing has come of yet count for the present one."""
        for device, number in self._parts.late.waiting if self._parts.late is not None else ():
            if self.machine is None or self.machine.state is not on.RoundState.COLLECTING:
                return
            await self.feed(on.LateStored(device, number))

    async def _take_late(self, late: LateReports, device: str, part: wire.ReportPart) -> None:
        """Take a part of a report to an earlier round; answer a whole one with a receipt."""
        stored = await late.take(device, part)
        if stored is not None:
            self._words.receipt(part, late.plan_hash(part.round), device, stored.report_id)
            await self._count_late()

    async def take_report(self, device: str, part: wire.ReportPart) -> None:
        """Modes ``plain`` and ``single``: take a part of a report; answer a whole one with a receipt."""
        late = self._parts.late
        if late is not None and late.has(part.round):
            await self._take_late(late, device, part)
            return
        machine, collector, single = self.machine, self._collector, self._single
        if machine is None or collector is None or (single is not None and not single.takes(device)):
            return
        stored = await collector.take(device, part)
        if stored is None:
            return
        self._words.receipt(part, self.plan_hash, device, stored.report_id)
        if machine.state is on.RoundState.COLLECTING or single is None:
            await self.feed(on.ReportStored(device))
        if single is not None:
            await single.stored(device)

    async def close(self) -> None:
        """Stop timers and computations; the round stays as it is stored."""
        if self._single is not None:
            self._single.close()
        if self._timer is not None:
            self._timer.cancel()
        if self._computing is not None:
            self._computing.cancel()
            await asyncio.gather(self._computing, return_exceptions=True)

    # --- one round ------------------------------------------------------------------------------

    def _set_up(
        self,
        plan_bytes: bytes,
        snapshot: on.RoundSnapshot | None,
        promises: tuple[HubPromise, ...] = (),
    ) -> RoundMachine:
        parts = self._parts
        judge = parts.stability.loss_fault
        machine = self.machine = RoundMachine(plan_bytes, parts.timings, snapshot, promises, judge)
        plan = machine.facts.plan
        self.opened_ms = parts.clock_ms()
        self._collector = None
        if plan.mode in {"plain", "single"}:
            folder = parts.folder / plan.mode / str(plan.round)
            self._collector = PlainCollector(
                plan, self.plan_hash, parts.identity, parts.roster, folder, parts.levels
            )
        structlog.contextvars.bind_contextvars(round=plan.round, version=parts.models.newest.number)
        return machine

    async def _lead(self, plan: Plan) -> None:
        """Offer devices the step that the round's coordinates come from, if it has one."""
        parts = self._parts
        corrects = parts.controls if plan.training.correction else None
        control = corrects.of(parts.models.newest) if corrects else None
        parts.models.lead(parts.models.last_step if plan.codec.source else None, control)

    def _tear_down(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._single is not None:
            self._single.close()
        self.machine = self._collector = self._single = self._timer = None
        structlog.contextvars.unbind_contextvars("round")

    def _set_timer(self, machine: RoundMachine) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if machine.wake_ms is None:
            return
        delay = max(0, machine.wake_ms - self._parts.clock_ms()) / 1000

        async def tick() -> None:
            if self.machine is not machine:
                return
            if not self._parts.is_connected():
                # Nobody can answer while the broker is away; the round gets its time once it is back.
                self._arm(1.0, tick)
                return
            await self.feed(on.Tick())

        self._arm(delay, tick)

    def _arm(self, delay_s: float, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(delay_s, self._parts.enqueue, work)

    async def _perform(self, machine: RoundMachine, action: on.RoundAction) -> None:
        facts, words = machine.facts, self._words
        plan = facts.plan
        match action:
            case on.Persist(snapshot):
                await self._parts.ledger.save(plan.round, snapshot, self._parts.models.candidate)
            case on.AskReveal(hubs):
                words.ask_reveal(facts, hubs)
            case on.ProposePlan(hubs):
                await self._parts.certificates.propose(facts.plan_bytes)
                words.propose(facts, hubs)
            case on.PublishPlan(signatures):
                words.publish_plan(facts, signatures, self._single.prekeys if self._single else ())
            case on.Invite(devices):
                await self._parts.privacy.invited(plan, self.plan_hash, devices)
                words.invite(plan, self.plan_hash, devices)
            case on.Aggregate():
                self._computing = asyncio.create_task(self._aggregate(machine, action))
            case on.AskEvaluation(devices):
                self._ask_evaluation(plan, devices)
            case on.Withdraw(hubs, reason):
                log.warning("round given up", reason=reason, waiting_for=list(hubs))
                words.withdraw(plan, self.plan_hash, hubs, reason)
            case on.Commit(members, evaluations, unstable):
                await self._finish(machine, members=members, evaluations=evaluations, unstable=unstable)
            case on.Abort(reason, cohort, refused):
                await self._finish(machine, reason=reason, cohort=cohort, refused=refused)

    def _ask_evaluation(self, plan: Plan, devices: tuple[str, ...]) -> None:
        candidate = self._parts.models.candidate
        if candidate is None:
            return
        self._words.ask_evaluation(plan, candidate, devices)
        for device in devices:
            if not self._parts.fleet.is_online(device):
                self._parts.enqueue(partial(self.feed, on.DeviceGone(device)))

    # --- candidate and end ----------------------------------------------------------------------

    async def _aggregate(self, machine: RoundMachine, work: on.Aggregate) -> None:
        harvest = Harvest(machine.facts.plan, self.plan_hash, self._collector, self._single)
        event: on.RoundEvent | None = None
        fault: Exception | None = None
        try:
            event = await self._candidates.make(harvest, work)
        except Exception as error:  # noqa: BLE001 - raised again where it ends the process
            # The hubs repeat their sums until it is mended.
            fault = error

        async def tell() -> None:
            if fault is not None:
                raise fault
            if event is not None and self.machine is machine:
                await self.feed(event)

        self._parts.enqueue(tell)

    async def _part_with(self, collector: PlainCollector, machine: RoundMachine, outcome: Outcome) -> None:
        """Throw a round's reports away, or where rounds are asynchronous go on hearing those still out."""
        late, facts = self._parts.late, machine.facts
        if late is None:
            await collector.clear()
            return
        if facts.joined:
            # Also where nothing came of them, and of no other: they would make the next version as bad, for
            # ever, where they are enough for one.
            late.settle(tuple(sorted(facts.late)))
        if outcome.version is None:
            await collector.clear()
            return
        base = outcome.version.number - 1
        late.adopt(facts.plan, outcome.plan_hash, base, collector, facts.members)
        await late.forget_old(outcome.version.number, self._parts.clock_ms())

    async def _finish(
        self,
        machine: RoundMachine,
        *,
        members: tuple[str, ...] = (),
        evaluations: Mapping[str, on.Evaluation] | None = None,
        reason: str = "",
        cohort: tuple[str, ...] = (),
        refused: bool = False,
        unstable: str = "",
    ) -> None:
        parts, plan = self._parts, machine.facts.plan
        if unstable:
            await self._candidates.revert(plan, unstable)
        outcome = Outcome(
            round=plan.round,
            plan_hash=self.plan_hash,
            version=parts.models.candidate if members else None,
            members=members,
            evaluations=evaluations or {},
            seconds=(parts.clock_ms() - self.opened_ms) / 1000,
            reason=reason,
            cohort=cohort,
            refused=refused,
        )
        await parts.ledger.close(outcome)
        # A plan that was never made cannot be given up.
        self._words.ended(plan, machine.facts.hubs if self.plan_hash else (), outcome)
        parts.models.lead(None)
        if outcome.version is not None:
            parts.stability.took(outcome.version.update_norm, middle_loss(outcome.evaluations))
            parts.models.promote(outcome.version)
        else:
            self._candidates.drop()
        self._words.take_plan_down(plan)
        if self._collector is not None:
            await self._part_with(self._collector, machine, outcome)
        if plan.mode == "single":
            await asyncio.to_thread(self._single_files(plan).clear)
        await parts.finished(outcome)
