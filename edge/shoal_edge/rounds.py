"""Performs what the participant decides: one loop of events, the slow things as tasks beside it."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

from shoal_codecs.errors import ShoalError
from shoal_codecs.security.post import Post
from shoal_codecs.transport.link import Delivery, Link
from shoal_codecs.wire.errors import OutOfRoundError
from shoal_codecs.wire.messages import AnyMessage, Cancel, Evaluate, Invitation, PlanNotice, Receipt, Reply
from shoal_edge.config import EdgeSettings
from shoal_edge.errors import (
    PlanMissingError,
    UnexpectedEventError,
    WorkerError,
    WorkerRefusedError,
    fault_name,
)
from shoal_edge.evaluations import Evaluations
from shoal_edge.models import ModelKeeper
from shoal_edge.participant import Participant
from shoal_edge.plan_check import DeviceRules, check_plan, report_bytes_bound
from shoal_edge.privacy_guard import PrivacyGuard
from shoal_edge.report_sender import ReportSender
from shoal_edge.round_events import (
    Action,
    Cancelled,
    Deadline,
    EvaluateModel,
    Event,
    Failed,
    FetchModel,
    ForgetRound,
    Invited,
    Job,
    ModelReady,
    PersistJob,
    PersistReport,
    Phase,
    PlanArrived,
    ReceiptArrived,
    ReceiptTaken,
    Restored,
    SayReply,
    SealedReport,
    SendReport,
    ShareSecrets,
    StartFit,
    StopWork,
    SubscribePlan,
    TakeBundle,
    Trained,
    UnsubscribePlan,
)
from shoal_edge.single_rounds import SingleRounds
from shoal_edge.store import DeviceStore
from shoal_edge.training import Training
from shoal_edge.width import Width
from shoal_edge.worker_client import Worker

CLOCK_LOOK_S = 30.0
"""The plan's end is by the wall clock, which may be set meanwhile: looked at this often."""
PLAN_ID_BYTES = 8
REASON_CHARACTERS = 200

log = structlog.get_logger()


class Rounds:
    """The device's side of every round.

    ``say`` sends a message on the device's events topic, in order and without being waited for;
    ``note_fault`` hears the name of each fault, an empty one when a report is made; ``clock`` gives seconds
    since the epoch.
    """

    def __init__(
        self,
        *,
        settings: EdgeSettings,
        post: Post,
        link: Link,
        store: DeviceStore,
        worker: Worker,
        keeper: ModelKeeper,
        evaluations: Evaluations,
        guard: PrivacyGuard,
        width: Width,
        single: SingleRounds,
        say: Callable[[AnyMessage], None],
        on_phase: Callable[[Phase], None],
        note_fault: Callable[[str], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.participant = Participant()
        self._settings = settings
        self._post = post
        self._link = link
        self._store = store
        self._worker = worker
        self._keeper = keeper
        self._sender = ReportSender(post, link, settings.resend_s, note_fault)
        self._training = Training(
            settings=settings,
            identity=post.identity,
            store=store,
            worker=worker,
            keeper=keeper,
            guard=guard,
            width=width,
            single=single,
        )
        self._evaluations = evaluations
        self._guard = guard
        self._width = width
        self._single = single
        single.tell = self.tell
        single.fault = self._fault
        self._say = say
        self._on_phase = on_phase
        self._note_fault = note_fault
        self._clock = clock
        self._rules = DeviceRules(
            device=post.identity.name,
            fleet=post.topics.fleet,
            modes=frozenset(settings.modes),
            n_min=settings.n_min,
            slack_ms=int(settings.clock_slack_s * 1000),
            corrupt_share=settings.privacy.corrupt_share,
            norm_check=settings.norm_check,
            quiet=guard.is_quiet,
        )
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._invited_at = 0.0
        self._work: asyncio.Task[None] | None = None
        self._fit_work: asyncio.Task[None] | None = None

    @property
    def progress(self) -> int | None:
        """How far a fit is, in per cent; None between fits."""
        return self._training.progress

    # --- what comes in: handlers enqueue and return ---------------------------------------------

    def invited(self, message: Invitation) -> None:
        """Hear an invitation."""
        self._events.put_nowait(Invited(message, self._store.has_answered(message.plan_hash)))

    def cancelled(self, message: Cancel) -> None:
        """Hear that a round is over for this device."""
        self._events.put_nowait(Cancelled(message.plan_hash))

    def tell(self, event: Event) -> None:
        """Enqueue an event."""
        self._events.put_nowait(event)

    def receipt(self, hub: str, message: Receipt) -> None:
        """Hear a hub's receipt; one without a report id only grants credit."""
        if message.report_id:
            self._events.put_nowait(ReceiptArrived(message.plan_hash, hub, message.report_id))

    # --- the loop -------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take part in rounds until cancelled."""
        restored = self._store.restore()
        await self._single.forget_others(restored[0].plan_hash if restored else b"")
        if restored is not None:
            job, report = restored
            if report is not None:
                self._store.commit_pending(job.invitation.task.digest, job.plan_hash)
            log.info(
                "round_restored", round=job.round, version=job.invitation.model.version, sent=bool(report)
            )
            self.tell(Restored(job, report))
        try:
            while True:
                await self._handle(await self._next())
        finally:
            self._width.close()
            await self._sender.close()
            tasks = [task for task in (self._work, self._fit_work) if task is not None]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _handle(self, event: Event) -> None:
        if isinstance(event, Cancelled | ReceiptArrived) and self.participant.is_late(event):
            self._late(event)
            return
        try:
            actions = self.participant.handle(event)
        except UnexpectedEventError as error:
            self._note_fault(type(error).__name__)
            log.warning("unexpected_event", remedy=str(error))
            return
        self._on_phase(self.participant.phase)
        job = self.participant.job
        for action in actions:
            try:
                await self._perform(action)
            except ShoalError as error:
                if job is not None:
                    self._failed(job, error)
                return

    def _late(self, event: Cancelled | ReceiptArrived) -> None:
        # Honest parties repeat themselves too, so that this is no warning.
        name = OutOfRoundError.__name__
        self._post.refused[name] += 1
        word = "receipt" if isinstance(event, ReceiptArrived) else "cancel"
        log.info(
            "late_word",
            fault=name,
            word=word,
            plan=event.plan_hash.hex()[:16],
            remedy="dropped: this device is in no such round",
        )

    async def _next(self) -> Event:
        while True:
            job, remaining = self.participant.job, self._remaining_s()
            if job is not None and remaining <= 0:
                return Deadline(job.plan_hash)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if job is None else min(remaining, CLOCK_LOOK_S)):
                    return await self._events.get()

    def _remaining_s(self) -> float:
        job = self.participant.job
        if job is None:
            return 0.0
        if job.plan is None:
            return self._invited_at + self._settings.plan_wait_s - self._clock()
        return job.plan.closes_ms / 1000 - self._clock()

    async def _perform(self, action: Action) -> None:  # noqa: C901, PLR0912 - one line for each action
        match action:
            case SubscribePlan(job):
                await self._ask_for_plan(job)
            case UnsubscribePlan(number):
                await self._link.unsubscribe(self._post.topics.round(number))
            case SayReply(job, accepted, reason):
                self._reply(job, accepted=accepted, reason=reason)
            case TakeBundle(job, prekeys):
                await self._single.take_bundle(job, prekeys)
            case ShareSecrets(job, reported):
                await self._single.resume(job, reported=reported)
            case PersistJob(job):
                await asyncio.to_thread(self._store.persist_job, job)
            case FetchModel(job):
                self._start(job, self._fetch(job))
            case StartFit(job):
                self._stop_fit()
                self._fit_work = self._start(job, self._fit(job))
            case StopWork():
                self._stop_work()
            case PersistReport(job, report):
                await asyncio.to_thread(self._store.persist_report, job, report)
                self._store.commit_pending(job.invitation.task.digest, job.plan_hash)
                await self._single.masked(job)
                self._note_fault("")
            case SendReport(job, report, hubs):
                await self._debit(job, report)
                self._sender.send(job, report, hubs)
            case ReceiptTaken(hub):
                self._sender.taken(hub)
            case ForgetRound(plan_hash):
                await self._forget(plan_hash)
            case EvaluateModel(command):
                await self._ask_evaluation(command)

    # --- the actions ----------------------------------------------------------------------------

    async def _ask_evaluation(self, command: Evaluate) -> None:
        """Score the model that came of a round of this device's, and no other."""
        try:
            await asyncio.to_thread(self._store.permit_evaluation, command.round, command.model.digest)
        except ShoalError as error:
            self._post.refused[fault_name(error)] += 1
            log.warning("evaluation_refused", round=command.round, fault=fault_name(error), remedy=str(error))
            return
        self._evaluations.ask(command)

    async def _ask_for_plan(self, job: Job) -> None:
        self._invited_at = self._clock()
        topic = self._post.topics.round(job.round)

        async def take(delivery: Delivery) -> None:
            # An empty payload is the end of a retained plan.
            if delivery.payload:
                # A large cohort has many signatures to check.
                self.tell(await asyncio.to_thread(self._judge, job, delivery))

        await self._link.subscribe(topic, take)
        # The worker loads while plan and model come.
        warming = asyncio.create_task(self._worker.warm())
        warming.add_done_callback(_forget_failure)

    def _judge(self, job: Job, delivery: Delivery) -> PlanArrived | Failed:
        """Return the event of a plan that came: it holds, or why this device takes no part."""
        try:
            _, notice = self._post.open(delivery.topic, delivery.payload)
            if not isinstance(notice, PlanNotice):
                raise PlanMissingError(
                    f"a {type(notice).__name__} where a plan should be: see what writes on {delivery.topic}"
                )
            plan = check_plan(
                notice,
                job.invitation,
                roster=self._post.roster,
                rules=self._rules,
                answered=self._store.answered(job.invitation.task.digest, job.invitation.model.digest),
                now_ms=int(self._clock() * 1000),
            )
            self._guard.check(plan, job.plan_hash)
            self._single.check(job, plan, notice.prekeys)
            self._store.check_room(report_bytes_bound(plan))
        except ShoalError as error:
            return self._fault(job, error)
        return PlanArrived(job.plan_hash, plan, notice.plan, notice.prekeys)

    def _reply(self, job: Job, *, accepted: bool, reason: str) -> None:
        log.info(
            "round_accepted" if accepted else "round_declined",
            round=job.round,
            version=job.invitation.model.version,
            reason=reason,
        )
        self._say(
            self._post.compose(
                Reply,
                round=job.round,
                plan_id=job.plan_hash[:PLAN_ID_BYTES],
                accepted=accepted,
                reason=reason[:REASON_CHARACTERS],
                unsent=not accepted and self._guard.has_paid_nothing(job.plan_hash),
            )
        )

    def _start(self, job: Job, work: Coroutine[Any, Any, Event]) -> asyncio.Task[None]:
        self._work = asyncio.create_task(self._until_event(job, work))
        return self._work

    def _stop_work(self) -> None:
        """End a fetch at once and a fit between two steps; both leave the worker warm."""
        if self._work is not None:
            self._work.cancel()

    def _stop_fit(self) -> None:
        # One that still waits for its turn goes too: it would hold up every round after its own.
        if self._fit_work is not None:
            self._fit_work.cancel()

    async def _until_event(self, job: Job, work: Awaitable[Event]) -> None:
        """Run ``work`` and enqueue the event it ends in, a named fault included."""
        try:
            self.tell(await work)
        except ShoalError as error:
            self._keeper.forget_damaged(error, job.invitation.task.digest, job.invitation.model.digest)
            self._failed(job, error)
        except TimeoutError:
            self.tell(Failed(job.plan_hash, "task or model could not be fetched in time"))
        except Exception as error:  # a defect must not leave the round hanging
            log.exception("round_work_failed", round=job.round)
            self.tell(Failed(job.plan_hash, f"a defect of the agent: {type(error).__name__}"))

    async def _fetch(self, job: Job) -> Event:
        await self._training.fetch(job)
        return ModelReady(job.plan_hash)

    async def _fit(self, job: Job) -> Event:
        return Trained(job.plan_hash, await self._training.fit(job))

    async def _debit(self, job: Job, report: SealedReport) -> None:
        """Write down what the round costs: here, where every report passes before a byte of it leaves."""
        if job.plan is None:
            raise PlanMissingError("a report without its plan: report this as a defect")
        await asyncio.to_thread(self._guard.debit, job.plan, job.plan_hash, report.report_id)

    async def _forget(self, plan_hash: bytes) -> None:
        self._sender.stop()
        self._store.forget_round(plan_hash)
        await self._single.forget(plan_hash)

    def _failed(self, job: Job, error: ShoalError) -> None:
        self.tell(self._fault(job, error))

    def _fault(self, job: Job, error: ShoalError) -> Failed:
        name = fault_name(error)
        text = f"{name}: {error}"
        if self._guard.is_quiet and isinstance(error, WorkerError):
            # The worker has seen the data; its words may hold numbers of them.
            name = name if self._guard.metrics == "verdict" else WorkerRefusedError.__name__
            text = f"{name}: see this device's own log"
            log.warning("round_failed", round=job.round, fault=fault_name(error), remedy=str(error))
        if fault_name(error) != "FitCancelledError":
            self._note_fault(name)
        return Failed(job.plan_hash, text)


def _forget_failure(task: asyncio.Task[None]) -> None:
    # The request that needs the worker meets the same fault and names it.
    if not task.cancelled():
        task.exception()
