"""The coordinator: hears the fleet, opens rounds, keeps versions, answers the operator.

Everything happens in one queue, one thing at a time, and nothing in it waits for the broker: a message, a
timer and the end of a computation are all work in that queue.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from shoal_codecs.wire import messages as wire
from shoal_codecs.wire.heartbeat import Reading
from shoal_codecs.wire.plan import decode_plan
from shoal_codecs.wire.topics import Address
from shoal_coordinator import round_steps as on
from shoal_coordinator.device_words import check_counts, check_model, check_round, is_present
from shoal_coordinator.hub_desk import HubDesk, HubWord
from shoal_coordinator.inbox import Inbox
from shoal_coordinator.late_reports import settled_beside
from shoal_coordinator.operator_desk import OperatorDesk
from shoal_coordinator.organs import Organs
from shoal_coordinator.round_errors import RoundError
from shoal_coordinator.round_opener import RoundOpener
from shoal_coordinator.round_parts import Outcome, RunnerParts, personal_accuracy, totals
from shoal_coordinator.round_runner import RoundRunner
from shoal_coordinator.status_board import StatusBoard, fleet_view

log = structlog.get_logger()
TICK_S = 1.0
REFILL_WORD_S = 2.0
HUB_WORDS = HubWord.__args__


class CoordinatorService:
    """One coordinator; ``run`` keeps it going until cancelled."""

    def __init__(self, organs: Organs) -> None:
        self.organs = organs
        self.inbox = Inbox(organs.link, organs.post, self._receive)
        self.runner = RoundRunner(self._runner_parts())
        self.hubs = HubDesk(organs.roster, self.runner, organs.announcer, organs.certificates)
        self.opener = RoundOpener(
            organs, self.runner, self.hubs, self.inbox.put, self._finished, self._changed
        )
        self.operators = OperatorDesk(organs, self.runner, self._look)
        self.board = StatusBoard(
            organs.post.topics.coordinator("status"),
            organs.announcer,
            organs.shelf,
            lambda: fleet_view(organs, self.runner, self.hubs.rows()),
            organs.status_s,
        )
        if organs.releases is not None:
            organs.releases.on_change = self.board.changed

    async def run(self) -> None:
        """Serve until cancelled; the round under way stays stored and goes on at the next start."""
        organs = self.organs
        mode = organs.opening.settings.mode
        await self.inbox.subscribe(reports=mode != "hubs", single=mode == "single")
        organs.link.on_connected(self._connected)
        organs.shelf.on_refill(self._refilled)
        await self._resume()
        link = asyncio.create_task(organs.link.run())
        deciding = [
            asyncio.create_task(self.inbox.run()),
            asyncio.create_task(self.board.run()),
            asyncio.create_task(self._tick()),
        ]
        try:
            done, _ = await asyncio.wait([link, *deciding], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.opener.close()
            # First who decides: what they would still begin, nobody would wait for.
            await _ended(*deciding)
            await self.runner.close()
            await organs.announcer.close()
            await organs.link.close()
            await _ended(link)

    # --- rounds ---------------------------------------------------------------------------------

    async def _resume(self) -> None:
        """Go on with the round that an earlier process left, or take down what is left of the last."""
        organs = self.organs
        left = await organs.ledger.unfinished()
        if organs.late is not None:
            present = decode_plan(left[0].plan).round if left else 0
            settled = await asyncio.to_thread(settled_beside, organs.models.newest, organs.blobs)
            await organs.late.restore(settled, present)
        if left is not None:
            snapshot, candidate = left
            organs.models.candidate = candidate
            log.info("round resumed", state=snapshot.state.value)
            await self.runner.resume(snapshot)
        elif organs.ledger.rows:
            topic = organs.post.topics.round(organs.ledger.rows[-1].round)
            organs.announcer.spawn(lambda: organs.shelf.remove(topic))
        self._prune()
        self.board.changed()

    def _prune(self) -> None:
        """Let go of the files of versions that nobody needs any more."""
        organs = self.organs
        newest, first_step = organs.models.newest.number, organs.models.first_step
        organs.announcer.spawn(lambda: organs.pruner.prune(newest, first_step), "prune")

    def _changed(self) -> None:
        self.board.changed()

    def _look(self) -> None:
        self.inbox.put(self.opener.consider)

    async def _finished(self, outcome: Outcome) -> None:
        """Say how a round ended, and see to the next."""
        organs = self.organs
        await organs.bytes.save()
        now_ms, version = organs.clock_ms(), outcome.version
        self.hubs.forget_parts()
        self.hubs.remember_end(outcome.plan_hash, outcome.round, outcome.reason)
        if version is None:
            wait_ms = organs.schedule.aborted(now_ms, refused=outcome.refused)
            due = organs.schedule.wait_ms(organs.models.newest.number, now_ms) is not None
            organs.announcer.event(
                "round.aborted",
                f"round {outcome.round} aborted: {outcome.reason}"
                + (f"; the next in {wait_ms / 1000:g} s" if due else ""),
                round=outcome.round,
                reason=outcome.reason,
            )
        else:
            organs.schedule.committed(now_ms)
            organs.fleet.know_version(version.model_id, version.number)
            self._prune()
            organs.fleet.took_part(outcome.members)
            await organs.privacy.book.took_part(outcome.plan_hash, outcome.members)
            examples, accuracy, loss = totals(outcome)
            personal, own_accuracy = personal_accuracy(outcome)
            organs.announcer.event(
                "round.committed",
                f"round {outcome.round} made version {version.number} of {len(outcome.members)} devices"
                # Under noise nobody evaluates in clear.
                + (f", accuracy {accuracy:.3f}" if examples else "")
                + (f", {own_accuracy:.3f} with {personal} models of their own" if personal else ""),
                round=outcome.round,
                version=version.number,
                devices=len(outcome.members),
                examples=examples,
                **({"accuracy": accuracy, "loss": loss} if examples else {}),
                **({"personal_accuracy": own_accuracy, "personal_devices": personal} if personal else {}),
                seconds=outcome.seconds,
            )
        await self.operators.skip_if_wanted(outcome)
        # Where nothing is evaluated in clear, no word of a device follows that would show it.
        self.board.changed()
        self._look()

    # --- words ----------------------------------------------------------------------------------

    async def _receive(self, address: Address, message: wire.AnyMessage) -> None:
        try:
            await self._take(address, message)
        finally:
            self.board.changed()

    async def _take(self, address: Address, message: wire.AnyMessage) -> None:
        match message:
            case wire.Heartbeat():
                await self._heartbeat(message)
            case wire.DeviceStatus():
                await self._device_status(message)
            case wire.Reply() | wire.Evaluated() | wire.ReportPart():
                await self._round_word(message)
            case wire.BlobWanted() | wire.InstallReport():
                await self._release_word(message)
            case wire.Prekeys():
                self.organs.prekeys.hear(message)
                await self.opener.consider()
            case wire.SingleShares() | wire.SingleConsent() | wire.SingleUnmask():
                await self.runner.hear_single(message)
            case wire.HubStatus():
                await self._hub_status(message)
            case wire.OperatorCommand():
                await self.operators.hear(message)
            case _ if isinstance(message, HUB_WORDS) and address.kind == "hubs":
                await self.hubs.hear(message)
                if isinstance(message, wire.RoundAbandoned):
                    await self.opener.consider()
            case _:
                log.debug("nothing to do", message=type(message).__name__, sender=message.sender)

    async def _round_word(self, message: wire.Reply | wire.Evaluated | wire.ReportPart) -> None:
        match message:
            case wire.Reply(accepted=accepted):
                with_noise = await self.organs.privacy.hear(message)
                if with_noise and not is_present(self.runner, message.round, message.plan_id):
                    # Late for the round, and still worth knowing for the budget.
                    return
                late = self.organs.late
                if late is not None and late.has(message.round):
                    if not accepted:
                        late.free(message.sender, 0)
                        self.organs.fleet.replied(
                            message.sender, message.round, accepted=False, reason=message.reason
                        )
                    return
                check_round(self.runner, message)
                await self.runner.feed(on.DeviceReplied(message.sender, accepted, message.reason[:200]))
                self.organs.fleet.replied(
                    message.sender, message.round, accepted=accepted, reason=message.reason
                )
            case wire.Evaluated():
                await self._evaluated(message)
            case wire.ReportPart():
                await self.runner.take_report(message.sender, message)

    async def _release_word(self, message: wire.BlobWanted | wire.InstallReport) -> None:
        releases = self.organs.releases
        match message:
            case wire.BlobWanted(digest=digest):
                if not self.organs.models.want(digest) and releases is not None:
                    await releases.blob_wanted(digest)
            case wire.InstallReport():
                self.organs.fleet.installed(message)
                if releases is not None:
                    await releases.handle_report(message.sender, message)

    async def _hub_status(self, message: wire.HubStatus) -> None:
        changed, restarted = self.hubs.hear_status(message)
        if restarted:
            self.organs.schedule.something_changed()
        if changed:
            word = "online" if message.online else "offline"
            self.organs.announcer.event(f"hub.{word}", f"{message.sender} is {word}", hub=message.sender)
        await self.opener.consider()

    async def _heartbeat(self, message: wire.Heartbeat) -> None:
        organs, device = self.organs, message.sender
        view = await organs.fleet.hear_heartbeat(message, organs.clock_ms())
        if view is None or not view.trusted:
            return
        if Reading.SENT in message.readings and Reading.RECEIVED in message.readings:
            organs.traffic.stood_at(device, view.number(Reading.SENT), view.number(Reading.RECEIVED))
        organs.bytes.heard(view, organs.clock_ms())
        plan = self.runner.plan
        if organs.late is not None and device in organs.late.busy:
            organs.late.free(device, view.number(Reading.ROUND))
        if plan is not None and device in plan.cohort and view.number(Reading.ROUND) == plan.round:
            with contextlib.suppress(RoundError):
                await self.runner.feed(on.DeviceShows(device))
        if organs.releases is not None:
            await organs.releases.device_seen(view)
        await self.opener.consider()

    async def _device_status(self, message: wire.DeviceStatus) -> None:
        organs, device = self.organs, message.sender
        has_declined = organs.fleet.has_declined(device)
        changed, restarted = organs.fleet.hear_status(message, organs.clock_ms())
        if restarted and has_declined:
            organs.schedule.something_changed()
        if restarted:
            organs.privacy.started(device)
        plan = self.runner.plan
        if plan is not None and device in plan.cohort and (changed or restarted):
            event = on.DeviceBack(device) if message.online else on.DeviceGone(device)
            with contextlib.suppress(RoundError):
                await self.runner.feed(event)
        await self.opener.consider()

    async def _evaluated(self, message: wire.Evaluated) -> None:
        check_counts(message)
        organs = self.organs
        check_model(organs.models, message.model_id)
        organs.fleet.evaluated(message)
        organs.bytes.counted(message.sender, message.sent, message.received, organs.clock_ms())
        if not is_present(self.runner, message.round):
            return
        candidate = organs.models.candidate
        if candidate is not None and message.model_id == candidate.model_id:
            organs.traffic.evaluated(message.sender, message.sent, message.received)
            own = message.personal[0] if message.personal else None
            counts = on.Evaluation(message.examples, message.correct, message.loss_sum, own)
            await self.runner.feed(on.DeviceEvaluated(message.sender, counts))

    # --- time and the broker --------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.inbox.put(self._second)

    async def _second(self) -> None:
        organs = self.organs
        now_ms = organs.clock_ms()
        if not organs.link.is_connected:
            return
        plan = self.runner.plan
        for device in organs.fleet.silent(now_ms):
            self.board.changed()
            if plan is not None and device in plan.cohort:
                with contextlib.suppress(RoundError):
                    await self.runner.feed(on.DeviceGone(device))
        organs.fleet.inquire(now_ms)
        if organs.releases is not None:
            await organs.releases.tick(now_ms)

    async def _connected(self, _session_present: bool) -> None:  # noqa: FBT001 - the callback's shape
        self._look()

    async def _refilled(self, count: int) -> None:
        async def tell() -> None:
            # Whoever listens has lost the broker too, and its session with it: the word waits for them.
            await asyncio.sleep(REFILL_WORD_S)
            self.organs.announcer.event(
                "broker.refilled",
                f"the broker had lost its retained messages: {count} put back",
                topics=count,
            )

        self.organs.announcer.spawn(tell, "broker.refilled")

    def _runner_parts(self) -> RunnerParts:
        organs = self.organs

        def enqueue(work: Callable[[], Awaitable[None]]) -> None:
            self.inbox.put(work)
            self.board.changed()

        return RunnerParts(
            identity=organs.identity,
            roster=organs.roster,
            topics=organs.post.topics,
            announcer=organs.announcer,
            shelf=organs.shelf,
            blobs=organs.blobs,
            models=organs.models,
            ledger=organs.ledger,
            privacy=organs.privacy.book,
            told=organs.told,
            fleet=organs.fleet.registry,
            folder=organs.folder,
            timings=organs.timings,
            server=organs.server,
            stability=organs.stability,
            controls=organs.controls,
            late=organs.late,
            certificates=organs.certificates,
            enqueue=enqueue,
            clock_ms=organs.clock_ms,
            is_connected=lambda: organs.link.is_connected,
            finished=self._finished,
            levels=organs.levels.models,
        )


async def _ended(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
