"""Carries out what the round machine decides: one round at a time, persisted before it is announced."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import structlog

from shoal_codecs.secagg.errors import SecAggError
from shoal_codecs.security.errors import SecurityError
from shoal_codecs.transport.errors import BlobStorageError
from shoal_codecs.updates.errors import UpdateError
from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.errors import WireError
from shoal_codecs.wire.hubs import HubPromise
from shoal_codecs.wire.plan import Plan, encode_plan, plan_hash, plan_signing_bytes
from shoal_codecs.wire.single import Prekey
from shoal_coordinator import round_steps as on
from shoal_coordinator.aggregation import (
    Candidate,
    Server,
    aggregate_reports,
    aggregate_sums,
    aggregate_words,
    unmoved,
)
from shoal_coordinator.algorithms.stability import middle_loss
from shoal_coordinator.chains import ModelVersion, with_step
from shoal_coordinator.late_reports import LateReports
from shoal_coordinator.plain import PlainCollector, round_private
from shoal_coordinator.round import RoundMachine
from shoal_coordinator.round_errors import AggregationError, RoundError, UnstableRoundError
from shoal_coordinator.round_parts import Outcome, RunnerParts
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
            self._parts.announcer.receipt(
                device,
                wire.Receipt,
                round=part.round,
                plan_hash=late.plan_hash(part.round),
                report_id=stored.report_id,
                credit=part.count,
            )
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
        self._parts.announcer.receipt(
            device,
            wire.Receipt,
            round=machine.facts.plan.round,
            plan_hash=self.plan_hash,
            report_id=stored.report_id,
            credit=part.count,
        )
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
        plan, announcer = machine.facts.plan, self._parts.announcer
        ends: dict[str, Any] = {"round": plan.round, "plan_hash": self.plan_hash}
        match action:
            case on.Persist(snapshot):
                await self._parts.ledger.save(plan.round, snapshot, self._parts.models.candidate)
            case on.AskReveal(hubs):
                self._ask_reveal(machine, hubs)
            case on.ProposePlan(hubs):
                await self._propose(machine, hubs)
            case on.PublishPlan(signatures):
                self._publish_plan(machine, signatures)
            case on.Invite(devices):
                await self._parts.privacy.invited(plan, self.plan_hash, devices)
                self._invite(plan, devices)
            case on.Aggregate():
                self._computing = asyncio.create_task(self._aggregate(machine, action))
            case on.AskEvaluation(devices):
                await self._ask_evaluation(machine, devices)
            case on.Withdraw(hubs, reason):
                log.warning("round given up", reason=reason, waiting_for=list(hubs))
                for hub in hubs:
                    announcer.hub(hub, wire.RoundAborted, **ends, reason=reason)
            case on.Commit(members, evaluations, unstable):
                await self._finish(machine, members=members, evaluations=evaluations, unstable=unstable)
            case on.Abort(reason, cohort):
                await self._finish(machine, reason=reason, cohort=cohort)

    def _ask_reveal(self, machine: RoundMachine, hubs: tuple[str, ...]) -> None:
        plan, promises = machine.facts.plan, machine.facts.promises
        for hub in hubs:
            self._parts.announcer.hub(
                hub, wire.RevealWanted, task=plan.task, base=plan.base, promises=promises
            )

    async def _propose(self, machine: RoundMachine, hubs: tuple[str, ...]) -> None:
        plan, data, book = machine.facts.plan, machine.facts.plan_bytes, self._parts.certificates
        await book.propose(data)
        for hub in hubs:
            self._parts.announcer.hub(
                hub,
                wire.PlanProposal,
                plan=data,
                signature=self._own_signature(machine),
                certificates=book.certificates(plan.task, plan.base),
            )

    def _own_signature(self, machine: RoundMachine) -> bytes:
        return self._parts.identity.sign(plan_signing_bytes(machine.facts.plan_bytes))

    def _publish_plan(self, machine: RoundMachine, signatures: dict[str, bytes]) -> None:
        parts, plan = self._parts, machine.facts.plan
        topic = parts.topics.round(plan.round)
        signed = {parts.identity.name: self._own_signature(machine), **signatures}
        payload = parts.announcer.encoded(
            topic,
            wire.PlanNotice,
            plan=machine.facts.plan_bytes,
            signatures=signed,
            certificates=parts.certificates.certificates(plan.task, plan.base),
            prekeys=self._single.prekeys if self._single is not None else (),
        )
        parts.announcer.spawn(lambda: parts.shelf.put(topic, payload))

    def _invite(self, plan: Plan, devices: tuple[str, ...]) -> None:
        models, fleet = self._parts.models, self._parts.fleet
        for device in devices:
            self._parts.announcer.device(
                device,
                wire.Invitation,
                round=plan.round,
                plan_hash=self.plan_hash,
                task=models.task,
                model=models.offer(models.newest, fleet.model_held(device)),
                source=models.source,
                correction=models.control,
            )

    async def _ask_evaluation(self, machine: RoundMachine, devices: tuple[str, ...]) -> None:
        models, fleet = self._parts.models, self._parts.fleet
        candidate = models.candidate
        if candidate is None:
            return
        for device in devices:
            held = fleet.model_held(device)
            # A member has trained on the base, whatever its last heartbeat said.
            offer = models.offer(candidate, held if held == candidate.model_id else candidate.parent[:8])
            self._parts.announcer.device(
                device, wire.Evaluate, round=machine.facts.plan.round, task=models.task, model=offer
            )
        for device in devices:
            if not fleet.is_online(device):
                self._parts.enqueue(partial(self.feed, on.DeviceGone(device)))

    # --- candidate and end ----------------------------------------------------------------------

    async def _aggregate(self, machine: RoundMachine, work: on.Aggregate) -> None:
        event: on.RoundEvent
        fault: Exception | None = None
        try:
            candidate = await asyncio.to_thread(self._checked, machine, work)
            self._parts.models.candidate = await self._kept(candidate)
            self._say_what_is_odd(candidate)
            await self._learn(machine.facts.plan, candidate)
            event = on.Aggregated()
        except (RoundError, UpdateError) as error:
            event = on.AggregationFailed(f"{type(error).__name__}: {error}")
        except Exception as error:  # noqa: BLE001 - raised again where it ends the process
            # This machine's fault, not the round's: the hubs repeat their sums until it is mended.
            fault = error

        async def tell() -> None:
            if fault is not None:
                raise fault
            if self.machine is machine:
                await self.feed(event)

        self._parts.enqueue(tell)

    async def _kept(self, candidate: Candidate) -> ModelVersion:
        """Write a candidate's files and return it as the version after the newest."""
        blobs, newest = self._parts.blobs, self._parts.models.newest
        whole, step, state = [
            await asyncio.to_thread(blobs.put, data) if data else None
            for data in (candidate.data, candidate.step, candidate.state)
        ]
        if whole is None:
            raise AggregationError("a version without weights: report this as a defect")
        version = ModelVersion(
            newest.number + 1,
            candidate.digest,
            whole,
            newest.digest,
            step,
            state=state,
            update_norm=candidate.update_norm,
        )
        return with_step(version, blobs)

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

    async def _revert(self, plan: Plan, reason: str) -> None:
        """Put the base, but for a trifle, in the place of a candidate that is no good."""
        parts = self._parts
        base = await asyncio.to_thread(parts.blobs.read, parts.models.newest.whole.name)
        made = await asyncio.to_thread(lambda: unmoved(plan, base, reason, self._server()))
        self._drop_candidate()
        parts.models.candidate = await self._kept(made)
        self._say_what_is_odd(made)

    def _say_what_is_odd(self, candidate: Candidate) -> None:
        announcer = self._parts.announcer
        if candidate.fault:
            announcer.event("round.unmoved", f"the model stays as it is: {candidate.fault}")
        if candidate.bounded:
            announcer.event(
                "round.bounded", "the sum was longer than honest devices can make it; it was shortened"
            )

    async def _learn(self, plan: Plan, candidate: Candidate) -> None:
        """Keep what the round's further coordinates tell, and say it with the error that noise adds."""
        parts, told = self._parts, candidate.told
        newest = parts.models.newest.number
        following = await parts.told.learn(newest + 1, plan.codec.clip_norm, told)
        fields: dict[str, float] = {"round": plan.round, "version": newest}
        words = []
        for name, (value, error) in told.by_name().items():
            fields |= {name: value, f"{name}_error": error}
            words.append(f"{name} {value:.3f} +- {error:.3f}")
        if told.clipped is not None:
            fields["clip_norm"] = following
        if words:
            parts.announcer.event("round.told", f"version {newest} with noise: {', '.join(words)}", **fields)

    def _checked(self, machine: RoundMachine, work: on.Aggregate) -> Candidate:
        """Return the candidate, or in the shared modes the base in its place where it is out of bounds.

        Raises:
            UnstableRoundError: it is, and the base can be trained on again.
        """
        plan, made = machine.facts.plan, self._compute(machine, work)
        fault = self._parts.stability.norm_fault(made.update_norm)
        if not fault:
            return made
        if not plan.shared:
            raise UnstableRoundError(fault)
        base = self._parts.blobs.read(self._parts.models.newest.whole.name)
        return replace(unmoved(plan, base, fault, self._server()), told=made.told)

    def _compute(self, machine: RoundMachine, work: on.Aggregate) -> Candidate:
        parts, plan = self._parts, machine.facts.plan
        base = parts.blobs.read(parts.models.newest.whole.name)
        source = parts.blobs.read(plan.codec.source.hex()) if plan.codec.source else b""
        server = self._server()
        if self._single is not None and self._collector is not None:
            try:
                words = self._single.unmasked(self._collector.vector_sum(work.members))
                return aggregate_words(plan, base, words, server, source, len(work.members), parts.levels)
            except (SecurityError, SecAggError, UpdateError, WireError, RoundError) as error:
                # Devices have opened masks on this base and do so once.
                return unmoved(plan, base, f"{type(error).__name__}: {error}", server)
        if self._collector is not None:
            shares = self._collector.shares(work.members)
            late = parts.late.shares(work.late, parts.models.newest.number) if parts.late else []
            return aggregate_reports(plan, base, shares, server, parts.levels, late)
        private = parts.identity.sealing_private()
        try:
            return aggregate_sums(
                plan,
                self.plan_hash,
                base,
                work.set_digest,
                work.sums,
                private,
                server,
                source,
                len(work.members),
                parts.levels,
            )
        except (SecurityError, SecAggError, UpdateError) as error:
            return unmoved(plan, base, f"{type(error).__name__}: {error}", server)

    def _server(self) -> Server:
        """Return how the model moves from the newest version; blocking."""
        parts, newest = self._parts, self._parts.models.newest
        memory = b""
        if newest.state is not None:
            try:
                memory = parts.blobs.read(newest.state.name)
            except BlobStorageError as error:
                log.warning("algorithm begins anew", version=newest.number, remedy=str(error))
        return parts.server.at(newest.number, memory)

    def _drop_candidate(self) -> None:
        """Forget a candidate whose round was aborted, and its files."""
        parts, candidate = self._parts, self._parts.models.candidate
        parts.models.discard()
        kept = parts.models.newest.state
        for ref in (candidate.whole, candidate.step, candidate.state) if candidate else ():
            if ref is not None and ref != kept and not parts.models.uses(ref):
                parts.blobs.drop(ref.name)

    async def _finish(
        self,
        machine: RoundMachine,
        *,
        members: tuple[str, ...] = (),
        evaluations: Mapping[str, on.Evaluation] | None = None,
        reason: str = "",
        cohort: tuple[str, ...] = (),
        unstable: str = "",
    ) -> None:
        parts, plan = self._parts, machine.facts.plan
        if unstable:
            await self._revert(plan, unstable)
        number = plan.round
        outcome = Outcome(
            round=number,
            plan_hash=self.plan_hash,
            version=parts.models.candidate if members else None,
            members=members,
            evaluations=evaluations or {},
            seconds=(parts.clock_ms() - self.opened_ms) / 1000,
            reason=reason,
            cohort=cohort,
        )
        await parts.ledger.close(outcome)
        ends: dict[str, Any] = {"round": number, "plan_hash": self.plan_hash}
        # A plan that was never made cannot be given up.
        for hub in machine.facts.hubs if self.plan_hash else ():
            if outcome.version is not None:
                parts.announcer.hub(hub, wire.RoundCommitted, **ends)
            else:
                parts.announcer.hub(hub, wire.RoundAborted, **ends, reason=reason)
        for device in cohort:
            parts.announcer.device(device, wire.Cancel, **ends, reason=reason)
        parts.models.lead(None)
        if outcome.version is not None:
            parts.stability.took(outcome.version.update_norm, middle_loss(outcome.evaluations))
            parts.models.promote(outcome.version)
        else:
            self._drop_candidate()
        topic = parts.topics.round(number)
        parts.announcer.spawn(lambda: parts.shelf.remove(topic))
        if self._collector is not None:
            await self._part_with(self._collector, machine, outcome)
        if plan.mode == "single":
            await asyncio.to_thread(self._single_files(plan).clear)
        await parts.finished(outcome)
